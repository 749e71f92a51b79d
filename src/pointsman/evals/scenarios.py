"""What is asked of a router: an example and its policy set to Cases, each with the policies on offer and the right
answer for every labelled turn. Pure and seeded; knows no router and no metric.

The scenarios are the paper's (arXiv 2506.16655, section 5): *fQfA*, the exact policy is on offer; *fQcA*, the action is
withheld and its domain's policy is right; *Irrelevance*, "none of them" is right. The paper publishes neither the
policies on offer nor ids; how they are drawn here is in docs/explanation/benchmark.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from pointsman.conversation import Conversation, read
from pointsman.dataset import Example, Label, Taxonomy
from pointsman.policy import Policy, PolicySet


class Scenario(StrEnum):
    """What is on offer, and so what is right."""

    FQFA = "fqfa"
    """Fine query, fine answer: the turn's own policy is on offer."""
    FQCA = "fqca"
    """Fine query, coarse answer: the turn's action is withheld; its domain's policy is right."""
    IRRELEVANCE = "irrelevance"
    """Nothing on offer fits: the turn is irrelevant or fulfilled, or its policy is withheld."""


class Kind(StrEnum):
    """Why a target is what it is."""

    POLICY = "policy"
    """A policy on offer is right."""
    IRRELEVANT = "irrelevant"
    """The data say that no policy of the set fits."""
    FULFILLED = "fulfilled"
    """The turn only closes: thanks, a refusal, a goodbye."""
    WITHHELD = "withheld"
    """Its policy was taken out of the offer."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The right answer for the user turn at `index` of the messages: an id on offer, or None for "none of them"."""

    index: int
    policy: str | None
    kind: Kind


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation, the policies on offer throughout, and its targets in the order of turns.

    `originals` gives the id that a renamed policy has in its set; `trap` is the policy that the text tries to be sent
    to (`robustness`).
    """

    messages: tuple[dict[str, object], ...]
    offered: PolicySet
    targets: tuple[Target, ...]
    originals: Mapping[str, str] = {}
    trap: str | None = None

    def upto(self, index: int) -> Conversation:
        """What a router may see when it routes the turn at `index`: nothing after it."""
        return read(list(self.messages[: index + 1]))

    def original(self, policy: str | None) -> str | None:
        """The id that a policy on offer has in its set."""
        return self.originals.get(policy, policy) if policy else None


def asks(scenario: Scenario, kind: Kind) -> bool:
    """Whether a turn of this kind is what the scenario is about; the others are only there."""
    return (kind is Kind.POLICY) == (scenario is not Scenario.IRRELEVANCE)


def case(example: Example, taxonomy: Taxonomy, scenario: Scenario, *, size: int | None, seed: int) -> Case | None:
    """The example in this scenario, with the whole set on offer (`size` None) or about `size` policies.

    None if the scenario cannot be asked of it: no domain policies are written, or the set has no more than `size`. A
    small offer holds the right policies of all turns, and distractors up to `size`: about half of it is of their
    domains. The same example, set and seed give the same case, whatever else is run.
    """
    rng = random.Random(f"{seed}/{example.policies}/{example.id}")  # noqa: S311 - reproducible is the point
    match scenario:
        case Scenario.FQFA:
            return _exact(example, taxonomy, size, rng)
        case Scenario.FQCA:
            return _coarse(example, taxonomy, size, rng)
        case Scenario.IRRELEVANCE:
            return _withheld(example, taxonomy, size, rng)


def _exact(example: Example, taxonomy: Taxonomy, size: int | None, rng: random.Random) -> Case | None:
    targets = tuple(_as_labelled(label) for label in example.turns)
    return _case(example, targets, taxonomy.policies, _golds(targets), size=size, rng=rng)


def _coarse(example: Example, taxonomy: Taxonomy, size: int | None, rng: random.Random) -> Case | None:
    """Every gold action is withheld. A turn whose domain nobody described is not judged."""
    if not taxonomy.domains:
        return None
    targets: list[Target] = []
    for label in example.turns:
        if label.policy is None:
            targets.append(_as_labelled(label))
        elif (domain := label.policy.partition(".")[0]) in taxonomy.domains:
            targets.append(Target(index=label.index, policy=domain, kind=Kind.POLICY))
    if size is None:
        return _case(example, tuple(targets), taxonomy.domains, (), size=None, rng=rng)
    withheld = {label.policy for label in example.turns}
    actions = [policy for policy in taxonomy.policies if policy.action and policy.id not in withheld]
    return _case(example, tuple(targets), [*taxonomy.domains, *actions], _golds(targets), size=size, rng=rng)


def _withheld(example: Example, taxonomy: Taxonomy, size: int | None, rng: random.Random) -> Case | None:
    """One policy of the conversation is taken out, with its domain's, which would otherwise be right."""
    golds = _golds(_as_labelled(label) for label in example.turns)
    removed: set[str] = set()
    if golds:
        taken = rng.choice(golds)
        removed = {taken, taken.partition(".")[0]}
    targets = tuple(
        Target(index=label.index, policy=None, kind=Kind.WITHHELD) if label.policy in removed else _as_labelled(label)
        for label in example.turns
    )
    left = [policy for policy in taxonomy.policies if policy.id not in removed]
    domains = {id.partition(".")[0] for id in golds}
    return _case(example, targets, left, _golds(targets), size=size, rng=rng, domains=domains) if left else None


