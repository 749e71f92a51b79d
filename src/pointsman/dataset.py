"""Labelled conversations and the policy sets they refer to: files to Dataset, or every problem with its file and line.

    DIR/<split>/<source>.jsonl.gz     one conversation a line (`.jsonl` is read too), each labelled user turn by turn
    DIR/policies/<set>.json           the policy sets that the lines name

The format is docs/reference/eval-data.md. Knows no router, no scenario and no metric.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import itertools
import random
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from pointsman.conversation import Conversation, read
from pointsman.errors import DataError, Problem
from pointsman.policy import Policy, PolicySet


class Label(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one user turn is for. `index` is its place in `messages`; `policy` null says that none fits."""

    index: int
    policy: str | None
    closing: bool = False
    """The turn only thanks, declines or says goodbye: the request is fulfilled."""


class Example(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One labelled conversation. `turns` are in the order of the messages; a user turn without one is not judged."""

    id: str
    source: str
    policies: str
    """The name of the policy set on offer."""
    messages: tuple[dict[str, object], ...]
    turns: tuple[Label, ...]
    meta: dict[str, object] = {}
    """Whatever else is known of it: its language, where it comes from. Nothing here is read to route or judge."""

    def upto(self, index: int) -> Conversation:
        """What a router may see when it routes the turn at `index`: nothing after it."""
        return read(list(self.messages[: index + 1]))


class PolicyEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A policy as a set's file has it. `name` is `domain.action`, or a domain's name alone."""

    name: str
    description: str
    domain: str | None = None
    action: str | None = None
    examples: tuple[str, ...] = ()


class PolicySetFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A policy set's file. `domains`, where there are any, are the coarse policies of the same work."""

    name: str
    policies: tuple[PolicyEntry, ...]
    domains: tuple[PolicyEntry, ...] = ()


class Taxonomy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy set as an evaluation uses it.

    `policies` is what is on offer when all of it is; `domains` are the domain-level policies, empty if nobody wrote
    any, and may be part of `policies` (in a policy file they are).
    """

    name: str
    policies: PolicySet
    domains: PolicySet

    @property
    def digest(self) -> str:
        """16 hex digits over both."""
        return _digest((self.policies.digest, self.domains.digest))


class Source(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The examples of one file. `file` is its path below the data's folder, `sha256` that of its text, unpacked."""

    name: str
    split: str
    file: str
    sha256: str
    examples: tuple[Example, ...]

    @cached_property
    def turns(self) -> int:
        return sum(len(example.turns) for example in self.examples)


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation runs over. `skipped` are the lines that were left out because `skip_bad` was asked for."""

    sources: tuple[Source, ...]
    taxonomies: Mapping[str, Taxonomy]
    skipped: tuple[Problem, ...] = ()

    @property
    def conversations(self) -> str:
        """16 hex digits over the texts of all sources."""
        return _digest(f"{source.name} {source.sha256}" for source in self.sources)

    @property
    def policies(self) -> str:
        """16 hex digits over the policy sets that the sources name."""
        named = {example.policies for source in self.sources for example in source.examples}
        return _digest(f"{name} {self.taxonomies[name].digest}" for name in sorted(named))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def load(
    path: Path,
    *,
    policies: Path | None = None,
    split: str | None = None,
    only: Sequence[str] = (),
    own: Taxonomy | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """The data in a folder, or in one file.

    `policies` is the folder of policy sets if it is not the data's own. `split` may be left out where there is one, or
    a `dev`. `only` names the sources wanted. `own` is a policy file's set: lines that name no set are judged by it.
    With `skip_bad` the lines that cannot be used are left out; without it they raise. Raises DataError with all
    problems.
    """
    files = _files(path, split=split, only=only)
    problems: list[Problem] = []
    folder = policies or (path / "policies" if path.is_dir() else None)
    taxonomies = _taxonomies(folder, problems) if folder and (policies or folder.is_dir()) else {}
    if own:
        taxonomies[own.name] = own
    sets_broken = len(problems)
    sources = [_source(each, path, taxonomies, own, problems) for each in files]
    if problems and (sets_broken or not skip_bad):
        raise DataError(problems)
    if not any(source.turns for source in sources):
        nothing = Problem(path="", message="holds no labelled user turn", file=str(path))
        raise DataError([nothing, *problems])
    return Dataset(sources=tuple(sources), taxonomies=taxonomies, skipped=tuple(problems))


def unlabelled(file: Path, *, skip_bad: bool = False) -> tuple[list[Conversation], list[Problem]]:
    """The conversations of a file of `{"messages": [...]}` lines, labelled or not, and the lines that are none.

    Raises DataError with all of them, unless `skip_bad`, and if nothing is left.
    """
    found: list[Conversation] = []
    problems: list[Problem] = []
    number = 0
    try:
        for number, text in enumerate(_lines(file), 1):
            if not text.strip():
                continue
            try:
                line = msgspec.json.decode(text.removeprefix(codecs.BOM_UTF8), type=_Messages)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                problems.append(Problem(path="", message=f"is no conversation: {error}", line=number, file=str(file)))
                continue
            found.append(read(list(line.messages)))
    except (OSError, EOFError, zlib.error) as error:
        said = "ends in the middle of its gzip stream" if isinstance(error, EOFError) else f"cannot be read: {error}"
        problems.append(Problem(path="", message=said, mend="get the file again", line=number + 1, file=str(file)))
    if problems and not skip_bad:
        raise DataError(problems)
    if not any(each.readable for each in found):
        raise DataError([Problem(path="", message="holds no user turn", file=str(file)), *problems])
    return found, problems


def taxonomy(name: str, policies: PolicySet) -> Taxonomy:
    """The set of a policy file, whose domain-level policies stand among the others."""
    return Taxonomy(name=name, policies=policies, domains=PolicySet(each for each in policies if not each.action))


def shown(data: Dataset, train: Path, shots: int, *, seed: int) -> Dataset:
    """`data` whose policies have up to `shots` first requests each, out of the sources' files in the folder `train`.

    A source without such a file, and a policy that nobody asks for in it, stay as they are. Raises DataError if no
    source has one.
    """
    wanted = [source.name for source in data.sources if source.name in _sources(train)]
    if not wanted:
        raise _refused(
            train, "holds none of these sources", "examples are taken from the training part; leave them out"
        )
    problems: list[Problem] = []
    pools: dict[tuple[str, str], set[str]] = {}
    for name, file in _sources(train).items():
        if name in wanted:
            for example in _source(file, train, data.taxonomies, None, problems).examples:
                first = example.turns[0] if example.turns else None
                turns = example.upto(first.index).readable if first else ()
                if first and first.policy and turns:
                    pools.setdefault((example.policies, first.policy), set()).add(turns[-1].text)
    if problems:
        raise DataError(problems)
    taxonomies = {name: _with_examples(each, pools, shots, seed) for name, each in data.taxonomies.items()}
    return msgspec.structs.replace(data, taxonomies=taxonomies)


def _with_examples(these: Taxonomy, pools: Mapping[tuple[str, str], set[str]], shots: int, seed: int) -> Taxonomy:
    def draw(policy: Policy) -> Policy:
        rng = random.Random(f"{seed}/{these.name}/{policy.id}")  # noqa: S311 - reproducible is the point
        pool = sorted(pools.get((these.name, policy.id), ()))
        return msgspec.structs.replace(policy, examples=tuple(rng.sample(pool, min(shots, len(pool)))))

    return msgspec.structs.replace(these, policies=PolicySet(map(draw, these.policies)))


def dump(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as a source's file; packed if its name ends in `.gz`. The same examples give the same bytes."""
    lines = b"".join(msgspec.json.encode(example) + b"\n" for example in examples)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines, mtime=0) if path.suffix == ".gz" else lines)


