"""An HTTP/1.1 client on a bare socket, for tests that care about bytes. Understands no more than they need."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import msgspec

PATIENCE = 10.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came. `complete` is false if it broke off before the end that HTTP says."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def error(self) -> dict:
        """The error of a body, or of the last event of a stream, in the OpenAI dialect."""
        if not self.body.startswith(b"{"):
            return events(self.body.split(b"\n\n")[-2])[0]["error"]
        return self.json["error"]


class Wire:
    """One connection. Everything that waits gives up after `PATIENCE` seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            self._writer.write(data)
            await self._writer.drain()

    async def post(self, body: bytes, headers: str = "", *, path: str = "/v1/chat/completions") -> None:
        await self.send(request(body, headers, path=path))

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return int(first.split(" ")[1]), headers

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end. Raises IncompleteReadError if it breaks off."""
        async with asyncio.timeout(PATIENCE):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answer:
        """A whole answer; the connection can be used again if it is complete."""
        status, headers = await self.head()
        body = b""
        try:
            if "chunked" in headers.get("transfer-encoding", ""):
                while piece := await self.chunk():
                    body += piece
            else:
                async with asyncio.timeout(PATIENCE):
                    body = await self._reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return Answer(status=status, headers=headers, body=body, complete=False)
        return Answer(status=status, headers=headers, body=body, complete=True)

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def close(self, *, reset: bool = False) -> None:
        """Hang up: politely, or with a reset."""
        if reset:
            sock: socket.socket = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connection(url: str) -> AsyncGenerator[Wire]:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=64 * 1024)
    wire = Wire(reader, writer)
    try:
        yield wire
    finally:
        await wire.close()


async def call(url: str, body: bytes, headers: str = "", *, path: str = "/v1/chat/completions") -> Answer:
    """One request on a connection of its own."""
    async with connection(url) as wire:
        await wire.post(body, headers, path=path)
        return await wire.answer()


def request(body: bytes, headers: str = "", *, path: str = "/v1/chat/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def chat(text: str = "hello", **fields: object) -> bytes:
    """A request body: `text` said by a user; `model`, `stream` and others as given."""
    return json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()


def events(stream: bytes) -> list[dict]:
    """The decoded events of a stream, without its `[DONE]`."""
    data = [block.removeprefix(b"data: ") for block in stream.split(b"\n\n") if block]
    return [json.loads(each) for each in data if each != b"[DONE]"]


def text(stream: bytes) -> str:
    """What the model says in a stream."""
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events(stream) if "choices" in event)


async def until(seen: Callable[[], object], *, within: float = 5.0) -> None:
    """Wait for something that has no event of its own."""
    async with asyncio.timeout(within):
        while not seen():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0.005)
