"""Policy sets over the catalogue: what is on offer, and which of it is right for a turn.

An Offer says of each policy which kinds of work it covers, so that one written request has a gold in every set: a
policy, "none of them", or no answer because one could argue. `sets/<name>.yaml` are the offers that teams would write.
Knows no conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import msgspec

from pointsman.config.decode import decode
from pointsman.config.document import Document, parse, read
from pointsman.errors import ConfigError, DataError, Problem
from pointsman.policy import Policy, PolicySet
from pointsman.synth.catalogue import Catalogue


class _Unsure(Enum):
    UNSURE = "unsure"


UNSURE: Final = _Unsure.UNSURE
"""One could argue: a turn of this work is not asked with this offer."""

Gold = str | None | Literal[_Unsure.UNSURE]
"""The id of a policy on offer, None for "none of them", or UNSURE."""


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A policy on offer, and the ids of the catalogue (actions, or domains for all of theirs) that belong to it."""

    policy: Policy
    covers: frozenset[str] = frozenset()


class Offer(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Policies on offer, in order.

    With `strict` only what is in `outside`, or of a domain that is mentioned nowhere, is surely none of them, for the
    descriptions were written freely and may catch more than they say. Without it the descriptions are the catalogue's
    own, and what no policy covers is none of them unless it is near something that one does.
    """

    name: str
    entries: tuple[Offered, ...]
    unsure: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()
    strict: bool = False

    @property
    def policies(self) -> PolicySet:
        """Raises ValueError if two policies have one id."""
        return PolicySet(entry.policy for entry in self.entries)

    @cached_property
    def _covered(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            for id in entry.covers:
                found.setdefault(id, []).append(entry.policy.id)
        return found

    @cached_property
    def _mentioned(self) -> frozenset[str]:
        """The domains of everything covered or unsure."""
        return frozenset(id.partition(".")[0] for id in (*self._covered, *self.unsure))

    def gold(self, work: str | None, catalogue: Catalogue) -> Gold:
        """What is right for a turn that asks for the action `work`, or for nothing (None)."""
        if work is None:
            return None
        domain = work.partition(".")[0]
        # What is said of the action itself goes before what is said of its domain.
        if policies := self._covered.get(work):
            return policies[0] if len(policies) == 1 else UNSURE
        if work in self.unsure or work in self.outside:
            return UNSURE if work in self.unsure else None
        if policies := self._covered.get(domain):
            return policies[0] if len(policies) == 1 and not self._rivals(work, catalogue) else UNSURE
        if domain in self.outside:
            return None
        argued = domain in self.unsure or self._rivals(work, catalogue) or (self.strict and domain in self._mentioned)
        return UNSURE if argued else None

    def _rivals(self, work: str, catalogue: Catalogue) -> bool:
        """Whether a policy covers something near `work`."""
        near = catalogue.neighbours[work]
        return any(other in self._covered or other.partition(".")[0] in self._covered for other in near if "." in other)


# Sets as teams write them ---------------------------------------------------------------------------------------------


class _PolicyEntry(msgspec.Struct, frozen=True, kw_only=True):
    description: str
    covers: list[str]


class _SetEntry(msgspec.Struct, frozen=True, kw_only=True):
    set: str
    about: str
    policies: dict[str, _PolicyEntry]
    unsure: list[str] = []
    outside: list[str] = []


_ID = re.compile(r"[A-Za-z][\w-]*(\.[A-Za-z0-9][\w-]*)?")


def load(folder: Path, catalogue: Catalogue) -> tuple[Offer, ...]:
    """The sets of a folder of `<name>.yaml`, in the order of names. Raises DataError with all problems."""
    problems: list[Problem] = []
    offers = [_set(file, catalogue, problems) for file in sorted(folder.glob("*.yaml"))]
    if problems:
        raise DataError(problems)
    return tuple(filter(None, offers))


def _set(file: Path, catalogue: Catalogue, problems: list[Problem]) -> Offer | None:
    found: list[Problem] = []
    offer: Offer | None = None
    try:
        document = parse(read(file), file=str(file))
        found += document.problems
        entry = decode(document, _SetEntry, found)
        if entry.set != file.stem:
            found.append(document.problem(("set",), f"is not the file's name, {file.stem}"))
        found += _checked(entry, document, catalogue)
        offer = Offer(
            name=entry.set,
            entries=tuple(
                Offered(
                    policy=Policy(id=id, description=" ".join(each.description.split())), covers=frozenset(each.covers)
                )
                for id, each in entry.policies.items()
            ),
            unsure=frozenset(entry.unsure),
            outside=frozenset(entry.outside),
            strict=True,
        )
    except ConfigError as error:
        found += error.problems
    problems += (msgspec.structs.replace(each, file=str(file)) for each in found)
    return None if found else offer


def _checked(entry: _SetEntry, document: Document, catalogue: Catalogue) -> Sequence[Problem]:
    """What is wrong with the meaning of a set."""
    found: list[Problem] = []
    taken: dict[str, str] = {}
    for id, policy in entry.policies.items():
        if not _ID.fullmatch(id):
            said = "is no policy's id"
            found.append(document.problem(("policies", id), said, "letters, digits, _ and -, at most one dot"))
        if not policy.description.strip():
            found.append(document.problem(("policies", id, "description"), "is empty"))
        for at, work in enumerate(policy.covers):
            key = ("policies", id, "covers", at)
            found += _unknown(work, document, key, catalogue)
            if work in taken:
                found.append(document.problem(key, f"{work} is covered by {taken[work]} too", "one policy takes it"))
            taken[work] = id
    if not taken:
        found.append(document.problem(("policies",), "cover nothing"))
    for name, works in (("unsure", entry.unsure), ("outside", entry.outside)):
        for at, work in enumerate(works):
            found += _unknown(work, document, (name, at), catalogue)
            if work in taken:
                found.append(document.problem((name, at), f"{work} is covered by {taken[work]}", "take it out of one"))
    return found


def _unknown(work: str, document: Document, key: tuple[str | int, ...], catalogue: Catalogue) -> Iterable[Problem]:
    if work not in catalogue:
        yield document.problem(key, f"{work!r} is in no file of the taxonomy")
