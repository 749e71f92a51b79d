"""The top-level fields of a JSON object as byte ranges, replaced or removed without touching the rest.

A provider gets the caller's own bytes but for the fields that we own: nothing is re-encoded, reordered or rounded, and
a megabyte of conversation costs a copy and no parse. Knows JSON, and no dialect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from pointsman.errors import RequestError

# The API has some forty fields. Each costs memory and time many times its bytes.
FIELDS = 1000
NAME = 1000

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_START = re.compile(rb"[ \t\r\n]*\{")
_KEY = re.compile(rb'[ \t\r\n,]*"(?:[^"\\]|\\.)*"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_END = re.compile(rb"[ \t\r\n]*\}[ \t\r\n]*")
# Escapes of half a character, in group 1; the other escapes and whole pairs stand first, to be passed over.
_HALF = re.compile(rb"\\[^u]|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})")


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field: `key` is where it starts (with the comma before it, if any), `value` to `end` is its value."""

    key: int
    value: int
    end: int


class Body:
    """A JSON object and where its fields lie. Raises RequestError if the bytes are no such object."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            try:
                values = _OBJECT.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # Half a character is what is left where a client cuts a text of UTF-16; some providers take it. What
                # we read is a copy with a mark in its place, which is as long, so that all fields lie where they lay.
                data = _HALF.sub(_marked, data)
                values = _OBJECT.decode(data)
        except msgspec.ValidationError:
            raise RequestError("the body must be a JSON object") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RequestError("the body is not valid JSON") from None
        except RecursionError:
            raise RequestError("the body is nested too deep") from None
        if len(values) > FIELDS or any(len(name) > NAME for name in values):
            raise RequestError(f"the body has more than {FIELDS} fields, or a name of more than {NAME} characters")
        self.values = {name: bytes(value) for name, value in values.items()}
        self.fields = _locate(data, self.values)

    def get(self, name: str) -> object:
        """The decoded value of a field; None if it is absent. Raises RequestError if it cannot be decoded."""
        value = self.values.get(name)
        if value is None:
            return None
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RequestError(f"`{name}` is not valid JSON", param=name) from None
        except RecursionError:
            raise RequestError(f"`{name}` is nested too deep", param=name) from None

    def rewritten(self, *, replace: dict[str, object], remove: Iterable[str] = ()) -> bytes:
        """The body with some fields replaced (added in front where they are missing) and some removed."""
        edits: list[tuple[int, int, bytes]] = []
        added = b"".join(
            msgspec.json.encode(name) + b":" + msgspec.json.encode(value) + b","
            for name, value in replace.items()
            if name not in self.fields
        )
        for name, value in replace.items():
            if field := self.fields.get(name):
                edits.append((field.value, field.end, msgspec.json.encode(value)))
        edits += [(field.key, field.end, b"") for name in remove if (field := self.fields.get(name))]
        pieces: list[bytes] = []
        position = 0
        for start, end, new in sorted(edits):
            pieces += [self.data[position:start], new]
            position = end
        pieces.append(self.data[position:])
        return self._comma_mended(b"".join(pieces), added)

    def _comma_mended(self, data: bytes, added: bytes) -> bytes:
        """`data` with `added` put in front, and no comma left over where the first fields or all were removed."""
        start = _START.match(data)
        assert start is not None  # noqa: S101 - `_locate` saw it
        rest = data[start.end() :]
        stripped = rest.lstrip(b" \t\r\n")
        if stripped.startswith(b","):
            rest = stripped[1:]
        elif stripped.startswith(b"}"):
            added = added.removesuffix(b",")
        return start.group() + added + rest


def _marked(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def _locate(data: bytes, values: dict[str, bytes]) -> dict[str, Field]:
    """Where the fields of `values` lie in `data`.

    The decoder gives the values in order, so each one starts where the key before it ends and is as long as it is.
    Where that does not come out, a key is there twice; readers differ in which of the two they take: it is refused.
    """
    start = _START.match(data)
    assert start is not None  # noqa: S101 - it decoded as an object
    position = start.end()
    fields: dict[str, Field] = {}
    for name, value in values.items():
        key = _KEY.match(data, position)
        if key is None or not data.startswith(value, key.end()):
            raise RequestError("the body has a key twice")
        fields[name] = Field(key=position, value=key.end(), end=key.end() + len(value))
        position = key.end() + len(value)
    if not _END.fullmatch(data, position):
        raise RequestError("the body has a key twice")
    return fields
