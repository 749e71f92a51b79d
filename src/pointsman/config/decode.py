"""Plain values to typed structs, with every problem at once. Knows types, not what they are for.

`msgspec.convert` stops at the first thing that is wrong; a person who writes a file wants to see them all. So what is
wrong becomes a problem and a blank of its type, and the checks that follow can still find what else is wrong.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from msgspec import inspect

from pointsman.config.document import Document, Key
from pointsman.errors import Problem

T = TypeVar("T")


def decode(
    document: Document, cls: type[T], problems: list[Problem], *, at: Key = (), unknown: list[Problem] | None = None
) -> T:
    """`document.value` as a `cls` (a msgspec struct, dict or list type), blank where `problems` grew.

    Unknown keys are problems like all others, unless a list of their own is handed in.
    """
    decoder = _Decoder(document, problems, problems if unknown is None else unknown)
    return cast("T", decoder.value(inspect.type_info(cls), document.value, at))


def suggest(word: str, known: Iterable[str]) -> str:
    """ "did you mean `x`?" where something known is near, else the list of what is known."""
    choices = list(known)
    near = difflib.get_close_matches(word[:80], choices, n=1, cutoff=0.6)  # a body may hold a word of megabytes
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(choices) or 'none'}"


class _Decoder:
    def __init__(self, document: Document, problems: list[Problem], unknown: list[Problem]) -> None:
        self.document = document
        self.problems = problems
        self.unknown = unknown

    def value(self, info: inspect.Type, value: object, key: Key) -> Any:
        while isinstance(info, inspect.Metadata):
            info = info.type
        if isinstance(info, inspect.UnionType):
            member = _member(info, value)
            return self.wrong(info, key, _expected(info), value) if member is None else self.value(member, value, key)
        if isinstance(info, inspect.StructType):
            return self.struct(info, value, key)
        if isinstance(info, inspect.DictType):
            return self.mapping(info, value, key)
        if isinstance(info, inspect.ListType):
            if not isinstance(value, list):
                return self.wrong(info, key, "a list", value)
            return [self.value(info.item_type, item, (*key, i)) for i, item in enumerate(cast("list[object]", value))]
        return self.scalar(info, value, key)

    def struct(self, info: inspect.StructType, value: object, key: Key) -> Any:
        # An empty entry (`routing:` and nothing behind it) is the entry with its defaults.
        given: object = {} if value is None else value
        if not isinstance(given, dict):
            return self.wrong(info, key, "a mapping", value)
        entries = cast("dict[str, object]", given)
        fields = {field.encode_name: field for field in info.fields}
        for name in entries:
            if name not in fields:
                self.unknown.append(self.document.problem((*key, name), "unknown key", suggest(name, fields)))
        made: dict[str, Any] = {}
        for name, field in fields.items():
            if name in entries:
                made[field.name] = self.value(field.type, entries[name], (*key, name))
            elif field.required:
                self.note((*key, name), "is missing", f"add `{name}:`")
                made[field.name] = _blank(field.type)
        return info.cls(**made)

    def mapping(self, info: inspect.DictType, value: object, key: Key) -> Any:
        given: object = {} if value is None else value
        if not isinstance(given, dict):
            return self.wrong(info, key, "a mapping", value)
        entries = cast("dict[str, object]", given)
        return {name: self.value(info.value_type, item, (*key, name)) for name, item in entries.items()}

    def scalar(self, info: inspect.Type, value: object, key: Key) -> Any:
        if isinstance(info, inspect.LiteralType):
            return self.literal(info, value, key)
        if isinstance(info, inspect.StrType):
            return self.text(info, value, key)
        if isinstance(info, inspect.FloatType):
            return self.number(info, value, key)
        if isinstance(info, inspect.BoolType):
            return value if isinstance(value, bool) else self.wrong(info, key, "true or false", value)
        return None if value is None else self.wrong(info, key, "nothing", value)

    def literal(self, info: inspect.LiteralType, value: object, key: Key) -> Any:
        # `True` equals 1, and is none.
        alike = type(value) in {type(known) for known in info.values}
        if alike and value in info.values:
            return value
        expected = " or ".join(f"`{known}`" for known in info.values)
        if alike:
            self.note(key, f"should be {expected} and nothing else", "")
            return _blank(info)
        return self.wrong(info, key, expected, value)

    def text(self, info: inspect.StrType, value: object, key: Key) -> Any:
        if not isinstance(value, str):
            return self.wrong(info, key, "text", value)
        try:
            value.encode()
        except UnicodeEncodeError:
            # `"\\ud83d"`: YAML and JSON can spell it, but no digest, header or provider can take it.
            self.note(key, "holds half of a character", "write the character itself in place of its \\u escapes")
            return _blank(info)
        return value

    def number(self, info: inspect.FloatType, value: object, key: Key) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.wrong(info, key, "a number", value)
        if isinstance(value, float) and not math.isfinite(value):
            self.note(key, "is not a finite number", "")
            return _blank(info)
        if (info.gt is not None and value <= info.gt) or (info.ge is not None and value < info.ge):
            least = f"more than {info.gt:g}" if info.gt is not None else f"at least {info.ge:g}"
            self.note(key, f"{_number(value)} is too small", f"write {least}")
            return _blank(info)
        if info.le is not None and value > info.le:
            self.note(key, f"{_number(value)} is too large", f"write at most {info.le:g}")
            return _blank(info)
        return float(value)

    def wrong(self, info: inspect.Type, key: Key, expected: str, value: object) -> Any:
        mend = ""
        if "text" in expected and isinstance(value, bool | int | float):
            mend = "put it in quotes"
        elif "number" in expected and isinstance(value, str):
            mend = "write it in digits, without quotes"
        # The value itself stays out of the message: it could be a key.
        self.note(key, f"should be {expected}, but is {_kind(value)}", mend)
        return _blank(info)

    def note(self, key: Key, message: str, mend: str) -> None:
        self.problems.append(self.document.problem(key, message, mend))


def _blank(info: inspect.Type) -> Any:
    """An empty value of a type, to stand for one that was wrong."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, inspect.StructType):
        return info.cls(**{field.name: _blank(field.type) for field in info.fields if field.required})
    if isinstance(info, inspect.UnionType):
        return _blank(info.types[0])
    if isinstance(info, inspect.LiteralType):
        return info.values[0]
    blanks: dict[type, object] = {
        inspect.DictType: {},
        inspect.ListType: [],
        inspect.StrType: "",
        inspect.FloatType: 1.0,
        inspect.BoolType: False,
    }
    return blanks.get(type(info))


