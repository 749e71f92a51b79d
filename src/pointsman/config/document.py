"""A YAML file as plain values that remember their lines. Knows nothing of policies.

Only the YAML that a policy file needs: mappings with text keys, lists, text, numbers, booleans, null, and anchors.
Values are not dates, sets or objects; a key given twice is a problem and not a silent overwrite.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import msgspec
import yaml

from pointsman.errors import ConfigError, Problem

Key = tuple[str | int, ...]

# A policy file of 200 policies with ten examples each is 150 KB; what is far larger is some other file.
MAX_BYTES = 1024 * 1024
# Anchors may be used, but a "billion laughs" of nested aliases must not be unfolded.
MAX_VALUES = 200_000
MAX_DEPTH = 50
_LONGEST = 300


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """`value` is the file's content; `lines` has the line (from 1) of every key and list item by its path.

    `problems` are those of its form that leave the rest readable, such as a key given twice.
    """

    value: object
    lines: dict[Key, int]
    problems: tuple[Problem, ...] = ()

    def problem(self, key: Key, message: str, mend: str = "") -> Problem:
        """A Problem at `key`, with the line of the nearest ancestor that the file really has."""
        place = key
        while place and place not in self.lines:
            place = place[:-1]
        line = self.lines.get(place, 1)
        return Problem(path=_shown(spell(key)), message=_shown(message), mend=_shown(mend), line=line)


def spell(key: Key) -> str:
    """`policies.legal.models[0]` for `("policies", "legal", "models", 0)`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(text: str) -> str:
    """`text` as it may stand in one line on a terminal: names come from the file and may hold anything."""
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    return "".join(char if char.isprintable() else "�" for char in text)


def read(path: Path) -> bytes:
    """The file's bytes. Raises ConfigError if it is missing, unreadable, too large or no text."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refused(path, "no such file", "check the path") from None
    except IsADirectoryError:
        raise _refused(path, "is a folder", "name the policy file in it") from None
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}", "check its permissions") from None
    except ValueError:  # a path with a NUL in it
        raise _refused(path, "cannot be the name of a file", "check how the name is put together") from None
    if len(data) > MAX_BYTES:
        size = path.stat().st_size / 1024 / 1024
        raise _refused(path, f"is {size:.1f} MB, the limit is 1 MB", "is this the policy file?")
    return data


def parse(data: bytes, *, file: str | None = None) -> Document:
    """The document in YAML `data`. Raises ConfigError if it is no YAML text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = "is not UTF-8 text" if b"\0" not in data else "is a binary file"
        raise ConfigError([Problem(path="", message=message, mend="save it as UTF-8", line=line)], file=file) from None
    if "\0" in text:
        raise ConfigError([Problem(path="", message="is a binary file", mend="is this the policy file?")], file=file)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        walk = _Walk(loader)
        value = walk.value(node, ()) if node else None
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax(error)], file=file) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"character U+{cast('int', error.character):04X} is not allowed in YAML"
        raise ConfigError([Problem(path="", message=message, mend="remove it", line=line)], file=file) from None
    except _TooMuch as error:
        raise ConfigError([error.problem], file=file) from None
    except (ValueError, OverflowError):  # PyYAML hands on what `chr` says to "\UFFFFFFFF"
        mend = "look for a \\U escape beyond U+10FFFF"
        raise ConfigError([Problem(path="", message="is not valid YAML", mend=mend)], file=file) from None
    return Document(value=value, lines=walk.lines, problems=tuple(walk.problems))


class _TooMuch(Exception):
    def __init__(self, node: yaml.Node | yaml.Event, message: str, mend: str) -> None:
        line = node.start_mark.line + 1 if node.start_mark else None
        self.problem = Problem(path="", message=message, mend=mend, line=line)


class _Loader(yaml.SafeLoader):
    """Not libyaml's loader, which takes a minute over 100,000 open brackets; this one stops at the first too many."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            event = cast("yaml.Event", self.peek_event())  # pyright: ignore[reportUnknownMemberType]
            raise _TooMuch(event, "is nested too deep", "a policy file has no more than seven levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Walk:
    """One pass over the YAML nodes, collecting lines and problems."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.lines: dict[Key, int] = {}
        self.problems: list[Problem] = []
        self.left = MAX_VALUES

    def value(self, node: yaml.Node, key: Key) -> object:
        self.left -= 1
        if self.left <= 0:
            raise _TooMuch(node, f"unfolds to more than {MAX_VALUES:,} values", "use fewer aliases")
        if len(key) > MAX_DEPTH:
            raise _TooMuch(node, "is nested too deep", "an anchor must not hold itself")
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            items = cast("list[yaml.Node]", node.value)
            return [self.value(item, (*key, index)) for index, item in enumerate(items)]
        return self.scalar(cast("yaml.ScalarNode", node), key)

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, object]:
        found: dict[str, object] = {}
        for name_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag.endswith(":merge"):
                self.problems.append(
                    Problem(path=spell(key), message="a key must be plain text", mend="write the keys out", line=line)
                )
                continue
            # The text as written: `on:` and `1:` are names here, not booleans or numbers.
            name = str(name_node.value)
            child = (*key, name)
            if name in found:
                mend = f"it is first given on line {self.lines[child]}; keep one"
                self.problems.append(Problem(path=spell(child), message="is given twice", mend=mend, line=line))
                continue
            self.lines[child] = line
            found[name] = self.value(value_node, child)
        return found

    def scalar(self, node: yaml.ScalarNode, key: Key) -> object:
        kind = node.tag.rpartition(":")[2]
        if kind not in ("int", "float", "bool", "null"):
            return str(node.value)
        try:
            value = cast("object", self.loader.construct_object(node))  # pyright: ignore[reportUnknownMemberType]
        except (ValueError, LookupError, ArithmeticError, yaml.YAMLError):  # `!!int x`, `!!bool 7`
            return str(node.value)
        return value


# What PyYAML quotes from the file. Single characters and its own `<block end>` stay.
_QUOTED = re.compile(r" '(?!<|\\)[^']{2,}'")


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    # Only the parser's own words: the snippet that it offers, or the name of an alias that is none, could hold a key.
    mark = error.problem_mark or error.context_mark
    said = " ".join(part for part in (error.context, error.problem) if part)
    said = _QUOTED.sub("", said)
    mend = "check the indentation, quotes and colons there and on the line above"
    if r"'\t'" in said:
        mend = "indent with spaces, not tabs"
    return Problem(path="", message=f"is not valid YAML: {said}", mend=mend, line=mark.line + 1 if mark else None)


def _refused(path: Path, message: str, mend: str) -> ConfigError:
    return ConfigError([Problem(path="", message=message, mend=mend)], file=str(path))
