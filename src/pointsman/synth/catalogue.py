"""The corpus's taxonomy: every domain and action of the work that people give to language models, each described in
five hands. `taxonomy/<domain>.yaml` to Catalogue, or every Problem with its line.

The two levels are Arch-Router's (arXiv 2506.16655, section 3). Knows no conversation and no policy set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import msgspec

from pointsman.config.decode import decode
from pointsman.config.document import parse, read
from pointsman.errors import ConfigError, DataError, Problem

Hand = Literal["noun", "terse", "imperative", "wordy", "except"]
"""How an author describes a kind of work: a noun phrase, few words, a command, a careful sentence, with exclusions."""

HANDS: tuple[Hand, ...] = get_args(Hand)


class _Described(msgspec.Struct, frozen=True, kw_only=True):
    names: list[str]
    noun: str
    terse: str
    imperative: str
    wordy: str
    excluding: str = msgspec.field(name="except")

    def said(self, hand: Hand) -> str:
        """The description, in one line."""
        return " ".join((self.excluding if hand == "except" else getattr(self, hand)).split())


class _ActionEntry(_Described, frozen=True, kw_only=True):
    near: list[str] = []


class _DomainEntry(_Described, frozen=True, kw_only=True):
    domain: str
    actions: dict[str, _ActionEntry]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of work: a domain (`legal`) or an action (`legal.contract_review`).

    `names` are what else a team would call it; `near` are ids under which a careful reader might file its requests too.
    """

    id: str
    names: tuple[str, ...]
    descriptions: Mapping[Hand, str]
    near: frozenset[str] = frozenset()

    @property
    def domain(self) -> str:
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        """The id's last part."""
        return self.id.rpartition(".")[2]


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All domains and actions by id, a domain before its actions, in the order of the files."""

    works: Mapping[str, Work]

    def __getitem__(self, id: str) -> Work:
        return self.works[id]

    def __contains__(self, id: object) -> bool:
        return id in self.works

    def __iter__(self) -> Iterator[Work]:
        return iter(self.works.values())

    @cached_property
    def actions(self) -> tuple[str, ...]:
        return tuple(id for id in self.works if "." in id)

    @cached_property
    def domains(self) -> Mapping[str, tuple[str, ...]]:
        """Each domain's actions."""
        found: dict[str, list[str]] = {}
        for work in self:
            found.setdefault(work.domain, []).extend([work.id] if "." in work.id else [])
        return {domain: tuple(actions) for domain, actions in found.items()}

    @cached_property
    def neighbours(self) -> Mapping[str, frozenset[str]]:
        """`near`, both ways."""
        found: dict[str, set[str]] = {id: set() for id in self.works}
        for work in self:
            for other in work.near:
                found[work.id].add(other)
                found[other].add(work.id)
        return {id: frozenset(others) for id, others in found.items()}


def load(folder: Path) -> Catalogue:
    """The catalogue of a folder of `<domain>.yaml`. Raises DataError with all problems."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise DataError(
            [Problem(path="", message="holds no <domain>.yaml", mend="see corpus/STYLE.md", file=str(folder))]
        )
    problems: list[Problem] = []
    works: dict[str, Work] = {}
    places: dict[str, tuple[Path, int | None]] = {}
    for file in files:
        for work, line in _domain(file, problems):
            works[work.id] = work
            places[work.id] = (file, line)
    for work in works.values():
        for other in sorted(work.near - works.keys()):
            file, line = places[work.id]
            said = f"is near {other!r}, which is no action of the taxonomy"
            problems.append(Problem(path=work.id, message=said, line=line, file=str(file)))
    if problems:
        raise DataError(problems)
    return Catalogue(works=works)


def _domain(file: Path, problems: list[Problem]) -> Sequence[tuple[Work, int | None]]:
    """The domain of a file and its actions, each with its line; nothing if `problems` grew."""
    found: list[Problem] = []
    made: list[tuple[Work, int | None]] = []
    try:
        document = parse(read(file), file=str(file))
        found += document.problems
        entry = decode(document, _DomainEntry, found)
        if entry.domain != file.stem:
            found.append(document.problem(("domain",), f"is not the file's name, {file.stem}"))
        made.append((_work(entry.domain, entry), 1))
        for name, action in entry.actions.items():
            key = ("actions", name)
            for hand in HANDS:
                if not action.said(hand):
                    found.append(document.problem((*key, hand), "is empty", "describe the action in this hand"))
            id = f"{entry.domain}.{name}"
            if id in action.near:
                found.append(document.problem((*key, "near"), "names the action itself"))
            made.append((_work(id, action, action.near), document.lines.get(key)))
    except ConfigError as error:
        found += error.problems
    problems += (msgspec.structs.replace(each, file=str(file)) for each in found)
    return [] if found else made


def _work(id: str, entry: _Described, near: Sequence[str] = ()) -> Work:
    return Work(
        id=id, names=tuple(entry.names), descriptions={hand: entry.said(hand) for hand in HANDS}, near=frozenset(near)
    )
