"""Scores in, a Decision out. Pure: knows no router, clock or network.

A router gives every policy a probability and keeps the rest for "none of them" (`Scores.other`). `choose` takes the
best policy if any fits; where its actions are too alike it backs off to their domain, and failing that to the default.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pointsman.policy import PolicySet


class Reason(StrEnum):
    """Why a decision came out as it did. Closed: callers may switch on it."""

    PINNED = "pinned"
    """The caller named a model."""
    RULE = "rule"
    """A deterministic rule of the policy file fired; no router was asked."""
    AFFINITY = "affinity"
    """The conversation was kept on the model it had."""
    MATCHED = "matched"
    """The router's best policy."""
    BACKED_OFF = "backed_off"
    """No action was likely enough, but their domain was."""
    NO_MATCH = "no_match"
    """Nothing fits, or there was nothing to read: the default."""
    TIMEOUT = "timeout"
    """The router missed its deadline: the default."""
    ROUTER_FAILED = "router_failed"
    """The router raised, or answered with nonsense: the default."""
    NO_POLICIES = "no_policies"
    """No policy is on offer: the default."""


class PolicyScore(msgspec.Struct, frozen=True, kw_only=True):
    """One policy's score. `score` is the router's own scale (cosine for the encoder); `probability` is calibrated."""

    policy: str
    score: float
    probability: float
    example: str | None = None
    """The example of the policy file that was nearest, where examples decided."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution over every policy on offer and "none of them". `policies` is in the policy set's order."""

    policies: tuple[PolicyScore, ...]
    other: float


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What `choose` makes of scores: a policy (None: the default), why, how sure, and the next best."""

    policy: str | None
    reason: Reason
    confidence: float
    runner_up: str | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of routing one conversation.

    `policy` is None when the default answers. `model` and `fallbacks` are `provider/name`. `confidence` is the
    probability that the choice is right (None where no router spoke), `elapsed_ms` the wall time of the decision.
    """

    policy: str | None
    model: str
    fallbacks: tuple[str, ...]
    reason: Reason
    confidence: float | None
    runner_up: str | None
    scores: tuple[PolicyScore, ...]
    other: float | None
    router: str | None
    policy_set: str
    elapsed_ms: float


# An action must hold this share of what its domain's policies hold together, or the request is too vague for it.
# Measured with domain policies on offer (docs/lab/LOG.md): up to here exact actions lose almost nothing, and requests
# whose action is missing find their domain more often.
VAGUE = 0.4


def choose(scores: Scores, policies: PolicySet, *, min_confidence: float = 0.0) -> Choice:
    """The policy that these scores speak for. Ties go to the policy that was written first.

    If it is more likely than not that some policy fits, the best one is taken. If that is an action which stands out
    too little among its domain's policies, or is less likely than `min_confidence`, its domain is taken, where that is
    on offer (paper, section 3: a request too vague for any action resolves to its domain); it is as likely as all of
    its policies together.
    """
    ranked = sorted(scores.policies, key=lambda each: -each.probability)
    best = ranked[0] if ranked else None
    if best is None or scores.other > 0.5:
        runner_up = best.policy if best else None
        return Choice(policy=None, reason=Reason.NO_MATCH, confidence=scores.other, runner_up=runner_up)
    second = ranked[1].policy if len(ranked) > 1 else None
    domain = policies[best.policy].domain
    if domain in policies:
        mass = sum(each.probability for each in ranked if policies[each.policy].domain == domain)
        vague = best.policy != domain and best.probability < VAGUE * mass
        if (vague or best.probability < min_confidence) and mass >= min_confidence:
            runner_up = second if best.policy == domain else best.policy
            return Choice(policy=domain, reason=Reason.BACKED_OFF, confidence=mass, runner_up=runner_up)
    if best.probability < min_confidence:
        return Choice(policy=None, reason=Reason.NO_MATCH, confidence=1 - best.probability, runner_up=best.policy)
    return Choice(policy=best.policy, reason=Reason.MATCHED, confidence=best.probability, runner_up=second)
