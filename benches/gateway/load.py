"""The load: wrk for saturation, a small client of our own for streams. Loopback only, bounded in count and time.

Knows nothing of which target it talks to, nor of what that costs the target.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/v1/chat/completions"
KEY = "bench"
_PATIENCE = 15.0  # seconds beyond a run's own length before what is still open counts as an error
_SCRIPT = Path(__file__).with_name("saturate.lua")


def post(port: int, body: bytes, *, timeout: float = 5.0) -> tuple[int, dict[str, str], bytes]:
    """One call on a connection of its own: status, headers (names in lower case), body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", PATH, body, {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


# Saturation


@dataclass(frozen=True)
class Saturation:
    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float


def saturate(port: int, body: Path, *, seconds: float, connections: int = 32) -> Saturation:
    """A closed loop: each connection sends its next request when the last one is answered."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "5s", "-s", str(_SCRIPT)]
    command += [f"http://127.0.0.1:{port}", "--", str(body), PATH, KEY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _PATIENCE, check=True)
    return Saturation(**json.loads(done.stdout.strip().splitlines()[-1]))


# Streams


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Streams to open: `count` of them at an even rate (an open loop), each of `chunks` chunks within `seconds`."""

    port: int
    body: bytes
    chunks: int
    seconds: float
    count: int
    per_second: float
    after: float = 0.0


@dataclass
class Streams:
    """What an opening came to. `ttft_ms` is from the moment a stream was due to its first event."""

    ttft_ms: list[float] = field(default_factory=list)
    chunks: int = 0
    errors: list[str] = field(default_factory=list)


def stream(*openings: Opening, beside: Callable[[], None] | None = None) -> list[Streams]:
    """Carries out all openings at the same time; calls `beside` ten times a second meanwhile."""
    try:
        import uvloop  # noqa: PLC0415 -- finer timers than asyncio's, which is what TTFT needs; not a must
    except ImportError:
        return asyncio.run(_all(openings, beside))
    return uvloop.run(_all(openings, beside))


async def _all(openings: tuple[Opening, ...], beside: Callable[[], None] | None) -> list[Streams]:
    watcher = asyncio.create_task(_every(0.1, beside)) if beside else None
    try:
        return await asyncio.gather(*map(_stream, openings))
    finally:
        if watcher:
            watcher.cancel()


async def _stream(opening: Opening) -> Streams:
    result = Streams()
    idle: list[_Connection] = []
    start = time.perf_counter() + 0.05 + opening.after
    try:
        async with asyncio.timeout(opening.count / opening.per_second + opening.seconds + _PATIENCE):
            async with asyncio.TaskGroup() as group:
                for i in range(opening.count):
                    # Without the second term every stream would start on the same beat of the chunks' clock,
                    # all chunks of all streams would come at once, and waking up would cost almost nothing.
                    due = start + i / opening.per_second + (i * 0.618_034 % 1) * 0.01
                    group.create_task(_one(opening, due, idle, result))
    except TimeoutError:
        result.errors.append("some streams did not end in time")
    finally:
        for connection in idle:
            connection.transport.abort()
    return result


async def _one(opening: Opening, due: float, idle: list[_Connection], result: Streams) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    try:
        connection = idle.pop() if idle else (await loop.create_connection(_Connection, "127.0.0.1", opening.port))[1]
        head, payload = await connection.call(_request(opening.body))
    except (OSError, EOFError) as error:
        result.errors.append(repr(error))
        return
    if wrong := _wrong(head, payload, opening.chunks):
        result.errors.append(wrong)
        connection.transport.abort()
        return
    result.ttft_ms.append((connection.first_event - due) * 1000)
    result.chunks += opening.chunks
    idle.append(connection)


def _request(body: bytes) -> bytes:
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _every(seconds: float, call: Callable[[], None]) -> None:
    while True:
        call()
        await asyncio.sleep(seconds)


class _Connection(asyncio.Protocol):
    """A kept-alive connection with one call on it at a time. Keeps the bytes; looks into them afterwards."""

    transport: asyncio.Transport
    first_event: float

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.done: asyncio.Future[None] | None = None

    async def call(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body, when the last HTTP chunk is there."""
        self.answer = bytearray()
        self.first_event = 0.0
        self.done = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            raise EOFError("closed while idle")
        self.transport.write(request)
        await self.done
        head, _, payload = bytes(self.answer).partition(b"\r\n\r\n")
        return head, payload

    def data_received(self, data: bytes) -> None:
        self.answer += data
        if not self.first_event and b"data:" in self.answer:
            self.first_event = time.perf_counter()
        # An error answer has a length and no chunks: it must not wait for a time-out.
        ended = self.answer.endswith(b"0\r\n\r\n") or (len(self.answer) > 12 and self.answer[9:12] != b"200")
        if ended and self.done and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self.done and not self.done.done():
            self.done.set_exception(EOFError(f"closed mid stream: {error}"))


def _wrong(head: bytes, payload: bytes, chunks: int) -> str:
    """What is wrong with an answer; empty if it is whole."""
    if not head.startswith(b"HTTP/1.1 200"):
        return head.partition(b"\r\n")[0].decode("latin-1")
    try:
        events = _dechunk(payload)
    except ValueError as error:
        return f"bad chunked body: {error}"
    found = events.count(b"data: ") - events.count(b"data: [DONE]")
    if found != chunks or not events.endswith(b"data: [DONE]\n\n"):
        return f"{found} events, {chunks} were sent"
    return ""


def _dechunk(payload: bytes) -> bytes:
    made = bytearray()
    at = 0
    while True:
        line = payload.index(b"\r\n", at)
        size = int(payload[at:line], 16)
        if size == 0:
            return bytes(made)
        made += payload[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
