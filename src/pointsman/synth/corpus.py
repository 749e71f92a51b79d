"""The written corpus as one value: taxonomy, items, policy sets, and the split.

    FOLDER/taxonomy/<domain>.yaml   catalogue.py
    FOLDER/written/<domain>.txt     written.py
    FOLDER/sets/<name>.yaml         offers.py
    FOLDER/split.yaml               the domains, actions and sets that training never sees

The split is by domain and policy, never by row: an item that asks for a held-out action anywhere is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from pointsman.config.decode import decode
from pointsman.config.document import parse, read
from pointsman.errors import ConfigError, DataError, Problem
from pointsman.synth import catalogue as taxonomy
from pointsman.synth import offers, written
from pointsman.synth.catalogue import Catalogue
from pointsman.synth.offers import Offer
from pointsman.synth.written import Item


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """What is held out: whole domains, single actions, policy sets by name."""

    domains: list[str]
    actions: list[str]
    sets: list[str]


class Corpus(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A corpus folder, read and consistent."""

    catalogue: Catalogue
    items: tuple[Item, ...]
    sets: tuple[Offer, ...]
    split: Split

    @cached_property
    def held_out(self) -> frozenset[str]:
        """The actions that training never sees."""
        domains = (action for domain in self.split.domains for action in self.catalogue.domains[domain])
        return frozenset([*domains, *self.split.actions])

    @cached_property
    def train(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.works.isdisjoint(self.held_out))

    @cached_property
    def heldout(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if not item.works.isdisjoint(self.held_out))

    @cached_property
    def digest(self) -> str:
        """16 hex digits over items, taxonomy, sets and split."""
        parts = [
            *(item.id for item in self.items),
            *(
                msgspec.json.encode([work.id, work.names, dict(work.descriptions), sorted(work.near)])
                for work in self.catalogue
            ),
            *(
                msgspec.json.encode(
                    [
                        offer.name,
                        [[each.policy.id, each.policy.description, sorted(each.covers)] for each in offer.entries],
                        sorted(offer.unsure),
                        sorted(offer.outside),
                    ]
                )
                for offer in self.sets
            ),
            msgspec.json.encode(self.split),
        ]
        joined = b"\n".join(part.encode() if isinstance(part, str) else part for part in parts)
        return hashlib.sha256(joined).hexdigest()[:16]


def load(folder: Path) -> Corpus:
    """The corpus in a folder. Raises DataError with all problems of all files."""
    works = taxonomy.load(folder / "taxonomy")
    problems: list[Problem] = []
    items = written.load(folder / "written", actions=frozenset(works.actions), problems=problems)
    problems += _twice(items, folder)
    if not items and not problems:
        problems.append(
            Problem(path="", message="holds no <domain>.txt", mend="see corpus/STYLE.md", file=str(folder / "written"))
        )
    sets: tuple[Offer, ...] = ()
    try:
        sets = offers.load(folder / "sets", works)
    except DataError as error:
        problems += error.problems
    split = _split(folder / "split.yaml", works, sets, problems)
    if problems:
        raise DataError(problems)
    return Corpus(catalogue=works, items=items, sets=sets, split=split)


def _twice(items: Sequence[Item], folder: Path) -> Sequence[Problem]:
    seen: dict[str, Item] = {}
    found: list[Problem] = []
    for item in items:
        first = seen.setdefault(item.id, item)
        if first is not item:
            file = folder / "written" / f"{item.domain}.txt"
            said = f"is the same as the item on line {first.line}"
            found.append(Problem(path="", message=said, mend="drop one", line=item.line, file=str(file)))
    return found


def _split(file: Path, works: Catalogue, sets: Sequence[Offer], problems: list[Problem]) -> Split:
    """The split file; nothing is held out where there is none."""
    if not file.exists():
        return Split(domains=[], actions=[], sets=[])
    found: list[Problem] = []
    try:
        document = parse(read(file), file=str(file))
        split = decode(document, Split, found)
        known = {"domains": set(works.domains), "actions": set(works.actions), "sets": {each.name for each in sets}}
        for name, ids in known.items():
            for at, id in enumerate(getattr(split, name)):
                if id not in ids:
                    found.append(document.problem((name, at), f"there is no {id!r}"))
    except ConfigError as error:
        found += error.problems
        split = Split(domains=[], actions=[], sets=[])
    problems += (msgspec.structs.replace(each, file=str(file)) for each in found)
    return split