def dump_policies(folder: Path, policies: PolicySetFile) -> None:
    """Write a policy set's file, under its name. The same set gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(policies), indent=1) + b"\n"
    (folder / f"{policies.name}.json").write_bytes(encoded)


# Finding the files ----------------------------------------------------------------------------------------------------

_ENDINGS = (".jsonl.gz", ".jsonl")


def _files(path: Path, *, split: str | None, only: Sequence[str]) -> list[Path]:
    if path.is_file():
        name = _name(path)
        if split or (only and name not in only):
            raise _refused(path, "is one file", f"leave --split out, and --only, or name {name}")
        return [path]
    if not path.is_dir():
        raise _refused(path, "is not there", "give a folder of .jsonl.gz files, or one file")
    folder = path / split if split else path
    found = _sources(folder)
    if not found and not split:
        splits = sorted(each.name for each in path.iterdir() if each.is_dir() and _sources(each))
        if len(splits) > 1 and "dev" not in splits:
            raise _refused(path, f"has the splits {', '.join(splits)}", "choose one with --split")
        if splits:
            folder = path / ("dev" if "dev" in splits else splits[0])
            found = _sources(folder)
    if not found:
        raise _refused(folder, "holds no .jsonl.gz or .jsonl file", "see docs/reference/eval-data.md for the layout")
    missing = [name for name in only if name not in found]
    if missing:
        raise _refused(folder, f"has no source {', '.join(missing)}", f"there are {', '.join(found)}")
    return [file for name, file in found.items() if not only or name in only]


def _sources(folder: Path) -> dict[str, Path]:
    """Each source's file by its name, in the order of names. Raises DataError if two have one name."""
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    found: dict[str, Path] = {}
    for file in listed:
        if file.name.endswith(_ENDINGS):
            if other := found.get(_name(file)):
                raise _refused(file, f"stands beside {other.name}", "keep the one that is meant")
            found[_name(file)] = file
    return found


