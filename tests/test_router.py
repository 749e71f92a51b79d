from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman import config
from pointsman.conversation import Conversation, read
from pointsman.decision import Decision, PolicyScore, Reason, Scores
from pointsman.errors import RouterError, WeightsError
from pointsman.policy import Policy, PolicySet
from pointsman.router import Router, build
from pointsman.testing import FakeRouter
from tests.wire import until

# A busy machine is no finding.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

POLICIES = PolicySet(
    [
        Policy(id="legal", description="The law.", models=("a/lawyer", "a/clerk")),
        Policy(id="legal.summary", description="Shorten a legal document.", models=("a/reader",)),
        Policy(id="chat", description="Small talk."),
    ]
)
CONTRACT = read("a contract")
DEFAULT = ("a/default", "b/default")


def routing(scorer: FakeRouter, *, deadline: float = 5.0, policies: PolicySet = POLICIES) -> Router:
    return Router(lambda: scorer, policies=policies, default=DEFAULT, deadline=deadline)


def scores(*probabilities: float, other: float = 0.0) -> Scores:
    pairs = zip(POLICIES.ids, probabilities, strict=False)
    return Scores(policies=tuple(PolicyScore(policy=id, score=0.0, probability=p) for id, p in pairs), other=other)


class Saying(FakeRouter):
    """A scorer that gives these scores, or whatever else."""

    def __init__(self, said: object) -> None:
        super().__init__()
        self.said = said

    async def score(self, conversation: Conversation, policies: PolicySet) -> Scores:
        return self.said  # type: ignore[return-value]


def models(decision: Decision) -> tuple[str, ...]:
    return (decision.model, *decision.fallbacks)


def test_a_router_without_a_default_is_refused() -> None:
    with pytest.raises(ValueError, match="default"):
        Router(FakeRouter, policies=POLICIES, default=())


async def test_the_policys_models_are_asked_in_their_order() -> None:
    decision = await routing(FakeRouter({"contract": "legal"})).decide(CONTRACT)
    assert (decision.policy, decision.reason, decision.router) == ("legal", Reason.MATCHED, "fake")
    assert models(decision) == ("a/lawyer", "a/clerk")
    assert decision.confidence == pytest.approx(0.9)
    assert decision.policy_set == POLICIES.digest
    assert len(decision.scores) == len(POLICIES)


async def test_a_policy_without_models_has_the_default_and_is_still_named() -> None:
    decision = await routing(FakeRouter({"hello": "chat"})).decide(read("hello"))
    assert (decision.policy, models(decision)) == ("chat", DEFAULT)


async def test_nothing_that_fits_is_the_default() -> None:
    decision = await routing(FakeRouter()).decide(CONTRACT)
    assert (decision.policy, decision.reason, models(decision)) == (None, Reason.NO_MATCH, DEFAULT)


async def test_a_pinned_model_asks_no_router() -> None:
    scorer = FakeRouter({"contract": "legal"})
    decision = await routing(scorer).decide(CONTRACT, pinned="x/y")
    assert (decision.reason, models(decision), decision.confidence) == (Reason.PINNED, ("x/y",), None)
    assert scorer.asked == []


async def test_no_policies_ask_no_router() -> None:
    scorer = FakeRouter()
    assert (await routing(scorer, policies=PolicySet()).decide(CONTRACT)).reason == Reason.NO_POLICIES
    assert (await routing(scorer).decide(CONTRACT, policies=PolicySet())).reason == Reason.NO_POLICIES
    assert scorer.asked == []


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "x"}], [{"role": "user", "content": " "}]])
async def test_a_conversation_without_words_asks_no_router(messages: object) -> None:
    scorer = FakeRouter({"x": "legal"})
    assert (await routing(scorer).decide(read(messages))).reason == Reason.NO_MATCH
    assert scorer.asked == []


async def test_inline_policies_replace_the_files_for_one_call() -> None:
    router = routing(FakeRouter({"contract": "law", "hello": "chat"}))
    inline = PolicySet([Policy(id="law", description="The law.", models=("x/y",))])
    decision = await router.decide(CONTRACT, policies=inline)
    assert (decision.policy, decision.model, decision.policy_set) == ("law", "x/y", inline.digest)
    assert (await router.decide(read("hello"), policies=inline)).policy is None
    assert (await router.decide(read("hello"))).policy == "chat"


