"""What is learned from: labelled conversations of many sources, dealt into steps. Knows no network.

A step takes one policy set of one source, lays out all or some of its policies, and asks of each of a batch of turns
which of them is meant, or none. So what is told apart are policies that stand beside each other in one team's file, and
a turn whose policy is not laid out teaches "none" among its nearest rivals.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pointsman import dataset
from pointsman.conversation import Turn
from pointsman.errors import DataError, Problem
from pointsman.overlap import Foreign, user_turns
from pointsman.policy import Policy, PolicySet
from pointsman.training.settings import Data, Plan

READ_BACK = 12
"""Turns that are kept of what was said before; a network's budget of tokens ends sooner."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """What was said up to a user turn, that turn last, and the policy that it belongs to."""

    turns: tuple[Turn, ...]
    policy: str | None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A policy set, and the examples that name it, by policy."""

    policies: PolicySet
    examples: dict[str | None, list[Example]]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One batch: examples, and the policies laid out for all of them."""

    source: str
    policies: tuple[Policy, ...]
    examples: tuple[Example, ...]

    @property
    def labels(self) -> list[int]:
        """The place of each example's policy; one past the last for none of them."""
        places = {each.id: at for at, each in enumerate(self.policies)}
        return [places.get(each.policy or "", len(places)) for each in self.examples]


class SourceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a source gives: for the model card."""

    name: str
    weight: float
    conversations: int
    turns: int
    none: int
    """Turns for which no policy of their set fits."""
    sets: int
    sha256: str


class Mixture(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is learned from, and what was left out of it."""

    sources: dict[str, list[Asked]]
    figures: tuple[SourceFigures, ...]
    overlapping: dict[str, int]
    """Conversations left out, by the source that has a text of theirs."""
    skipped: tuple[Problem, ...]
    """Lines left out because they cannot be used."""

    @property
    def digest(self) -> str:
        """16 hex digits over all of it and the weights."""
        said: list[str] = []
        for each in self.figures:
            said.append(f"{each.name} {each.weight} {each.turns} {each.sha256}")
            said += (asked.policies.digest for asked in self.sources[each.name])
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def gather(data: Data) -> Mixture:
    """The mixture of the folders. Raises DataError with every problem of the files."""
    if not data.folders:
        raise DataError([Problem(path="data.folders", message="names no folder", mend="name one, or give --data")])
    foreign = Foreign(user_turns(*map(Path, data.apart)))
    seen: set[str] = set()
    sources: dict[str, list[Asked]] = {}
    figures: list[SourceFigures] = []
    overlapping: dict[str, int] = {}
    skipped: list[Problem] = []
    for folder in data.folders:
        loaded = dataset.load(Path(folder), split="train", skip_bad=data.skip_bad)
        skipped += loaded.skipped
        for source in loaded.sources:
            weight = data.weights.get(source.name, 1.0)
            if source.name in seen:
                mend = "rename one of the files, or merge them"
                raise DataError([Problem(path="", message=f"there is {source.name} already", mend=mend, file=folder)])
            seen.add(source.name)
            if not weight:
                continue
            kept: list[dataset.Example] = []
            for row in source.examples:
                texts = (turn.text for turn in row.upto(len(row.messages)).turns if turn.role == "user")
                if found := next(filter(None, map(foreign.find, texts)), None):
                    overlapping[found.source] = overlapping.get(found.source, 0) + 1
                else:
                    kept.append(row)
            asked = _asked(kept, loaded)
            if not asked:
                continue
            sources[source.name] = asked
            labels = [each.policy for row in kept for each in row.turns]
            figures.append(
                SourceFigures(
                    name=source.name,
                    weight=weight,
                    conversations=len(kept),
                    turns=len(labels),
                    none=labels.count(None),
                    sets=len(asked),
                    sha256=source.sha256,
                )
            )
    if unknown := sorted(set(data.weights) - seen):
        mend = f"there are {', '.join(sorted(seen))}"
        raise DataError([Problem(path="data.weights", message=f"there is no source {unknown[0]}", mend=mend)])
    if not sources:
        mend = "look at weights and apart"
        raise DataError([Problem(path="data", message="leaves nothing to learn from", mend=mend)])
    return Mixture(
        sources=sources, figures=tuple(figures), overlapping=dict(sorted(overlapping.items())), skipped=tuple(skipped)
    )


def _asked(rows: Sequence[dataset.Example], data: dataset.Dataset) -> list[Asked]:
    found: dict[str, dict[str | None, list[Example]]] = {}
    for row in rows:
        for label in row.turns:
            turns = row.upto(label.index).readable[-READ_BACK:]
            if turns:
                by_policy = found.setdefault(row.policies, {})
                by_policy.setdefault(label.policy, []).append(Example(turns=turns, policy=label.policy))
    return [
        Asked(policies=data.taxonomies[name].policies, examples=by_policy)
        for name, by_policy in found.items()
        if any(by_policy)  # a set all of whose turns are "none" teaches nothing
    ]


def deal(mixture: Mixture, at: int, plan: Plan) -> Step:
    """Step number `at`: a function of its arguments alone, so that a run may stop and go on."""
    rng = random.Random(f"{plan.seed} {at}")  # noqa: S311 - a draw, not a secret
    name = rng.choices([each.name for each in mixture.figures], [each.weight for each in mixture.figures])[0]
    sets = mixture.sources[name]
    # By the root of its turns: a set for everything has twenty times those of a small team's, and more to teach.
    one = rng.choices(sets, [sum(map(len, each.examples.values())) ** 0.5 for each in sets])[0]
    known = [id for id in one.policies.ids if id in one.examples]
    if len(one.policies) <= plan.laid and len(sets) > 1:
        # A set that a team wrote is laid out whole: its policies were meant to stand beside each other.
        laid = rng.sample(one.policies.ids, len(one.policies))
    else:
        laid = _laid(one.policies, known, plan.laid, rng)
    outside: list[str | None] = [id for id in one.examples if id not in laid]
    inside = [id for id in known if id in laid]
    examples: list[Example] = []
    for _ in range(plan.batch):
        strange = outside and rng.random() < plan.strangers
        examples.append(rng.choice(one.examples[rng.choice(outside if strange else inside)]))
    return Step(source=name, policies=tuple(one.policies[id] for id in laid), examples=tuple(examples))


def _laid(policies: PolicySet, known: list[str], most: int, rng: random.Random) -> list[str]:
    """Up to `most` of the policies that have examples, half of them of one domain."""
    known = rng.sample(known, len(known))
    size = min(rng.randint(min(6, most), most), len(known))
    domain = policies[known[0]].domain
    near = [id for id in known if policies[id].domain == domain][: (size + 1) // 2]
    return [*near, *(id for id in known if id not in near)][:size]