def _member(info: inspect.UnionType, value: object) -> inspect.Type | None:
    """The member of a union that a value of this kind is meant for."""
    kinds: dict[type, tuple[type, ...]] = {
        type(None): (inspect.NoneType,),
        str: (inspect.StrType, inspect.LiteralType),
        list: (inspect.ListType,),
        dict: (inspect.StructType, inspect.DictType),
    }
    wanted = kinds.get(type(value), (inspect.FloatType,))
    for member in info.types:
        bare = member.type if isinstance(member, inspect.Metadata) else member
        if isinstance(bare, wanted):
            return member
    return None


def _expected(info: inspect.UnionType) -> str:
    names: dict[type, str] = {
        inspect.ListType: "a list", inspect.StructType: "a mapping", inspect.DictType: "a mapping",
        inspect.FloatType: "a number", inspect.StrType: "text", inspect.LiteralType: "text",
    }  # fmt: skip
    bare = (member.type if isinstance(member, inspect.Metadata) else member for member in info.types)
    return " or ".join(names[type(member)] for member in bare if not isinstance(member, inspect.NoneType))


def _number(value: float) -> str:
    try:
        return f"{value:g}"
    except OverflowError:  # an integer of hundreds of digits
        return "the number"


def _kind(value: object) -> str:
    names: dict[type, str] = {
        str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list", dict: "a mapping",
    }  # fmt: skip
    return names.get(type(value), "empty")