@pytest.mark.parametrize(
    "error",
    [
        RouterError("x"),
        ValueError(),
        KeyError("legal"),
        MemoryError(),
        AssertionError(),
        StopAsyncIteration(),
        OSError(),
    ],
    ids=repr,
)
async def test_a_scorer_that_raises_is_the_default_and_its_words_are_not_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    error.args = ("the conversation was: a contract",)
    decision = await routing(FakeRouter(error=error)).decide(CONTRACT)
    assert (decision.reason, models(decision), decision.scores) == (Reason.ROUTER_FAILED, DEFAULT, ())
    assert "contract" not in caplog.text
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize(
    "said",
    [
        None,
        "legal",
        scores(),
        scores(0.5, 0.5),
        scores(0.5, math.nan, 0.1),
        scores(0.5, math.inf, 0.1),
        scores(0.5, -0.1, 0.1),
        scores(0.5, 1.1, 0.1),
        Scores(policies=scores(0.1, 0.2, 0.3).policies[::-1], other=0.4),
        Scores(policies=scores(0.1, 0.2, 0.3).policies * 2, other=0.4),
    ],
)
async def test_scores_that_are_none_are_a_failed_router(said: object) -> None:
    decision = await routing(Saying(said)).decide(CONTRACT)
    assert (decision.reason, models(decision), decision.scores) == (Reason.ROUTER_FAILED, DEFAULT, ())


@pytest.mark.parametrize("other", [math.nan, math.inf, -1.0, 2.0])
async def test_a_probability_of_other_that_is_none_is_a_failed_router(other: float) -> None:
    decision = await routing(Saying(scores(0.2, 0.3, 0.4, other=other))).decide(CONTRACT)
    assert decision.reason == Reason.ROUTER_FAILED


@calm
@given(st.lists(st.floats() | st.none() | st.text(), max_size=4), st.floats() | st.none())
def test_no_answer_of_a_scorer_makes_it_raise(probabilities: list[object], other: object) -> None:
    made = scores(*probabilities, other=other)  # type: ignore[arg-type]
    decision = asyncio.run(routing(Saying(made)).decide(CONTRACT))
    assert decision.model in ("a/default", "a/lawyer", "a/reader")


async def test_a_slow_scorer_is_the_default_after_the_deadline() -> None:
    decision = await routing(FakeRouter(delay=30), deadline=0.05).decide(CONTRACT)
    assert (decision.reason, models(decision)) == (Reason.TIMEOUT, DEFAULT)
    assert 45 <= decision.elapsed_ms < 1000


async def test_a_decision_can_be_cancelled() -> None:
    scorer = FakeRouter(delay=30)
    work = asyncio.create_task(routing(scorer, deadline=60).decide(CONTRACT))
    await until(lambda: scorer.asked)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


class Loading:
    """A loader that waits to be let go, fails so many times, and counts."""

    def __init__(self, scorer: FakeRouter, *, failures: int = 0) -> None:
        self.scorer = scorer
        self.failures = failures
        self.loads = 0
        self.go = threading.Event()

    def __call__(self) -> FakeRouter:
        self.loads += 1
        self.go.wait(5)
        if self.loads <= self.failures:
            raise WeightsError("the file is not there")
        return self.scorer

    def router(self, deadline: float = 5.0) -> Router:
        return Router(self, policies=POLICIES, default=DEFAULT, deadline=deadline)


async def test_the_scorer_is_loaded_once_for_all() -> None:
    loading = Loading(FakeRouter({"contract": "legal"}))
    router = loading.router()
    deciding = [asyncio.create_task(router.decide(CONTRACT)) for _ in range(5)]
    await asyncio.sleep(0)
    loading.go.set()
    assert {(await each).policy for each in deciding} == {"legal"}
    await router.warm()
    assert loading.loads == 1
    await router.close()


