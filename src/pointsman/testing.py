"""Fakes that ship with the product: a provider on a loopback port, a router that is told what to say, a gateway in
process. For the tests of whoever builds on Pointsman, for ours, and for the demo.

    async with FakeUpstream() as upstream, gateway(POLICIES.format(url=upstream.url)) as url:
        upstream.script("small", Status(429), Text("hello"))
        ...  # call `url` with any OpenAI client; look at `upstream.calls`
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Protocol, cast

import msgspec
import uvicorn

from pointsman import config
from pointsman.conversation import Conversation
from pointsman.decision import PolicyScore, Scores
from pointsman.gateway.app import App
from pointsman.gateway.runtime import Runtime
from pointsman.gateway.server import listen, settings
from pointsman.policy import PolicySet
from pointsman.router import Router

__all__ = [
    "Behaviour",
    "Body",
    "Bytes",
    "FakeRouter",
    "FakeUpstream",
    "Received",
    "Status",
    "Text",
    "ToolCall",
    "Wire",
    "gateway",
]

End = Literal["clean", "cut", "reset", "hang"]
"""How an answer ends: as HTTP says, by closing the connection in the middle, by resetting it, or not at all."""


class Received(msgspec.Struct, kw_only=True):
    """A call as the fake upstream got it. `dropped` is set if the other side hung up before the answer was complete."""

    path: str
    headers: dict[str, str]
    body: bytes
    dropped: asyncio.Event

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def model(self) -> str:
        return str(self.json.get("model"))


class Wire:
    """The bytes that go back. Writing waits while the other side is slow to read."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Fake", *(f"{name}: {value}" for name, value in headers.items())]
        await self.write("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        await self.head(status, {"content-length": str(len(body)), **headers})
        await self.write(body)

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self, how: End) -> None:
        """End a chunked answer."""
        if how == "clean":
            await self.write(b"0\r\n\r\n")
        elif how == "hang":
            await asyncio.Event().wait()
        else:
            self.close(reset=how == "reset")

    def close(self, *, reset: bool = False) -> None:
        if reset:
            sock: socket.socket = self._writer.get_extra_info("socket")
            # Linger for no time: the close sends RST instead of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()


class Behaviour(Protocol):
    """What a fake upstream does with one call."""

    async def answer(self, call: Received, wire: Wire) -> None: ...


class Text(msgspec.Struct, frozen=True):
    """An answer of this text (`{model}` is replaced), whole or streamed as the call asks.

    `delay` is in seconds, before the first byte; `pace` between two words of a stream. `end` and `after` make a stream
    break off: after that many words, in that way.
    """

    text: str = "This is {model} speaking."
    delay: float = 0.0
    pace: float = 0.0
    end: End = "clean"
    after: int | None = None

    async def answer(self, call: Received, wire: Wire) -> None:
        await asyncio.sleep(self.delay)
        text = self.text.replace("{model}", call.model)
        if not call.json.get("stream"):
            message = {"role": "assistant", "content": text}
            await wire.whole(200, _completion(call, message), {"content-type": "application/json"})
            return
        await wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        words = [word + " " for word in text.split(" ")]
        words[-1] = words[-1][:-1]
        for word in words[: self.after]:
            await wire.chunk(_event(call, {"content": word}))
            await asyncio.sleep(self.pace)
        if self.end == "clean":
            await wire.chunk(_event(call, {}, finish="stop") + b"data: [DONE]\n\n")
        await wire.end(self.end)


class ToolCall(msgspec.Struct, frozen=True):
    """An answer that calls a tool; streamed, its arguments come in two pieces."""

    name: str
    arguments: str = "{}"

    async def answer(self, call: Received, wire: Wire) -> None:
        head = {"index": 0, "id": "call_1", "type": "function"}
        if not call.json.get("stream"):
            tool = {**head, "function": {"name": self.name, "arguments": self.arguments}}
            message = {"role": "assistant", "content": None, "tool_calls": [tool]}
            await wire.whole(200, _completion(call, message, "tool_calls"), {"content-type": "application/json"})
            return
        half = len(self.arguments) // 2
        await wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for part in ({"name": self.name, "arguments": self.arguments[:half]}, {"arguments": self.arguments[half:]}):
            await wire.chunk(_event(call, {"tool_calls": [{**head, "function": part}]}))
        await wire.chunk(_event(call, {}, finish="tool_calls") + b"data: [DONE]\n\n")
        await wire.end("clean")


class Status(msgspec.Struct, frozen=True):
    """A refusal with this status. Without a body it is an OpenAI error."""

    status: int
    headers: dict[str, str] = {}
    body: bytes | None = None

    async def answer(self, call: Received, wire: Wire) -> None:
        said = {"error": {"message": f"told to answer {self.status}", "type": "fake", "param": None, "code": "fake"}}
        body = json.dumps(said).encode() if self.body is None else self.body
        await wire.whole(self.status, body, {"content-type": "application/json", **self.headers})


class Body(msgspec.Struct, frozen=True):
    """A 200 with this body and content type, whatever it is."""

    body: bytes
    content_type: str = "application/json"

    async def answer(self, call: Received, wire: Wire) -> None:
        await wire.whole(200, self.body, {"content-type": self.content_type})