def _name(file: Path) -> str:
    """A source's name: its file's, without the ending."""
    return next(file.name.removesuffix(ending) for ending in (*_ENDINGS, file.suffix) if file.name.endswith(ending))


def _refused(path: Path, message: str, mend: str) -> DataError:
    return DataError([Problem(path="", message=message, mend=mend, file=str(path))])


# Policy sets ----------------------------------------------------------------------------------------------------------


def _taxonomies(folder: Path, problems: list[Problem]) -> dict[str, Taxonomy]:
    found: dict[str, Taxonomy] = {}
    if not folder.is_dir():
        raise _refused(folder, "is not a folder of policy sets", "give the folder that holds <set>.json")
    for file in sorted(folder.glob("*.json")):
        try:
            parsed = msgspec.json.decode(file.read_bytes(), type=PolicySetFile)
            made = Taxonomy(name=parsed.name, policies=_policies(parsed.policies), domains=_policies(parsed.domains))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OSError) as error:
            problems.append(Problem(path="", message=f"is not a policy set: {error}", file=str(file)))
            continue
        if parsed.name in found:
            problems.append(Problem(path="name", message=f"the set {parsed.name!r} is given twice", file=str(file)))
        found[parsed.name] = made
    return found


def _policies(entries: Sequence[PolicyEntry]) -> PolicySet:
    for each in entries:
        domain, _, action = each.name.partition(".")
        if (each.domain or domain) != domain or (each.action or action) != action:
            said = ".".join(filter(None, (each.domain or domain, each.action or action)))
            raise ValueError(f"the name {each.name!r} is not its domain and action, {said!r}")
    return PolicySet(Policy(id=each.name, description=each.description, examples=each.examples) for each in entries)


# Conversations --------------------------------------------------------------------------------------------------------


