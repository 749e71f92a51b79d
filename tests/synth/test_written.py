"""The written format: what it says, every problem with its line, and that nothing breaks the reader."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import Problem
from pointsman.synth import written
from pointsman.synth.written import Item

ACTIONS = frozenset({"legal.review", "legal.draft", "cooking.recipe"})


def parse(text: str) -> tuple[tuple[Item, ...], list[Problem]]:
    problems: list[Problem] = []
    return written.parse(text, domain="legal", actions=ACTIONS, problems=problems, file="legal.txt"), problems


WHOLE = """
%% request review en mail
Subject: MSA

  Indented, and with a % sign. %% is fine inside a line.

%% conversation de agent
%% system
You are a paralegal.
%% user - smalltalk
Moin
%% assistant
Hallo!
%% user review
Was steht in Ziffer 9?
%% call open_file
{"path": "msa.txt",
 "page": 4}
%% call open_file
{"path": "annex.txt"}
%% tool
9. Liability ...
%% tool
Annex ...
%% assistant
Eine Haftungsgrenze.
%% user cooking.recipe abandons
egal, was koche ich heute?
%% assistant
Linsen.
%% user - closing history
danke, das war's
"""


def test_a_request_and_a_conversation() -> None:
    (request, talk), problems = parse(WHOLE)
    assert problems == []
    assert (request.language, request.form, request.line) == ("en", "mail", 2)
    assert request.messages[0]["content"] == "Subject: MSA\n\n  Indented, and with a % sign. %% is fine inside a line."
    assert [(turn.index, turn.work, set(turn.flags)) for turn in talk.turns] == [
        (1, None, {"smalltalk"}),
        (3, "legal.review", set()),
        (8, "cooking.recipe", {"abandons"}),
        (10, None, {"closing", "history"}),
    ]
    assert talk.works == {"legal.review", "cooking.recipe"}
    assert talk.text(talk.turns[0]) == "Moin"


def test_calls_in_a_row_are_one_message_and_results_answer_them_in_order() -> None:
    (_, talk), _ = parse(WHOLE)
    calls, first, second = talk.messages[4:7]
    assert [call["id"] for call in calls["tool_calls"]] == ["call_1", "call_2"]  # type: ignore[attr-defined]
    assert json.loads(calls["tool_calls"][0]["function"]["arguments"]) == {"path": "msa.txt", "page": 4}  # type: ignore[index]
    assert (first["tool_call_id"], second["tool_call_id"]) == ("call_1", "call_2")


def test_an_id_stays_when_items_before_it_come_and_go() -> None:
    (request, talk), _ = parse(WHOLE)
    (alone,), _ = parse(WHOLE[WHOLE.index("%% conversation") :])
    assert alone.id == talk.id != request.id
    assert talk.id.startswith("legal-")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("hello", 1, "text before any item"),
        ("%% request review en\nx", 1, "a request is"),
        ("%% request review en poem\nx", 1, "'poem' is no form"),
        ("%% request review english mail\nx", 1, "is no language"),
        ("%% request tax en mail\nx", 1, "'legal.tax' is no action"),
        ("%% request - en mail\nx", 1, "asks for something"),
        ("%% request review en mail\n\n", 1, "has no text"),
        ("%% request review en mail\nx\n%% assistant\ny", 3, "a request has one turn"),
        ("%% user review\nx", 1, "is in no conversation"),
        ("%% conversation\n%% user review\nx", 1, "a conversation is"),
        ("%% conversation en robot\n%% user review\nx", 1, "a conversation is"),
        ("%% conversation en\n%% assistant\nx", 1, "has no user turn"),
        ("%% conversation en\n%% user\nx", 2, "needs a label"),
        ("%% conversation en\n%% user - \nx", 2, "goes with the label"),
        ("%% conversation en\n%% user review closing\nx", 2, "goes with the label"),
        ("%% conversation en\n%% user review urgent\nx", 2, "'urgent' is no flag"),
        ("%% conversation en\n%% user - closing\nbye", 1, "asks for nothing"),
        ("%% conversation en\n%% user review\nx\n%% tool\ny", 4, "result of no call"),
        ("%% conversation en\n%% user review\nx\n%% call\n{}", 4, "names one tool"),
        ("%% conversation en\n%% user review\nx\n%% call t\n{path}", 4, "no JSON"),
        ("%% conversation en\n%% user review\nx\n%% narrator\ny", 4, "is not known"),
        ("%%\nx", 1, "`%% ?`"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, said: str) -> None:
    items, problems = parse(text + "\n%% request draft en command\nfine\n")
    assert [problem.line for problem in problems] == [line]
    assert said in problems[0].located()
    assert [item.works for item in items] == [{"legal.draft"}], "the rest is read"


_DIRECTIVES = st.sampled_from(
    ["%% request review en mail", "%% conversation en", "%% user review", "%% user - closing", "%% assistant",
     "%% call t", "%% tool", "%% system", "%%", "%% user", "%% conversation en agent", "text", "", "{}", '{"a": 1}']
)  # fmt: skip


@given(st.lists(st.one_of(_DIRECTIVES, st.text(max_size=20)), max_size=25))
def test_any_text_gives_items_or_problems(lines: list[str]) -> None:
    items, problems = parse("\n".join(lines))
    for item in items:
        assert item.turns
        for turn in item.turns:
            assert item.messages[turn.index]["role"] == "user"
            assert item.text(turn).strip()
    assert all(problem.line for problem in problems)
