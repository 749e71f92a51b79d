"""The one who called: its request, its presence, and the way to answer it. Raw ASGI; knows no dialect.

An ASGI server only tells that a client has left to those who await `receive()`; an app that does not goes on paying a
provider for an answer that nobody reads. `Caller.present` hears of it beside the work, streaming or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

from pointsman.errors import RequestError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class CallerGone(Exception):
    """The caller hung up before its answer was complete. Not an error of ours; status 499 in the records."""


class Caller:
    """One HTTP request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Headers = scope["headers"]
        self.started = False
        """Whether the head of the answer is out, so that nothing can be taken back."""
        self.departure: Departure | None = scope.get(DEPARTURE)
        self._receive = receive
        self._send = send
        self._finished = False

    def header(self, name: bytes) -> str:
        """A request header by its lower-case name; empty if it is not there."""
        for given, value in self.headers:
            if given == name:
                return value.decode("latin-1")
        return ""

    async def body(self, limit: int) -> bytes:
        """The request's body. Raises RequestError if it is larger than `limit` bytes; CallerGone."""
        announced = self.header(b"content-length")
        if announced.isdecimal() and int(announced) > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            pieces.append(piece)
            if not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def present(self) -> _Present:
        """A context that is cancelled, and left with CallerGone, as soon as the caller hangs up."""
        return _Present(self)

    async def gone(self) -> None:
        """Returns once the caller has hung up before its answer was complete."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect" and not self._finished:
                return
            if self._finished:
                await asyncio.Event().wait()

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of an answer whose body comes in pieces."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body; waits while the caller is slow to take what was sent before."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self, piece: bytes = b"") -> None:
        """Send the last piece. An answer that is never finished ends in a broken connection, as it should."""
        self._finished = True
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        """Send a whole answer."""
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.finish(body)


def _too_large(limit: int) -> RequestError:
    said = f"the body is larger than {limit / 1024 / 1024:g} MB; `gateway.max_body_mb` sets the limit"
    return RequestError(said, status=413, code="request_too_large")


class Departure:
    """News that a caller has left, from a server that tells at once (`protocol.Http`), under `DEPARTURE` in the scope.

    ASGI's own way is to await `receive()` beside the work: a task for each call, for a third of what the call costs.
    """

    __slots__ = ("_gone", "_then")

    def __init__(self) -> None:
        self._gone = False
        self._then: Callable[[], object] | None = None

    def fire(self) -> None:
        self._gone = True
        if self._then:
            self._then()

    def then(self, call: Callable[[], object] | None) -> None:
        """`call` this when the caller leaves, or now if it has left."""
        self._then = call
        if self._gone and call:
            call()


DEPARTURE = "pointsman.departure"


class _Present:
    """See `Caller.present`. A class and not a generator, since this stands on the path of every call."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._left = False
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._work = asyncio.current_task()
        if self._caller.departure:
            self._caller.departure.then(self._leave)
        else:
            self._watch = asyncio.create_task(self._watching())

    async def _watching(self) -> None:
        await self._caller.gone()
        self._leave()

    def _leave(self) -> None:
        self._left = True
        assert self._work is not None  # noqa: S101 - set on entering
        self._work.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._caller.departure:
            self._caller.departure.then(None)
        if self._watch:
            self._watch.cancel()
        # Without an error, the work was over before the cancelling could reach it.
        if self._left and kind in (asyncio.CancelledError, None):
            assert self._work is not None  # noqa: S101 - set on entering
            # Only if nobody else (a server that shuts down) has cancelled the task as well.
            if self._work.uncancel() == 0:
                raise CallerGone from None
