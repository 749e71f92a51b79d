"""A stream cut anywhere gives the same bytes, and never ends in the middle of an event."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pointsman.dialects.sse import LONGEST, Events

EVENTS = st.lists(st.binary(max_size=20).map(lambda body: body.replace(b"\n", b"").replace(b"\r", b"")), max_size=8)


def fed(data: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    """What came out for each piece of `data`, and what was held back at the end."""
    events = Events()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(places)]
    return [events.feed(piece) for piece in pieces], events.rest


@given(
    bodies=EVENTS,
    blank=st.sampled_from([b"\n\n", b"\r\n\r\n"]),
    torso=st.binary(max_size=9),
    cuts=st.lists(st.integers(0)),
)
def test_only_whole_events_go_on_and_not_a_byte_is_lost(
    bodies: list[bytes], blank: bytes, torso: bytes, cuts: list[int]
) -> None:
    torso = torso.replace(b"\n", b"").replace(b"\r", b"")
    data = b"".join(b"data: " + body + blank for body in bodies) + torso
    out, rest = fed(data, cuts)
    assert b"".join(out) + rest == data
    assert rest == torso
    assert all(piece.endswith(blank) for piece in out if piece)


def test_every_cut_of_one_stream_gives_the_same() -> None:
    data = b": hello\r\n\r\ndata: 1\ndata: 2\n\ndata: [DONE]\n\n"
    for cut in range(len(data)):
        out, rest = fed(data, [cut])
        assert (b"".join(out), rest) == (data, b"")


def test_an_event_that_is_too_long_goes_on_in_parts() -> None:
    events = Events()
    assert events.feed(b"x" * LONGEST) == b""
    assert len(events.feed(b"x")) == LONGEST + 1
    assert events.feed(b"end\n\n") == b"end\n\n"