class Bytes(msgspec.Struct, frozen=True):
    """Literal bytes on the wire, head included, `pace` seconds apart; then the end. No bytes: silence or a hang-up."""

    pieces: tuple[bytes, ...] = ()
    end: End = "cut"
    pace: float = 0.0

    async def answer(self, call: Received, wire: Wire) -> None:
        for piece in self.pieces:
            await wire.write(piece)
            await asyncio.sleep(self.pace)
        if self.end != "clean":
            await wire.end(self.end)


class FakeUpstream:
    """A provider that does as it is told, over a real socket. Use it as an async context.

    Without a script a model answers `Text()`. A script's behaviours are used up in order; the last one stays.
    """

    def __init__(self) -> None:
        self.calls: list[Received] = []
        self.connections = 0
        self._scripts: dict[str, list[Behaviour]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def script(self, model: str, *behaviours: Behaviour) -> None:
        """What `model` does from now on."""
        self._scripts[model] = list(behaviours)

    @property
    def url(self) -> str:
        """The base URL, for a policy file's `base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> FakeUpstream:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1024 * 1024)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        try:
            while call := await _receive(reader):
                self.calls.append(call)
                await self._answer(call, reader, Wire(writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side hung up, or the fake is being closed
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, call: Received, reader: asyncio.StreamReader, wire: Wire) -> None:
        """Run the behaviour, and stop it when the other side hangs up."""
        script = self._scripts.get(call.model, [Text()])
        behaviour = script.pop(0) if len(script) > 1 else script[0]
        work = asyncio.create_task(behaviour.answer(call, wire))
        try:
            while not (await asyncio.wait([work], timeout=0.01))[0]:
                if reader.at_eof() or reader.exception():
                    raise ConnectionResetError
            await work
        except ConnectionError:
            call.dropped.set()
            raise
        finally:
            work.cancel()


async def _receive(reader: asyncio.StreamReader) -> Received | None:
    """The next request on a connection; None if it was closed. Takes what HTTP clients send us: a length, or none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(path=first.split(" ")[1], headers=headers, body=body, dropped=asyncio.Event())


def _completion(call: Received, message: Mapping[str, object], finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    made = {"id": "chatcmpl-fake", "object": "chat.completion", "created": 0, "model": call.model}
    return json.dumps({**made, "choices": [choice], "usage": usage}).encode()


def _event(call: Received, delta: Mapping[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    made = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 0, "model": call.model}
    return b"data: " + json.dumps({**made, "choices": [choice]}).encode() + b"\n\n"


class FakeRouter:
    """A scorer that is told which words mean which policy, and how slow or broken to be.

    The first entry of `words` that occurs in the newest user turn gets probability 0.9; without one, "other" does.
    """

    id = "fake"

    def __init__(
        self, words: Mapping[str, str] | None = None, *, delay: float = 0.0, error: Exception | None = None
    ) -> None:
        self.words = dict(words or {})
        self.delay = delay
        self.error = error
        self.asked: list[Conversation] = []

    async def prepare(self, policies: PolicySet) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        """Nothing to close."""

    async def score(self, conversation: Conversation, policies: PolicySet) -> Scores:
        self.asked.append(conversation)
        await asyncio.sleep(self.delay)
        if self.error:
            raise self.error
        said = conversation.readable[-1].text.lower()
        chosen = next((policy for word, policy in self.words.items() if word in said and policy in policies), None)
        rest = 0.1 / max(1, len(policies) - (chosen is not None))
        scored = (
            PolicyScore(
                policy=policy.id, score=float(policy.id == chosen), probability=0.9 if policy.id == chosen else rest
            )
            for policy in policies
        )
        return Scores(policies=tuple(scored), other=0.0 if chosen else 0.9)


@asynccontextmanager
async def gateway(
    policies: str | config.Config,
    *,
    env: Mapping[str, str] | None = None,
    router: FakeRouter | None = None,
    journal: list[dict[str, Any]] | None = None,
) -> AsyncGenerator[str]:
    """A gateway serving a policy file (its text, or loaded) on a free loopback port, in process; gives its base URL.

    `env` resolves the text's references. `router` stands in for the embedded one. `journal` gets a record of each call.
    """
    loaded = config.loads(policies, env=env or {}) if isinstance(policies, str) else policies

    def make(made: config.Config) -> Runtime:
        return Runtime(made, routing=_fake_routing(made, router) if router else None, journal=note)

    def note(lines: bytes) -> None:
        if journal is not None:
            journal.extend(msgspec.json.decode(line) for line in lines.splitlines())

    sock = listen("127.0.0.1", 0)
    server = uvicorn.Server(settings(App(lambda: loaded, make=make)))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started:
            if serving.done():
                raise RuntimeError("the gateway did not start")
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving


def _fake_routing(made: config.Config, router: FakeRouter) -> Router:
    return Router(
        lambda: router,
        policies=made.policies,
        default=made.default,
        deadline=made.routing.deadline,
        min_confidence=made.routing.min_confidence,
    )
