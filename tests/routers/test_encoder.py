"""The embedded router: what it gets right, and that nothing it is given makes it wrong in another way."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman import config
from pointsman.conversation import Conversation, Turn, read, trim
from pointsman.decision import Reason, choose
from pointsman.errors import RouterError, WeightsError
from pointsman.policy import Policy, PolicySet
from pointsman.routers import Scorer
from pointsman.routers.encoder import MINILM, WEIGHTS, Card, Encoder

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


def test_case_study_as_far_as_it_goes(encoder: Encoder) -> None:
    taught = config.load(ROOT / "examples" / "coding-case-study.yaml", env=None).policies
    for policies, right in ((CODING, 4), (taught, 5)):
        assert sum(expected == got for expected, got in case_study(encoder, policies)) >= right


@pytest.mark.xfail(reason="5 of 8: little of the pool is about code, and the weights hardly know it (docs/lab/LOG.md)")
def test_case_study(encoder: Encoder) -> None:
    taught = config.load(ROOT / "examples" / "coding-case-study.yaml", env=None).policies
    assert sum(expected == got for expected, got in case_study(encoder, taught)) >= 6


def test_the_history_decides_a_turn_that_says_nothing_by_itself(encoder: Encoder) -> None:
    before = ("Find me a flight to Lisbon on Friday.", "Two are left. Which one would you like?")
    assert routed(encoder, said(*before, "The second one, please."), HOME) == "travel.booking"


def test_a_change_of_topic_is_followed_at_once(encoder: Encoder) -> None:
    before = ("Find me a flight to Lisbon on Friday.", "Two are left. Which one would you like?")
    after = "Now give me a recipe for lentil soup."
    assert routed(encoder, said(*before, after), HOME) == "cooking"


@pytest.mark.parametrize("text", ["Hello!", "Thanks a lot, goodbye.", "Great, that's all I need."])
def test_small_talk_matches_nothing(encoder: Encoder, text: str) -> None:
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
    assert scorer.id.startswith("encoder/minilm-l6-v2-pool1@")


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

DIALOGUE = (
    "Find me a flight to Lisbon.",
    "On which day?",
    "Friday " * 300,
    "Two are left.",
    "The second one. Does it have meals? {policy} <b>",
)


def test_cached_is_uncached_to_the_bit(encoder: Encoder) -> None:
    fresh = Encoder.load()
    for end in (1, 3, 5):  # the first two turns fill the cache for the third
        fresh.scores(said(*DIALOGUE[:end]), HOME)
    warm = fresh.scores(said(*DIALOGUE), HOME)
    cold = Encoder.load().scores(said(*DIALOGUE), HOME)
    encoder.scores(said("something else"), HOME)
    assert warm == cold == encoder.scores(said(*DIALOGUE), HOME) == fresh.scores(said(*DIALOGUE), HOME)


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


odd_text = st.text(st.characters(), max_size=300)  # halves of surrogate pairs and NUL included


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
    with pytest.raises(WeightsError, match=rf"{name} is not the file .*; reinstall"):
        Encoder.load(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "card.json"])
def test_missing_weights_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=rf"{name} cannot be read: No such file.*; reinstall"):
        Encoder.load(folder)


@pytest.mark.parametrize("card", [b"", b"{}", b"\xff", b'{"name": 1}'])
def test_a_card_that_is_none_is_refused(folder: Path, card: bytes) -> None:
    (folder / "card.json").write_bytes(card)
    with pytest.raises(WeightsError, match="is not a card"):
        Encoder.load(folder)


def test_the_card_that_ships_is_the_one_that_the_export_writes() -> None:
    shipped = msgspec.json.decode((WEIGHTS / "card.json").read_bytes(), type=Card)
    assert msgspec.structs.replace(shipped, source=MINILM.source, sha256={}) == MINILM


def test_a_number_that_is_none_never_leaves(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def run(self, outputs: object, inputs: object) -> list[list[Any]]:
            import numpy as np

            return [np.full((1, 384), np.nan, dtype=np.float32)]

    monkeypatch.setattr(encoder, "_session", Broken())
    with pytest.raises(RouterError):
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
