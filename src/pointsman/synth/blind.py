"""Blind labels: turns drawn at random, labelled again by a reader who does not see their label, and what came of it.

A sheet has the conversation up to the turn and a policy set drawn for it: all actions of its domain and of three
others, described in the hand that the whole taxonomy is offered in. So a reader may take it for a sibling, for
something else altogether, or for nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec

from pointsman.synth.build import SHOWN
from pointsman.synth.corpus import Corpus
from pointsman.synth.written import Item, Turn


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader sees. `messages` end with the user turn to be labelled, at place `index` of the item's."""

    item: str
    """The item's id without its domain, which would tell the reader half of the label."""
    index: int
    messages: tuple[dict[str, object], ...]
    policies: tuple[Offered, ...]


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader says of it: a name out of the sheet's policies, or None if none fits."""

    item: str
    index: int
    label: str | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `review/blind.jsonl`: the label that the corpus gives, the reader's, and whether they are near."""

    item: str
    index: int
    label: str | None
    again: str | None
    near: bool = False


def sheets(corpus: Corpus, *, count: int, seed: int) -> list[Sheet]:
    """`count` turns of different items, drawn at random; the same ones for a seed."""
    rng = random.Random(seed)  # noqa: S311 - reproducible is the point
    drawn = rng.sample(corpus.items, min(count, len(corpus.items)))
    return [_sheet(item, rng.choice(item.turns), corpus, rng) for item in drawn]


def _sheet(item: Item, turn: Turn, corpus: Corpus, rng: random.Random) -> Sheet:
    home = turn.work.partition(".")[0] if turn.work else item.domain
    others = rng.sample([domain for domain in corpus.catalogue.domains if domain != home], 3)
    offered = [id for domain in (home, *others) for id in corpus.catalogue.domains[domain]]
    rng.shuffle(offered)
    return Sheet(
        item=_anonymous(item.id),
        index=turn.index,
        messages=item.messages[: turn.index + 1],
        policies=tuple(Offered(name=id, description=corpus.catalogue[id].descriptions[SHOWN]) for id in offered),
    )


def _anonymous(id: str) -> str:
    return id.rpartition("-")[2]


def compared(corpus: Corpus, labels: Sequence[Label]) -> list[Verdict]:
    """The reader's labels beside the corpus's, for the turns that are still there, in the order given."""
    items: Mapping[str, Item] = {_anonymous(item.id): item for item in corpus.items}
    made: list[Verdict] = []
    for said in labels:
        item = items.get(_anonymous(said.item))
        for turn in item.turns if item else ():
            if item and turn.index == said.index:
                near = bool(turn.work and said.label in corpus.catalogue.neighbours[turn.work])
                made.append(Verdict(item=item.id, index=said.index, label=turn.work, again=said.label, near=near))
    return made
