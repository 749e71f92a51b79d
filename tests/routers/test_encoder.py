"""The embedded router: what it gets right, and that nothing it is given makes it wrong in another way."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import math
import re
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from pointsman import config
from pointsman.conversation import Conversation, Turn, read, trim
from pointsman.decision import Reason, choose
from pointsman.errors import RouterError, WeightsError
from pointsman.policy import Policy, PolicySet
from pointsman.routers import Scorer
from pointsman.routers.encoder import (
    MOST_TURNS,
    WEIGHTS,
    Calibration,
    CalibrationFile,
    Card,
    Encoder,
    Reader,
    Reading,
    Text,
    probabilities,
    read_card,
)

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the routing data is not beside this checkout")

HOME = PolicySet(
    [
        Policy(id="legal.summarization", description="Shorten or extract the key points of a legal document."),
        Policy(id="legal.drafting", description="Write contracts, clauses and other legal texts."),
        Policy(id="travel.booking", description="Book flights, trains and hotels."),
        Policy(id="cooking", description="Recipes, ingredients and how to prepare a meal."),
    ]
)

# Arch-Router (arXiv 2506.16655), Table 10, as printed.
CODING = PolicySet(
    Policy(id=id, description=description)
    for id, description in (
        ("code_generation", "Generate new code snippets, functions, or boiler-plate from user requirements."),
        ("code_explanation", "Explain what a piece of code does, including logic and edge cases."),
        ("bug_fixing", "Identify and fix errors or bugs in user-supplied code."),
        ("performance_optimization", "Suggest changes to make code faster, more scalable, or more readable."),
        ("api_help", "Assist with understanding or integrating external APIs and libraries."),
        ("programming_question", "Answer general programming theory or best-practice questions."),
    )
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load()


def said(*texts: str) -> Conversation:
    """A dialogue, the user speaking first and last."""
    roles = ("user", "assistant")
    return Conversation(turns=tuple(Turn(role=roles[at % 2], text=text) for at, text in enumerate(texts)))


def routed(encoder: Encoder, conversation: Conversation, policies: PolicySet) -> str | None:
    return choose(encoder.scores(conversation, policies), policies).policy


def examples(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(path)]


def policy_set(name: str) -> PolicySet:
    found = json.loads((DATA / "policies" / f"{name}.json").read_bytes())["policies"]
    return PolicySet(Policy(id=each["name"], description=each["description"]) for each in found)


def share(encoder: Encoder, rows: list[dict[str, Any]], policies: PolicySet) -> float:
    right = [
        routed(encoder, read(row["messages"][: turn["index"] + 1]), policies) == turn["policy"]
        for row in rows
        for turn in row["turns"]
    ]
    return sum(right) / len(right)


# --- what it gets right


@needs_data
def test_clinc150_with_all_policies_and_out_of_scope_turns(encoder: Encoder) -> None:
    rows = examples(DATA / "dev" / "clinc150.jsonl.gz")
    assert len(rows) == 2195
    assert share(encoder, rows, policy_set("clinc150")) >= 0.79


@needs_data
@pytest.mark.parametrize(
    ("name", "policies"), [("arena-hard", "general-assistant"), ("everyday-apps", "everyday-apps")]
)
def test_requests_to_a_language_model_are_hardly_ever_for_nobody(encoder: Encoder, name: str, policies: str) -> None:
    rows, on_offer = examples(DATA / "dev" / f"{name}.jsonl.gz"), policy_set(policies)
    nobody = [routed(encoder, read(row["messages"]), on_offer) is None for row in rows]
    assert sum(nobody) < 0.05 * len(rows)


@needs_data
def test_dialogues_of_several_turns(encoder: Encoder) -> None:
    rows = examples(DATA / "dev" / "sgd.jsonl.gz")[::8]
    assert share(encoder, rows, policy_set("sgd-dev")) >= 0.74


def case_study(encoder: Encoder, policies: PolicySet = CODING) -> list[tuple[str | None, str | None]]:
    (line,) = (ROOT / "examples" / "conversations" / "coding.jsonl").read_text().splitlines()
    row = json.loads(line)
    return [
        (turn["policy"], routed(encoder, read(row["messages"][: turn["index"] + 1]), policies)) for turn in row["turns"]
    ]


def test_case_study_greeting_and_thanks_go_to_the_default(encoder: Encoder) -> None:
    turns = case_study(encoder)
    assert turns[0] == (None, None)
    assert turns[-1] == (None, None)


def test_case_study(encoder: Encoder) -> None:
    taught = config.load(ROOT / "examples" / "coding-case-study.yaml", env=None).policies
    for policies, right in ((CODING, 5), (taught, 6)):
        assert sum(expected == got for expected, got in case_study(encoder, policies)) >= right


def test_the_history_decides_a_turn_that_says_nothing_by_itself(encoder: Encoder) -> None:
    before = ("Find me a flight to Lisbon on Friday.", "Two are left. Which one would you like?")
    assert routed(encoder, said(*before, "The second one, please."), HOME) == "travel.booking"


def test_a_change_of_topic_is_followed_at_once(encoder: Encoder) -> None:
    before = ("Find me a flight to Lisbon on Friday.", "Two are left. Which one would you like?")
    after = "Now give me a recipe for lentil soup."
    assert routed(encoder, said(*before, after), HOME) == "cooking"


@pytest.mark.parametrize("text", ["Hello!", "Thanks a lot, goodbye.", "Great, that's all I need."])
def test_a_greeting_or_thanks_is_for_nobody(encoder: Encoder, text: str) -> None:
    choice = choose(encoder.scores(said(text), HOME), HOME)
    assert choice.reason is Reason.NO_MATCH
    assert choice.confidence > 0.5


def test_a_vague_request_backs_off_to_its_domain(encoder: Encoder) -> None:
    legal = Policy(id="legal", description="Contracts, compliance and questions about the law.")
    policies = PolicySet([legal, *HOME])
    scores = encoder.scores(said("I need some help with a legal matter."), policies)
    assert policies[choose(scores, policies).policy or ""].domain == "legal"


def test_examples_help_and_the_nearest_is_reported(encoder: Encoder) -> None:
    text = "Give me the gist of the NDA that Acme sent."
    taught = PolicySet(
        msgspec.structs.replace(each, examples=("What does this lease boil down to?", "Give me the gist of this NDA"))
        if each.id == "legal.summarization"
        else each
        for each in HOME
    )
    (plain, *_), (with_examples, *others) = (encoder.scores(said(text), each).policies for each in (HOME, taught))
    assert with_examples.probability > plain.probability
    assert with_examples.example == "Give me the gist of this NDA"
    assert plain.example is None
    assert all(each.example is None for each in others)


@needs_data
def test_three_examples_a_policy_help_on_a_whole_set(encoder: Encoder) -> None:
    bare = policy_set("bitext")
    pool: dict[str, list[str]] = {}
    for row in examples(DATA / "train" / "bitext.jsonl.gz"):
        pool.setdefault(row["turns"][0]["policy"], []).append(row["messages"][0]["content"])
    taught = PolicySet(msgspec.structs.replace(each, examples=tuple(pool.get(each.id, ())[:3])) for each in bare)
    rows = examples(DATA / "dev" / "bitext.jsonl.gz")
    assert share(encoder, rows, taught) > share(encoder, rows, bare)


# --- the shape of an answer


def test_it_is_a_scorer(encoder: Encoder) -> None:
    scorer: Scorer = encoder
    card = read_card(WEIGHTS)
    assert scorer.id == f"encoder/{card.name}@{card.sha256['encoder.onnx'][:8]}"


def test_every_policy_is_scored_in_order_and_the_rest_is_other(encoder: Encoder) -> None:
    scores = encoder.scores(said("Book me a hotel in Rome"), HOME)
    assert tuple(each.policy for each in scores.policies) == HOME.ids
    assert sum(each.probability for each in scores.policies) + scores.other == pytest.approx(1)
    assert all(-1.001 <= each.score <= 1.001 for each in scores.policies)


@pytest.mark.parametrize(
    "messages", [[], [{"role": "system", "content": "You are kind."}], [{"role": "user", "content": " "}], None]
)
def test_where_nobody_has_spoken_nothing_matches(encoder: Encoder, messages: object) -> None:
    scores = encoder.scores(read(messages), HOME)
    assert scores.other == 1
    assert [each.probability for each in scores.policies] == [0] * len(HOME)


def test_no_policies_no_scores(encoder: Encoder) -> None:
    assert encoder.scores(said("hello"), PolicySet()).policies == ()


def test_two_hundred_policies(encoder: Encoder) -> None:
    many = PolicySet(Policy(id=f"d{at % 7}.a{at}", description=f"Questions about article {at}") for at in range(200))
    scores = encoder.scores(said("What does article 17 say?"), many)
    assert max(scores.policies, key=lambda each: each.probability).policy == "d3.a17"


# --- the same question, the same answer


def watched(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """The texts that are encoded from now on."""
    seen: list[Text] = []
    encode = encoder._encode

    def watch(text: Text) -> object:
        seen.append(text)
        return encode(text)

    monkeypatch.setattr(encoder, "_encode", watch)
    return seen


DIALOGUE = (
    "Find me a flight to Lisbon.",
    "On which day?",
    "Friday " * 300,
    "Two are left.",
    "The second one. Does it have meals? {policy} <b>",
)


def test_cached_is_uncached_to_the_bit(encoder: Encoder) -> None:
    fresh = Encoder.load()
    for end in (1, 3, 5):
        fresh.scores(said(*DIALOGUE[:end]), HOME)
    warm = fresh.scores(said(*DIALOGUE), HOME)
    cold = Encoder.load().scores(said(*DIALOGUE), HOME)
    encoder.scores(said("something else"), HOME)
    assert warm == cold == encoder.scores(said(*DIALOGUE), HOME) == fresh.scores(said(*DIALOGUE), HOME)


def test_a_conversation_is_one_text_and_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load()
    encoder.scores(said("hello"), HOME)
    seen = watched(encoder, monkeypatch)
    for conversation in (said(*DIALOGUE), said(*DIALOGUE[:1]), said("Which", "day", "then?"), said(*DIALOGUE)):
        encoder.scores(conversation, HOME)
    assert len(seen) == 3
    # What follows the newest user turn is not read.
    encoder.scores(Conversation(turns=(*said(*DIALOGUE).turns, Turn(role="assistant", text="It has."))), HOME)
    encoder.reading(said(*DIALOGUE), HOME)
    assert len(seen) == 3
    # Another history is another text, and another role too.
    encoder.scores(said("Which", "hour", "then?"), HOME)
    encoder.scores(Conversation(turns=tuple(Turn(role="user", text=text) for text in ("Which", "day", "then?"))), HOME)
    assert len(seen) == 5


def test_a_turn_that_reads_like_several_is_another_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load()
    encoder.scores(said("hello"), HOME)
    seen = watched(encoder, monkeypatch)
    alike = ("a\0assistant\0b\0user\0c", "a\0user\0b", "1 aassistant 1 buser 1 c", "a assistant 1 b user 1 c")
    for text in alike:
        encoder.scores(said(text), HOME)
    encoder.scores(said("a", "b", "c"), HOME)
    assert len(seen) == len(alike) + 1


def test_a_policy_scores_the_same_whatever_stands_beside_it(encoder: Encoder) -> None:
    alone = PolicySet([HOME["cooking"]])
    (one,) = encoder.scores(said("How long do I boil an egg?"), alone).policies
    among = encoder.scores(said("How long do I boil an egg?"), HOME).policies[3]
    assert one.score == pytest.approx(among.score, abs=1e-6)


def test_a_change_of_model_encodes_nothing(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder.scores(said("Book me a hotel"), HOME)
    monkeypatch.setattr(encoder, "_encode", None)
    moved = PolicySet(msgspec.structs.replace(each, models=("openai/other",)) for each in HOME)
    assert moved.digest != HOME.digest
    assert encoder.scores(said("Book me a hotel"), moved) == encoder.scores(said("Book me a hotel"), HOME)


def test_a_reading_is_what_scores_are_made_of(encoder: Encoder) -> None:
    made = encoder.reading(said(*DIALOGUE), HOME)
    assert made is not None
    cosines, none = made
    scores = encoder.scores(said(*DIALOGUE), HOME)
    assert [each.score for each in scores.policies] == [float(each) for each in cosines]
    shares, other = probabilities(cosines, none, encoder.calibration)
    assert (cosines.dtype, shares.dtype) == (np.float32, np.float64)
    assert scores.other == other
    assert [each.probability for each in scores.policies] == [float(each) for each in shares]


def test_there_is_no_reading_of_nothing(encoder: Encoder) -> None:
    assert encoder.reading(said(), HOME) is None
    assert encoder.reading(read([{"role": "user", "content": " "}]), HOME) is None
    assert encoder.reading(said("hello"), PolicySet()) is None


# --- how a conversation is laid out

BUDGETS = Reading(user=20, before=40, before_user=12, before_assistant=6, policy=9)


def reader(budgets: Reading = BUDGETS, max_tokens: int = 128) -> Reader:
    card = msgspec.structs.replace(read_card(WEIGHTS), reading=budgets, max_tokens=max_tokens)
    return Reader(TOKENIZER, card)


TOKENIZER = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
CLS, SEP = (TOKENIZER.token_to_id(name) for name in ("[CLS]", "[SEP]"))


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def words(count: int, word: str = "ferry") -> str:
    assert len(ids(word)) == 1
    return " ".join([word] * count)


def test_the_newest_turn_comes_first_and_then_what_was_said_before_newest_first() -> None:
    text = reader().conversation(said("Find me a flight.", "On which day?", "Friday").turns)
    asked = [CLS, *ids("Friday"), SEP]
    assert text.ids == [*asked, *ids("assistant: On which day?"), SEP, *ids("user: Find me a flight."), SEP]
    assert text.newest == len(asked)


def test_a_turn_alone_is_laid_out_like_any_text() -> None:
    alone = reader().conversation(said("Friday, please").turns)
    assert alone == reader().text("Friday, please", BUDGETS.user) == Text(ids=alone.ids, newest=len(alone.ids))
    assert alone.ids == [CLS, *ids("Friday, please"), SEP]


def test_each_turn_is_cut_to_the_budget_of_its_role() -> None:
    text = reader().conversation(said(words(99), words(99), words(99)).turns)
    assert text.newest == BUDGETS.user + 2
    answer = len(ids("assistant:")) + BUDGETS.before_assistant
    question = len(ids("user:")) + BUDGETS.before_user
    ends = [at for at, id in enumerate(text.ids[text.newest :]) if id == SEP]
    assert ends == [answer, answer + 1 + question]
    assert len(text.ids) == text.newest + answer + question + 2
    assert len(reader().policy(words(99)).ids) == BUDGETS.policy + 2


def test_a_turn_that_does_not_fit_ends_what_was_said_before() -> None:
    # 6 + 3 tokens an answer, 12 + 3 a question: 9 + 15 + 9 fit into 40, and the question before them does not.
    turns = said(*("short" if at == 1 else words(99) for at in range(7))).turns
    text = reader().conversation(turns)
    expected = reader().conversation(turns[2:])
    assert text == expected
    assert len(text.ids) - text.newest == 33
    assert len(ids("user: short")) + 1 <= BUDGETS.before - 33, "an older one that would fit is not taken instead"
    assert reader(msgspec.structs.replace(BUDGETS, before=0)).conversation(turns) == reader().conversation(turns[-1:])


@pytest.mark.parametrize(
    ("max_tokens", "newest", "before"),
    [(4, 4, 0), (10, 10, 0), (22, 22, 0), (27, 22, 0), (28, 22, 6), (42, 22, 6), (43, 22, 21), (99, 22, 21)],
)
def test_the_newest_turn_is_read_before_there_is_room_for_another(max_tokens: int, newest: int, before: int) -> None:
    text = reader(max_tokens=max_tokens).conversation(said(words(99), words(3), words(99)).turns)
    assert (text.newest, len(text.ids) - text.newest) == (newest, before)


def test_the_middle_of_a_long_turn_is_left_out() -> None:
    text = reader().conversation(said(f"shorten {words(99)} please").turns)
    assert text.ids[1] == ids("shorten")[0]
    assert text.ids[-2] == ids("please")[0]


def test_special_tokens_of_the_tokenizer_are_needed() -> None:
    with pytest.raises(WeightsError, match=r"the tokenizer has no \[CLS\], so it is not one of the BERT family"):
        Reader(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), read_card(WEIGHTS))


odd_text = st.text(st.characters(), max_size=300)  # halves of surrogate pairs and NUL included
PIECES = ["ferry ", "unbelievably", "…", " ", "\n", "[SEP]", "[CLS]", "user:", "مرحبا", "👩‍👩‍👧", "漢字"]
PIECES += ["\ud83d", "\0", "x" * 40]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Reading, int, list[Turn]]:
    budget = st.integers(1, 40)
    budgets = Reading(
        user=draw(budget),
        before=draw(st.integers(0, 90)),
        before_user=draw(budget),
        before_assistant=draw(budget),
        policy=draw(budget),
    )
    texts = odd_text | st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
    turn = st.builds(Turn, role=st.sampled_from(["user", "assistant"]), text=texts)
    return budgets, draw(st.integers(3, 120)), draw(st.lists(turn, min_size=1, max_size=6))


@settings(max_examples=150, deadline=None)
@given(layouts())
def test_any_turns_are_laid_out_within_their_budgets(layout: tuple[Reading, int, list[Turn]]) -> None:
    budgets, max_tokens, turns = layout
    text = reader(budgets, max_tokens).conversation(turns)
    asked, before = text.ids[: text.newest], text.ids[text.newest :]
    assert len(text.ids) <= max_tokens
    assert len(asked) <= budgets.user + 2
    assert len(before) <= budgets.before
    assert Text(ids=asked, newest=len(asked)) == reader(budgets, max_tokens).text(turns[-1].text, budgets.user)
    assert (asked[0], asked[-1], text.ids[-1]) == (CLS, SEP, SEP)
    left = min(budgets.before, max_tokens - len(asked))
    for turn in reversed(turns[:-1]):
        part = laid_out(budgets, turn)
        if len(part) > left:
            break
        assert before[: len(part)] == part
        before, left = before[len(part) :], left - len(part)
    assert before == []


def laid_out(budgets: Reading, turn: Turn) -> Sequence[int]:
    """A turn as it stands before the newest one, where there is room for all of it."""
    roomy = reader(msgspec.structs.replace(budgets, before=1000), 1000)
    alone = roomy.conversation([turn, Turn(role="user", text="")])
    most = budgets.before_user if turn.role == "user" else budgets.before_assistant
    part = alone.ids[alone.newest :]
    head = ids(f"{turn.role}:")
    assert part[: len(head)] == head
    assert len(part) <= len(head) + most + 1
    return part


def test_no_more_than_the_newest_turns_are_looked_at(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[Turn]] = []
    conversation = encoder._reader.conversation

    def watch(turns: Sequence[Turn]) -> Text:
        seen.append(turns)
        return conversation(turns)

    monkeypatch.setattr(encoder._reader, "conversation", watch)
    encoder.scores(said(*(f"turn {at} of a long talk" for at in range(2 * MOST_TURNS + 1))), HOME)
    ((oldest, *_, newest),) = seen
    assert newest.text.startswith(f"turn {2 * MOST_TURNS} ")
    assert oldest.text.startswith(f"turn {MOST_TURNS + 1} ")


# --- whatever it is given


@pytest.mark.parametrize(
    "text",
    [
        "{id} {name} {0} %s $x {{",
        "<route_config>[]</route_config></s><|im_end|>",
        "مرحبا، احجز لي فندقا في القاهرة",
        "👩‍👩‍👧‍👦" * 50,
        "a\x00b\x00",
        "half a pair: \ud83d, the other: \ude00",
        "x" * 100_000,
        " \u200b\ufeff ",
        "[CLS][SEP][MASK][PAD]",
    ],
)
def test_odd_text_is_scored_like_any_other(encoder: Encoder, text: str) -> None:
    # A policy file or JSON body cannot hold half a surrogate pair; a conversation handed in from Python can.
    whole = text.encode("utf-8", "replace").decode()
    odd = PolicySet([Policy(id="a.b", description=whole, examples=(whole,)), *HOME])
    scores = encoder.scores(said(text, text, text), odd)
    total = sum(each.probability for each in scores.policies) + scores.other
    assert total == pytest.approx(1)
    assert all(math.isfinite(each.score) for each in scores.policies)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(odd_text, min_size=1, max_size=4), description=st.text(max_size=300))
def test_any_text_gives_a_distribution(encoder: Encoder, turns: list[str], description: str) -> None:
    policies = PolicySet([Policy(id="a", description=description), Policy(id="b.c", description="Booking flights")])
    scores = encoder.scores(said(*turns), policies)
    assert sum(each.probability for each in scores.policies) + scores.other == pytest.approx(1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=odd_text, budget=st.integers(1, 40))
def test_its_offsets_serve_to_trim_any_text(encoder: Encoder, text: str, budget: int) -> None:
    for start, end in encoder.offsets(text):
        assert 0 <= start <= end <= len(text)
    trim(text, budget, encoder.offsets)


def test_a_conversation_of_a_hundred_thousand_tokens_costs_no_more_than_its_newest_turns(encoder: Encoder) -> None:
    long = said(*(f"{at} " + "and then we went on about nothing at all. " * 200 for at in range(55)), "Book a flight.")
    long = Conversation(turns=(*long.turns[:-1], Turn(role="user", text="Book me a flight to Rome.")))
    began = time.perf_counter()
    scores = encoder.scores(long, HOME)
    assert time.perf_counter() - began < 2
    assert len(scores.policies) == len(HOME)


def test_a_short_ask_under_a_long_paste_is_read(encoder: Encoder) -> None:
    paste = "The weather was mild that day and the streets were quiet. " * 400
    text = f"Shorten this contract to its key points.\n{paste}\nJust the legal key points, please."
    assert (routed(encoder, said(text), HOME) or "").startswith("legal.")


# --- weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json"])
def test_tampered_weights_are_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name} is not the file .*; get the folder again"):
        Encoder.load(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "card.json"])
def test_missing_weights_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=rf"{name} cannot be read: No such file.*; get the folder again"):
        Encoder.load(folder)


@pytest.mark.parametrize("card", [b"", b"[]", b"\xff", b'{"format": "2"}', b'{"format": 2}'])
def test_a_card_that_is_none_is_refused(folder: Path, card: bytes) -> None:
    (folder / "card.json").write_bytes(card)
    with pytest.raises(WeightsError, match=r"card\.json is not a card: .*; get the folder again"):
        Encoder.load(folder)


@pytest.mark.parametrize(("card", "found"), [(b"{}", 1), (b'{"format": 1, "name": "old"}', 1), (b'{"format": 3}', 3)])
def test_a_card_of_another_format_is_refused_before_its_files_are_read(folder: Path, card: bytes, found: int) -> None:
    (folder / "card.json").write_bytes(card)
    (folder / "encoder.onnx").unlink()
    said = rf"is of format {found}, and this version of pointsman reads 2; train the weights anew with `pointsman train"
    with pytest.raises(WeightsError, match=said):
        Encoder.load(folder)


def test_a_card_with_a_constant_that_cannot_be_is_refused(folder: Path) -> None:
    card = read_card(folder)
    for broken in (
        msgspec.structs.replace(card, calibration=msgspec.structs.replace(card.calibration, temperature=0.0)),
        msgspec.structs.replace(card, calibration=msgspec.structs.replace(card.calibration, bias=math.inf)),
    ):
        (folder / "card.json").write_bytes(msgspec.json.encode(broken))
        with pytest.raises(WeightsError, match=r"is not a card: Expected `float`.*calibration"):
            read_card(folder)
    (folder / "card.json").write_bytes(msgspec.json.encode(card).replace(b'"licence"', b'"license"'))
    with pytest.raises(WeightsError, match=r"is not a card: "):
        read_card(folder)


def test_the_card_that_ships_describes_what_ships(encoder: Encoder) -> None:
    card = read_card(WEIGHTS)
    assert msgspec.json.decode(msgspec.json.encode(card), type=Card) == card
    assert {"encoder.onnx", "tokenizer.json"} <= set(card.sha256)
    reading = card.reading
    assert reading.user + 2 + reading.before <= card.max_tokens
    assert reading.policy + 2 <= card.max_tokens
    assert any("{description}" in template for template in card.policy_texts)
    assert encoder.embed("hello").shape == (card.dimension,)
    assert float(np.linalg.norm(encoder.embed("hello"))) == pytest.approx(1, abs=1e-5)
    assert encoder.calibration == card.calibration


def test_weights_that_are_no_network_or_another_one_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = b"no network"
    card = read_card(folder)
    (folder / "encoder.onnx").write_bytes(broken)
    digests = card.sha256 | {"encoder.onnx": hashlib.sha256(broken).hexdigest()}
    (folder / "card.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(card, sha256=digests)))
    with pytest.raises(WeightsError, match="onnxruntime or tokenizers cannot read the weights; get the folder again"):
        Encoder.load(folder)

    class Other:
        def __init__(self, *given: object, **options: object) -> None:
            pass

        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask")]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Other)
    said = "encoder.onnx takes attention_mask, input_ids, not ids and newest; get the folder again"
    with pytest.raises(WeightsError, match=said):
        Encoder.load(folder)


# --- another calibration

OWN = Calibration(temperature=0.1, bias=1.0, evidence=3.0, height=0.5, doubt=2.0)


def calibrated(file: Path, calibration: Calibration = OWN, **changes: str) -> Path:
    content = CalibrationFile(weights=read_card(WEIGHTS).sha256["encoder.onnx"], calibration=calibration)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(content, **changes)))
    return file


def test_a_calibration_of_ones_own_makes_the_probabilities_and_the_id(encoder: Encoder, tmp_path: Path) -> None:
    own = Encoder.load(calibration=calibrated(tmp_path / "own.json"))
    assert own.calibration == OWN
    assert own.card == encoder.card
    assert re.fullmatch(re.escape(encoder.id) + r"\+[0-9a-f]{6}", own.id)
    made = encoder.reading(said(*DIALOGUE), HOME)
    assert made is not None
    before, after = encoder.scores(said(*DIALOGUE), HOME), own.scores(said(*DIALOGUE), HOME)
    assert after.other == probabilities(*made, OWN)[1] != before.other
    assert [each.score for each in after.policies] == [each.score for each in before.policies]


def test_the_id_tells_calibrations_apart_and_the_cards_own_is_no_other(encoder: Encoder, tmp_path: Path) -> None:
    same = Encoder.load(calibration=calibrated(tmp_path / "same.json", encoder.card.calibration))
    assert same.id == encoder.id
    others = [
        Encoder.load(calibration=calibrated(tmp_path / f"{doubt}.json", msgspec.structs.replace(OWN, doubt=doubt))).id
        for doubt in (2.0, 2.5, 2.0)
    ]
    assert others[0] == others[2] != others[1]


def test_a_calibration_of_other_weights_is_refused(tmp_path: Path) -> None:
    file = calibrated(tmp_path / "own.json", weights="0" * 64)
    with pytest.raises(WeightsError) as caught:
        Encoder.load(calibration=file)
    assert str(caught.value) == (
        f"{file} was fitted for other weights than {read_card(WEIGHTS).name}; "
        "leave it out, and run `pointsman calibrate` again"
    )


NUMBERS = b'{"weights": "x", "calibration": {"temperature": 1, "bias": 0, "evidence": 0, "height": 0, "doubt": 0}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"weights": "x"}',
        b'{"weights": "x", "calibration": {"temperature": 1, "bias": 0}}',
        NUMBERS.replace(b'"temperature": 1', b'"temperature": 0'),
        NUMBERS.replace(b'"temperature": 1', b'"temperature": -1'),
        NUMBERS.replace(b'"bias": 0', b'"bias": 1e999'),
        NUMBERS.replace(b'"bias": 0', b'"bias": NaN'),
        NUMBERS.replace(b'"bias": 0', b'"bias": 0, "biased": 0'),
    ],
)
def test_a_calibration_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "own.json"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"own\.json is no calibration: .*; make it with `pointsman calibrate`"):
        Encoder.load(calibration=file)


def test_a_calibration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"own\.json cannot be read: No such file"):
        Encoder.load(calibration=tmp_path / "own.json")
    with pytest.raises(WeightsError, match="cannot be read: Is a directory"):
        Encoder.load(calibration=tmp_path)


@pytest.mark.parametrize(("vector", "none"), [(np.nan, 0.0), (np.inf, 0.0), (0.05, np.nan), (0.05, -np.inf)])
def test_a_number_that_is_none_never_leaves(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, vector: float, none: float
) -> None:
    class Broken:
        def run(self, outputs: object, inputs: object) -> list[Any]:
            return [np.full((1, encoder.card.dimension), vector, np.float32), np.array([none], np.float32)]

    encoder.scores(said("hello"), HOME)
    monkeypatch.setattr(encoder, "_session", Broken())
    with pytest.raises(RouterError, match="a number that is none"):
        encoder.scores(said("never asked before"), HOME)


# --- its thread


async def test_score_is_scores_on_another_thread(encoder: Encoder) -> None:
    await encoder.prepare(HOME)
    assert await encoder.score(said("Book me a hotel"), HOME) == encoder.scores(said("Book me a hotel"), HOME)


async def test_a_call_that_is_cancelled_while_it_waits_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load()
    busy, done = threading.Event(), threading.Event()
    seen: list[str] = []
    scores = encoder.scores

    def slow(conversation: Conversation, policies: PolicySet) -> object:
        seen.append(conversation.turns[0].text)
        busy.set()
        done.wait(5)
        return scores(conversation, policies)

    monkeypatch.setattr(encoder, "scores", slow)
    first = asyncio.create_task(encoder.score(said("first"), HOME))
    await asyncio.to_thread(busy.wait, 5)
    second = asyncio.create_task(encoder.score(said("second"), HOME))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    done.set()
    await first
    await encoder.close()
    assert seen == ["first"]


async def test_a_closed_encoder_says_so() -> None:
    encoder = Encoder.load()
    await encoder.close()
    with pytest.raises(RouterError, match="closed"):
        await encoder.score(said("hello"), HOME)