async def test_a_deadline_does_not_stop_the_loading() -> None:
    loading = Loading(FakeRouter({"contract": "legal"}))
    router = loading.router(deadline=0.05)
    assert (await router.decide(CONTRACT)).reason == Reason.TIMEOUT
    loading.go.set()
    await router.warm()
    assert (await router.decide(CONTRACT)).policy == "legal"
    assert loading.loads == 1


async def test_a_failed_loading_is_tried_again_by_the_next_call() -> None:
    loading = Loading(FakeRouter({"contract": "legal"}), failures=2)
    loading.go.set()
    router = loading.router()
    assert (await router.decide(CONTRACT)).reason == Reason.ROUTER_FAILED
    with pytest.raises(WeightsError):
        await router.warm()
    assert (await router.decide(CONTRACT)).reason == Reason.MATCHED
    assert loading.loads == 3


async def test_a_failed_loading_can_be_closed() -> None:
    loading = Loading(FakeRouter(), failures=1)
    loading.go.set()
    router = loading.router()
    await router.decide(CONTRACT)
    await router.close()


class Closable(FakeRouter):
    closed = 0

    async def close(self) -> None:
        self.closed += 1


async def test_closing_closes_the_scorer_and_an_unused_router_has_none() -> None:
    scorer = Closable()
    await routing(scorer).close()
    assert scorer.closed == 0
    router = routing(scorer)
    await router.warm()
    await router.close()
    assert scorer.closed == 1


# --- as a policy file asks for it

DESK = """
version: 1
providers: {ollama: }
default: ollama/small
policies: {legal: {description: The law.}}
"""


async def test_the_policy_file_names_weights_and_calibration_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pointsman.routers.encoder import Encoder

    loaded: list[tuple[Path | None, Path | None, int]] = []

    def load(folder: Path | None = None, *, calibration: Path | None = None, threads: int = 1) -> FakeRouter:
        loaded.append((folder, calibration, threads))
        return FakeRouter({"contract": "legal"})

    monkeypatch.setattr(Encoder, "load", load)
    (tmp_path / "weights").mkdir()
    (tmp_path / "own.json").write_text("{}")
    file = tmp_path / "policies.yaml"
    for routing in ("", "routing: {weights: weights, calibration: own.json}"):
        file.write_text(DESK + routing)
        async with build(config.load(file, env=None), threads=2) as router:
            assert (await router.decide(CONTRACT)).policy == "legal"
    assert loaded == [(None, None, 2), (tmp_path / "weights", tmp_path / "own.json", 2)]


async def test_weights_that_cannot_be_used_stop_a_start_and_fail_no_call(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    file = tmp_path / "policies.yaml"
    file.write_text(DESK + "routing: {weights: weights, deadline_ms: 60000}")
    router = build(config.load(file, env=None))
    with pytest.raises(WeightsError, match=r"card\.json cannot be read"):
        await router.warm()
    decision = await router.decide(CONTRACT)
    assert (decision.reason, decision.model) == (Reason.ROUTER_FAILED, "ollama/small")
    await router.close()


async def test_closing_waits_for_a_scorer_that_is_still_loading() -> None:
    scorer = Closable()
    loading = Loading(scorer)
    router = loading.router(deadline=0.02)
    await router.decide(CONTRACT)
    closing = asyncio.create_task(router.close())
    await asyncio.sleep(0)
    loading.go.set()
    await closing
    assert scorer.closed == 1


async def test_the_same_input_gives_the_same_decision_but_for_the_time() -> None:
    def timeless(decision: Decision) -> Decision:
        return msgspec.structs.replace(decision, elapsed_ms=0.0)

    makers: list[Callable[[], FakeRouter]] = [
        lambda: FakeRouter({"contract": "legal"}),
        FakeRouter,
        lambda: FakeRouter(error=ValueError()),
        lambda: Saying(scores(0.3, 0.3, 0.3, other=0.1)),
        lambda: Saying(scores(0.4, 0.4, 0.0, other=0.2)),
    ]
    for make in makers:
        first = timeless(await routing(make()).decide(CONTRACT))
        for _ in range(3):
            assert timeless(await routing(make()).decide(CONTRACT)) == first