class _Messages(msgspec.Struct, frozen=True, kw_only=True):
    messages: tuple[dict[str, object], ...]


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line as written. What an Example needs and the line leaves out is filled in."""

    messages: tuple[dict[str, object], ...]
    id: str | int | None = None
    source: str | None = None
    policies: str | None = None
    turns: tuple[Label, ...] | None = None
    policy: str | msgspec.UnsetType | None = msgspec.UNSET
    meta: dict[str, object] = {}


def _source(
    file: Path, root: Path, taxonomies: Mapping[str, Taxonomy], own: Taxonomy | None, problems: list[Problem]
) -> Source:
    name = _name(file)
    digest = hashlib.sha256()
    examples: dict[str, Example] = {}
    first: dict[str, int] = {}

    def wrong(line: int, path: str, message: str, mend: str = "") -> None:
        problems.append(Problem(path=path, message=message, mend=mend, line=line, file=str(file)))

    number = 0
    try:
        for number, text in enumerate(_lines(file), 1):
            digest.update(text)
            if number == 1 and text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                wrong(1, "", "is UTF-16", "write it as UTF-8")
                break
            if not text.strip():
                continue
            try:
                example = _example(text.removeprefix(codecs.BOM_UTF8), name, taxonomies, own)
            except _BadLineError as error:
                wrong(number, error.path, error.message, error.mend)
                continue
            if not example.id:
                example = _named(example, first)
            if example.id in first:
                wrong(
                    number, "id", f"{example.id!r} is line {first[example.id]}'s too", "give every example its own id"
                )
                continue
            first[example.id] = number
            examples[example.id] = example
    except (OSError, EOFError, zlib.error) as error:
        said = "ends in the middle of its gzip stream" if isinstance(error, EOFError) else f"cannot be read: {error}"
        wrong(number + 1, "", said, "get the file again")
    return Source(
        name=name,
        split=file.parent.name if root.is_dir() and file.parent != root else "",
        file=file.relative_to(root).as_posix() if root.is_dir() else file.name,
        sha256=digest.hexdigest(),
        examples=tuple(examples.values()),
    )


def _named(example: Example, taken: Container[str]) -> Example:
    """The example with an id out of its messages, which stays when lines before it come and go."""
    digest = hashlib.sha256(msgspec.json.encode(example.messages)).hexdigest()[:12]
    ids = (digest if not number else f"{digest}-{number + 1}" for number in itertools.count())
    return msgspec.structs.replace(example, id=next(id for id in ids if id not in taken))


def _lines(file: Path) -> Iterator[bytes]:
    if file.suffix == ".gz" and not file.stat().st_size:
        raise EOFError
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
        yield from stream


class _BadLineError(Exception):
    def __init__(self, path: str, message: str, mend: str = "") -> None:
        self.path, self.message, self.mend = path, message, mend
        super().__init__(message)


def _example(text: bytes, name: str, taxonomies: Mapping[str, Taxonomy], own: Taxonomy | None) -> Example:
    """The example of a line; its id is empty if the line gives none. Raises _BadLineError."""
    try:
        line = msgspec.json.decode(text, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _BadLineError("", f"is no labelled conversation: {error}") from None
    turns = _labels(line)
    set_name = line.policies or (own.name if own else None)
    if set_name is None:
        raise _BadLineError("policies", "names no policy set", "name one, or give a policy file with -c")
    if set_name not in taxonomies:
        known = ", ".join(sorted(taxonomies)) or "none"
        raise _BadLineError("policies", f"there is no policy set {set_name!r}", f"the sets given are: {known}")
    offered = taxonomies[set_name].policies
    for at, label in enumerate(turns):
        if label.policy is not None and label.policy not in offered:
            raise _BadLineError(
                f"turns[{at}].policy", f"{label.policy!r} is not in the set {set_name!r}", "null says that none fits"
            )
    return Example(
        id=str(line.id) if line.id is not None else "",
        source=line.source or name,
        policies=set_name,
        messages=line.messages,
        turns=turns,
        meta=line.meta,
    )


def _labels(line: _Line) -> tuple[Label, ...]:
    """The line's labels by position. `policy` alone labels the newest user turn."""
    asked = [at for at, message in enumerate(line.messages) if message.get("role") == "user"]
    if not asked:
        raise _BadLineError("messages", "no message is a user's")
    if line.turns is not None and line.policy is not msgspec.UNSET:
        raise _BadLineError("policy", "there are turns too", "label turns, or the newest with policy, not both")
    if line.turns is None:
        if line.policy is msgspec.UNSET:
            raise _BadLineError("turns", "there is no label", 'write "turns": [{"index": 0, "policy": "…"}]')
        return (Label(index=asked[-1], policy=line.policy),)
    seen: set[int] = set()
    for at, label in enumerate(line.turns):
        if label.index not in asked:
            raise _BadLineError(
                f"turns[{at}].index", f"{label.index} is no user turn", f"user turns are {', '.join(map(str, asked))}"
            )
        if label.index in seen:
            raise _BadLineError(f"turns[{at}].index", f"{label.index} is labelled twice")
        if label.closing and label.policy is not None:
            raise _BadLineError(f"turns[{at}].closing", "a turn that only closes has no policy", "write null for it")
        seen.add(label.index)
    return tuple(sorted(line.turns, key=lambda label: label.index))
