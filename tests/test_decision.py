"""Scores to a choice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.decision import Choice, PolicyScore, Reason, Scores, choose
from pointsman.policy import Policy, PolicySet


def policies(*ids: str) -> PolicySet:
    return PolicySet(Policy(id=id, description=id) for id in ids)


def scores(other: float, **probabilities: float) -> Scores:
    """`legal__review=0.3` stands for the policy `legal.review`."""
    return Scores(
        policies=tuple(
            PolicyScore(policy=id.replace("__", "."), score=probability, probability=probability)
            for id, probability in probabilities.items()
        ),
        other=other,
    )


def test_the_best_policy():
    made = choose(scores(0.1, legal=0.2, code=0.6, chat=0.1), policies("legal", "code", "chat"))
    assert made == Choice(policy="code", reason=Reason.MATCHED, confidence=0.6, runner_up="legal")


def test_a_single_policy_has_no_runner_up():
    made = choose(scores(0.1, legal=0.9), policies("legal"))
    assert made == Choice(policy="legal", reason=Reason.MATCHED, confidence=0.9, runner_up=None)


def test_ties_go_to_what_is_written_first_and_to_a_policy_over_none():
    assert choose(scores(0.2, b=0.4, a=0.4), policies("b", "a")).policy == "b"
    assert choose(scores(0.5, a=0.5), policies("a")).policy == "a"


def test_none_is_likelier_than_some():
    made = choose(scores(0.51, legal=0.3, code=0.19), policies("legal", "code"))
    assert made == Choice(policy=None, reason=Reason.NO_MATCH, confidence=0.51, runner_up="legal")


def test_some_is_likelier_than_none_though_no_single_one_is():
    made = choose(scores(0.45, legal=0.3, code=0.25), policies("legal", "code"))
    assert made == Choice(policy="legal", reason=Reason.MATCHED, confidence=0.3, runner_up="code")


def test_less_than_asked_for():
    on_offer = policies("legal", "code")
    assert choose(scores(0.1, legal=0.4, code=0.5), on_offer, min_confidence=0.5).policy == "code"
    made = choose(scores(0.1, legal=0.4, code=0.5), on_offer, min_confidence=0.51)
    assert made == Choice(policy=None, reason=Reason.NO_MATCH, confidence=0.5, runner_up="code")


ACTIONS = ("code", "code.write", "code.review", "code.test", "legal")


def test_back_off_where_no_action_stands_out_in_its_domain():
    vague = scores(0.1, code=0.1, code__write=0.3, code__review=0.28, code__test=0.12, legal=0.1)
    made = choose(vague, policies(*ACTIONS))
    assert made == Choice(
        policy="code", reason=Reason.BACKED_OFF, confidence=pytest.approx(0.8), runner_up="code.write"
    )


def test_an_action_that_stands_out_in_its_domain_is_taken():
    clear = scores(0.1, code=0.1, code__write=0.33, code__review=0.25, code__test=0.12, legal=0.1)
    assert choose(clear, policies(*ACTIONS)).policy == "code.write"


def test_back_off_where_the_action_is_less_sure_than_asked_for_and_its_domain_is_not():
    clear = scores(0.1, code=0.1, code__write=0.5, legal=0.3)
    on_offer = policies("code", "code.write", "legal")
    assert choose(clear, on_offer, min_confidence=0.5).policy == "code.write"
    made = choose(clear, on_offer, min_confidence=0.55)
    assert made == Choice(policy="code", reason=Reason.BACKED_OFF, confidence=0.6, runner_up="code.write")
    assert choose(clear, on_offer, min_confidence=0.61).reason is Reason.NO_MATCH


def test_no_back_off_to_a_domain_that_is_no_policy():
    vague = scores(0.1, code__write=0.3, code__review=0.3, code__test=0.3)
    on_offer = policies("code.write", "code.review", "code.test")
    assert choose(vague, on_offer).policy == "code.write"
    assert choose(vague, on_offer, min_confidence=0.4).reason is Reason.NO_MATCH


def test_nothing_on_offer():
    assert choose(scores(1.0), policies()) == Choice(
        policy=None, reason=Reason.NO_MATCH, confidence=1.0, runner_up=None
    )


def test_reasons_are_closed():
    assert set(Reason) == {
        "pinned", "rule", "affinity", "matched", "backed_off", "no_match", "timeout", "router_failed", "no_policies"
    }  # fmt: skip


IDS = ("a", "a.x", "a.y", "b", "b.x", "c.x", "c.y", "d")


@given(
    weights=st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 20)), unique_by=lambda pair: pair[0], max_size=6),
    other=st.integers(0, 20),
    least=st.floats(0, 1),
)
def test_a_choice_is_on_offer_and_at_least_as_sure_as_asked(weights: list[tuple[str, int]], other: int, least: float):
    total = sum(weight for _, weight in weights) + other or 1
    given_scores = Scores(
        policies=tuple(PolicyScore(policy=id, score=0.0, probability=weight / total) for id, weight in weights),
        other=other / total,
    )
    on_offer = policies(*(id for id, _ in weights))
    made = choose(given_scores, on_offer, min_confidence=least)
    assert made == choose(given_scores, on_offer, min_confidence=least)
    assert made.policy is None or made.policy in on_offer
    assert made.runner_up is None or made.runner_up in on_offer
    assert made.runner_up != made.policy or made.policy is None
    assert (made.policy is None) == (made.reason is Reason.NO_MATCH)
    assert (made.reason is Reason.NO_MATCH) or given_scores.other <= 0.5
    if made.policy is not None:
        assert made.confidence >= least
    best = max((each.probability for each in given_scores.policies), default=None)
    if made.reason is Reason.MATCHED:
        assert made.confidence == best
    if made.reason is Reason.BACKED_OFF:
        own = [each for each in given_scores.policies if on_offer[each.policy].domain == made.policy]
        assert max(own, key=lambda each: each.probability).probability == best
        assert made.confidence >= best
