"""uvicorn's HTTP/1.1 with what it leaves to others: limits on heads and trailers and on the time that a head may take,
news for every call when its caller leaves, and the body of a request that offers to speak something else.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pointsman.gateway.caller import DEPARTURE, Departure

# uvicorn has no limit on header bytes with httptools and keeps megabytes of them. nginx takes 32 KiB, Apache 8 KiB a
# line, node 16 KiB; long bearer tokens and trace baggage fit into this.
HEADER_BYTES = 64 * 1024

# A head that trickles in holds a connection and costs its sender nothing. nginx waits for 60 seconds.
HEADER_SECONDS = 30.0

# Requests that a connection may queue behind the one being answered before we stop reading from it.
PIPELINED = 8
# From here on the connection is closed.
FLOOD = 64


class _Joined:
    """A transport, as the cycle of one request uses it: the answer's head is held until the first of its body, and
    both leave together. Two writes cost 10 µs more, and the first token a packet of its own."""

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif self._held is None and not data.startswith(b"HTTP/1.1 100 "):
            self._held = data
            return
        self._transport.write(data)

    def close(self) -> None:
        if self._held:
            self._transport.write(self._held)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Http(HttpToolsProtocol):
    """One connection."""

    _bare = 0
    """Bytes since the last that were body: a head, or the trailers and extensions of a chunked body."""
    _cycles: tuple[RequestResponseCycle, ...] = ()
    """The requests of this connection that are not answered yet."""
    _too_long = False
    """Whether a head was complete when it was seen to be too long."""
    _offered = False
    """Whether the request whose head was just read offers another protocol."""

    _deadline: asyncio.TimerHandle | None = None
    """Closes the connection if the head that has begun is not complete by then."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        self._bare += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
            return
        except httptools.HttpParserError:
            if self._too_long:
                self._refuse_head()
                return
            self.send_400_response("this is no HTTP request that has only one reading")
            return
        # While a call is answered its connection is not idle. Else what came is a head that has begun, or the rest of a
        # body whose request is answered; uvicorn has stopped its own timer for it.
        if self._deadline is None and not self._unanswered():
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        # What arrived may have ended the head and begun the body; only a head that is still open can be too long.
        if self._bare > HEADER_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def _refuse_head(self) -> None:
        if not self._unanswered():
            body = b"the request's headers are too large"
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\n"
            self.transport.write(head + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        self.transport.close()

    def _decline(self, rest: bytes) -> None:
        """Read a request again without its offer, as RFC 9110, 7.8 allows; `rest` is what came after its head.

        Java's HTTP client offers h2c with every first request, and httptools takes what follows for that protocol.
        """
        self._offered = False
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("this is no proxy")
            return
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = (b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join((line, *kept, b"", rest)))

    def on_headers_complete(self) -> None:
        if self._bare > HEADER_BYTES and sum(len(name) + len(value) for name, value in self.headers) > HEADER_BYTES:
            self._too_long = True
            raise ValueError  # the only way out of the parser
        self._bare = 0
        self._in_time()
        if len(self._cycles) >= FLOOD:
            # One read may bring thousands, and all of a read is parsed at once.
            self._too_long = True
            raise ValueError
        if self.parser.should_upgrade():
            self._offered = True
            return
        # A copy, for trailers go where the headers were (RFC 9110, 6.5.1: they must not be taken for headers).
        self.scope["headers"] = list(self.headers)
        cast("dict[str, Any]", self.scope)[DEPARTURE] = Departure()
        super().on_headers_complete()
        self._cycles = (*self._unanswered(), self.cycle)
        if self.scope["method"] != "HEAD":  # whose answers have no body to wait for
            self.cycle.transport = cast("asyncio.Transport", _Joined(self.transport))
        # uvicorn stops reading when a request is pipelined, and then does not see that its caller has left.
        self._read_on()

    def on_body(self, body: bytes) -> None:
        self._bare = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bare = 0
        if not self._offered:
            super().on_message_complete()
            # uvicorn stops reading at 64 KiB of body, until the next `receive()`; but nobody asks for more than the
            # body, and a connection that is not read does not tell that its caller has left.
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        # uvicorn tells the newest of pipelined requests only, and it is the oldest that a provider works for.
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()
            cast("dict[str, Any]", cycle.scope)[DEPARTURE].fire()
        super().connection_lost(exc)

    def _read_on(self) -> None:
        if len(self._cycles) <= PIPELINED:
            self.flow.resume_reading()

    def _unanswered(self) -> tuple[RequestResponseCycle, ...]:
        return tuple(cycle for cycle in self._cycles if not cycle.response_complete)

    def _in_time(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
