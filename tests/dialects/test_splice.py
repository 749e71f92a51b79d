from __future__ import annotations

import json
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman.dialects.splice import Body
from pointsman.errors import RequestError

# A busy machine is no finding.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BLANKS = st.text(" \t\r\n", max_size=3)
OWNED = ("model", "policies")
NAMES = st.sampled_from(OWNED) | st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    # Texts that look like JSON are what a splicer might trip over.
    | st.text() | st.sampled_from(['"model":', "}", "{", ',"policies":{', "\\", '\\"', ",", "]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


class Spelled:
    """One field as written: its name and value decoded, and the bytes of both."""

    def __init__(self, name: str, value: object, key: bytes, text: bytes) -> None:
        self.name = name
        self.value = value
        self.key = key
        self.text = text


@st.composite
def spelled(draw: st.DrawFn, text: str) -> bytes:
    """A JSON string of `text`, each character written out or escaped in one of the ways that JSON has."""
    short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    out = []
    for char in text:
        escaped = json.dumps(char)[1:-1] if ord(char) > 0x7F else f"\\u{ord(char):04x}"
        ways = [escaped, escaped.upper().replace("\\U", "\\u")]
        if char in short:
            ways.append(short[char])
        if char not in '"\\' and char >= " ":
            ways.append(char)
        out.append(draw(st.sampled_from(ways)))
    return ('"' + "".join(out) + '"').encode()


@st.composite
def fields(draw: st.DrawFn) -> list[Spelled]:
    made = []
    for name, value in draw(st.dictionaries(NAMES, VALUES, max_size=6)).items():
        dumped = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        made.append(Spelled(name, value, draw(spelled(name)), dumped.encode()))
    return made


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[Spelled]]:
    made = draw(fields())

    def blank() -> bytes:
        return draw(BLANKS).encode()

    written = [blank() + each.key + blank() + b":" + blank() + each.text + blank() for each in made]
    return blank() + b"{" + (b",".join(written) or blank()) + b"}" + blank(), made


@calm
@given(bodies())
def test_the_rewritten_body_means_what_was_asked(given_: tuple[bytes, list[Spelled]]) -> None:
    data, made = given_
    written = Body(data).rewritten(replace={"model": "a/b\n"}, remove=("policies",))
    expected = {each.name: each.value for each in made if each.name not in OWNED} | {"model": "a/b\n"}
    assert json.loads(written) == expected


@calm
@given(bodies())
def test_all_bytes_but_those_of_our_fields_stay_in_their_order(given_: tuple[bytes, list[Spelled]]) -> None:
    data, made = given_
    written = Body(data).rewritten(replace={"model": "m"}, remove=("policies",))
    position = 0
    for each in made:
        if each.name == "policies":
            continue
        for piece in (each.key, b'"m"' if each.name == "model" else each.text):
            found = written.find(piece, position)
            # Between the pieces there is punctuation, and the model that was added in front.
            assert found >= 0
            assert not written[position:found].replace(b'{"model":"m"', b"").strip(b" \t\r\n{:,")
            position = found + len(piece)
    assert not written[position:].replace(b'{"model":"m"', b"").strip(b" \t\r\n{},")


@calm
@given(bodies())
def test_a_body_that_needs_no_change_is_the_same_bytes(given_: tuple[bytes, list[Spelled]]) -> None:
    data, _ = given_
    assert Body(data).rewritten(replace={}, remove=("\0absent",)) == data


@calm
@given(bodies())
def test_every_field_is_read_as_it_decodes(given_: tuple[bytes, list[Spelled]]) -> None:
    data, made = given_
    body = Body(data)
    assert {name: body.get(name) for name in body.fields} == {each.name: each.value for each in made}
    assert body.get("\0absent") is None


@calm
@given(fields().filter(bool), st.data())
def test_a_key_that_is_there_twice_is_refused_wherever_and_however_it_is_spelled(
    made: list[Spelled], data: st.DataObject
) -> None:
    twice = data.draw(st.sampled_from(made))
    other = Spelled(twice.name, None, data.draw(spelled(twice.name)), json.dumps(data.draw(VALUES)).encode())
    made.insert(data.draw(st.integers(0, len(made))), other)
    with pytest.raises(RequestError, match="twice"):
        Body(b"{" + b",".join(each.key + b":" + each.text for each in made) + b"}")


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":1,"model":1}',
        b'{"model":1,"model":12}',
        b'{"model":12,"model":1}',
        b'{"a":1,"model":"x","b":2,"model":"x"}',
        b'{"model":{},"m\\u006fdel":{}}',
        b'{"model":"x","model":"x","model":"x"}',
    ],
)
def test_a_key_twice_is_refused_where_the_values_look_alike(data: bytes) -> None:
    with pytest.raises(RequestError, match="twice"):
        Body(data)


@st.composite
def mangled(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with some bytes cut out and others put in."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 3)))
    return data[:start] + draw(st.binary(max_size=3)) + data[end:]


@calm
@given(st.binary() | bodies().map(lambda made: made[0]).flatmap(mangled))
def test_whatever_the_bytes_only_a_request_error_is_raised(data: bytes) -> None:
    with suppress(RequestError):
        body = Body(data)
        for name in body.fields:
            body.get(name)
        written = body.rewritten(replace={"model": "m"}, remove=("policies",))
        assert Body(written).get("model") == "m"
        assert "policies" not in Body(written).fields


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"{}{}", "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a":' + b"[" * 100_000, "JSON|deep"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
    ],
    ids=["empty", "list", "text", "two", "trailing-comma", "bom", "deep-and-open", "deep"],
)
def test_what_is_no_object_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Body(data).get("a")


def test_only_removing_leaves_no_comma() -> None:
    assert Body(b'{"policies":1}').rewritten(replace={}, remove=("policies",)) == b"{}"
    assert Body(b'{ "policies" : 1 , "a":2}').rewritten(replace={}, remove=("policies",)) == b'{ "a":2}'
    assert Body(b'{"a":1,"policies":1}').rewritten(replace={}, remove=("policies",)) == b'{"a":1}'


@pytest.mark.parametrize("filler", [b'"' + b"x" * 20_000_000 + b'"', b"[" + b"1," * 5_000_000 + b"1]"])
def test_twenty_megabytes_are_rewritten_within_a_second(filler: bytes) -> None:
    data = b'{"policies":{},"messages":' + filler + b',"model":"auto"}'
    began = time.perf_counter()
    written = Body(data).rewritten(replace={"model": "m"}, remove=("policies",))
    assert time.perf_counter() - began < 1
    assert written == b'{"messages":' + filler + b',"model":"m"}'


def test_as_many_fields_as_are_allowed_are_found() -> None:
    data = b"{" + b",".join(b'"k%d":%d' % (i, i) for i in range(1000)) + b"}"
    assert Body(data).get("k999") == 999


@pytest.mark.parametrize(
    "data", [b'{"' + b"k" * 5000 + b'": 1}', b"{" + b",".join(b'"%d":1' % i for i in range(5000)) + b"}"]
)
def test_a_body_of_absurd_shape_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="more than"):
        Body(data)
