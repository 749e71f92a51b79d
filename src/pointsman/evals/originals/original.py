"""What an original is, and what its loaders share: JSON read by type, finding a file, the policy sets shipped here.

Knows no single original, no network and no archive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from pointsman.dataset import Example, PolicySetFile
from pointsman.errors import DataError, Problem


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What an original becomes. The examples of every split refer to `taxonomy` by its name."""

    taxonomy: PolicySetFile
    splits: Mapping[str, tuple[Example, ...]]


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """Public data that can be had from its authors. `where` says for a reader which place and which files."""

    name: str
    licence: str
    citation: str
    where: str
    build: Callable[[Path], Rebuilt]
    """From a file or folder on this machine. Raises DataError."""


# Enough to see what is going wrong; a file of another version would give the same line twenty thousand times.
_SHOWN = 20


def refuse(problems: Sequence[Problem]) -> NoReturn:
    """Raise DataError with the first twenty problems, and how many more there are."""
    more = len(problems) - _SHOWN
    rest = [Problem(path="", message=f"and {more} more like these", file=problems[-1].file)] if more > 0 else []
    raise DataError([*problems[:_SHOWN], *rest])


def refused(file: Path | str, message: str, mend: str = "", *, path: str = "") -> DataError:
    return DataError([Problem(path=path, message=message, mend=mend, file=str(file))])


def shipped(name: str) -> PolicySetFile:
    """A policy set of ours, by its file's name."""
    file = resources.files("pointsman.evals.originals").joinpath("policies", f"{name}.json")
    return msgspec.json.decode(file.read_bytes(), type=PolicySetFile)


def by_action(taxonomy: PolicySetFile) -> dict[str, str]:
    """Policy ids by their action, for originals whose labels are flat."""
    return {entry.name.partition(".")[2]: entry.name for entry in taxonomy.policies}


def tidy(text: str) -> str:
    return " ".join(text.split())


def find(location: Path, name: str) -> Path:
    """The file `name` in a folder, or in the one nearest below that has it; a file is taken whatever its name."""
    if location.is_file():
        return location
    if not location.is_dir():
        raise refused(location, "is not there", f"give {name}, or a folder that holds it")
    found = below(location, name)
    if not found:
        raise refused(location, f"holds no {name}", "is this the right folder?")
    return found[0]


def below(location: Path, pattern: str) -> list[Path]:
    """Files in and under a folder, the nearest first. Leaves out what is hidden, and what macOS adds to archives."""
    found = [path for path in location.rglob(pattern) if path.is_file()]
    seen = [path for path in found if not _hidden(path.relative_to(location))]
    return sorted(seen, key=lambda path: (len(path.parts), path))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


_T = TypeVar("_T")

_PLACE = re.compile(r" - at `\$\.?(?P<path>.*)`$")


def read_json(file: Path, type: type[_T], mend: str) -> _T:
    """A JSON file as `type`. Raises DataError, its `mend` as given."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise refused(file, f"cannot be read: {error.strerror}", mend) from None
    return decode(data, type, file, mend)


def decode(data: bytes | msgspec.Raw, type: type[_T], file: Path, mend: str, *, within: str = "") -> _T:
    """JSON from a file as `type`; `within` is the path of the part that it is. Raises DataError."""
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        said = str(error)
        place = _PLACE.search(said)
        path = ".".join(part for part in (within, place["path"] if place else "") if part)
        what = said[: place.start()] if place else said
        raise refused(file, f"is not as expected: {what[:1].lower()}{what[1:]}", mend, path=path) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error).removeprefix("JSON is malformed: ")
        raise refused(file, f"is no JSON: {said}", mend, path=within) from None