def _case(
    example: Example,
    targets: Sequence[Target],
    candidates: Iterable[Policy],
    needed: Sequence[str],
    *,
    size: int | None,
    rng: random.Random,
    domains: Iterable[str] = (),
) -> Case | None:
    """The case with `needed` and, if `size` is given, distractors out of `candidates`; else with all of them."""
    offered = list(candidates)
    if size is not None:
        if len(offered) <= size:
            return None
        kept = {*needed, *_distractors(offered, needed, {*domains, *_domains(needed)}, size, rng)}
        offered = [policy for policy in offered if policy.id in kept]
    return Case(messages=example.messages, offered=PolicySet(offered), targets=tuple(targets))


def _distractors(
    candidates: Sequence[Policy], needed: Sequence[str], domains: set[str], size: int, rng: random.Random
) -> list[str]:
    """Ids that fill an offer up to `size`: about half of it is of `domains`, the right policies among them.

    The other half comes a domain at a time, its own policy first, and no domain has more than those of the right
    policies have on average: a real file has few domains with several actions, and were the right domain the largest
    on offer, or the smallest, that would give the answer away. A conversation that is about no policy gets a home
    domain for the same reason. An odd size is halved up or down by the draw.
    """
    odd = rng.random() < 0.5
    free = [policy for policy in candidates if policy.id not in needed]
    domains = domains or {rng.choice(candidates).domain}
    near = [policy.id for policy in free if policy.domain in domains]
    rng.shuffle(near)
    near = near[: max(0, (size + odd) // 2 - len(needed))]
    most = -(-(len(needed) + len(near)) // len(domains)) or 1
    others = list(dict.fromkeys(policy.domain for policy in free if policy.domain not in domains))
    rng.shuffle(others)
    far: list[str] = []
    left: list[str] = []
    for domain in others:
        actions = [policy.id for policy in free if policy.domain == domain and policy.action]
        rng.shuffle(actions)
        block = [policy.id for policy in free if policy.id == domain] + actions
        far += block[:most]
        left += block[most:]
    left += [policy.id for policy in free if policy.domain in domains and policy.id not in near]
    return [*near, *far, *left][: max(0, size - len(needed))]


def _as_labelled(label: Label) -> Target:
    if label.policy is not None:
        return Target(index=label.index, policy=label.policy, kind=Kind.POLICY)
    return Target(index=label.index, policy=None, kind=Kind.FULFILLED if label.closing else Kind.IRRELEVANT)


def _golds(targets: Iterable[Target]) -> list[str]:
    """The policies that are right somewhere, each once, in the order of turns."""
    return list(dict.fromkeys(target.policy for target in targets if target.policy is not None))


def _domains(ids: Iterable[str]) -> Iterator[str]:
    return (id.partition(".")[0] for id in ids)
