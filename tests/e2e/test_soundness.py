"""The thirteen soundness checks, against `pointsman serve` as a process of its own and callers on bare sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pointsman.testing import Body, Bytes, FakeUpstream, Received, Text, Wire
from tests.wire import call, chat, connection, request, text, until

FILE = """
version: 1
providers:
  fake: {{base_url: "{url}"}}
default: fake/any
gateway: {{max_body_mb: 32, timeouts: {{connect: 5, first_byte: 30, idle: 30, total: 60}}}}
"""

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
SILENCE = Bytes((), end="hang")
MIB = 1024 * 1024

on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


class Served:
    """A gateway process: its address, its log so far, its memory."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""
        self.lines: list[str] = []
        self._ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())
            if found := re.search(r"on (http://\S+)", self.lines[-1]):
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    async def ready(self) -> None:
        async with asyncio.timeout(20):
            await self._ready.wait()
        assert self.url, self.lines

    async def stopped(self) -> int:
        async with asyncio.timeout(10):
            code = await self.process.wait()
            await self._reading
        return code

    @property
    def mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]

    def settled(self) -> list[str]:
        return [line for line in self.lines if '"outcome":' in line]


@asynccontextmanager
async def serve(tmp_path: Path, upstream: FakeUpstream, *options: str) -> AsyncGenerator[Served]:
    file = tmp_path / "pointsman.yaml"
    file.write_text(FILE.format(url=upstream.url))
    command = [sys.executable, "-m", "pointsman", "serve", "-c", str(file), "--port", "0", *options]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=dict(os.environ)
    )
    served = Served(process)
    try:
        await served.ready()
        yield served
    finally:
        if process.returncode is None:
            process.kill()
        await served.stopped()


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def gateway(tmp_path: Path, upstream: FakeUpstream) -> AsyncGenerator[Served]:
    async with serve(tmp_path, upstream) as served:
        yield served


async def dropped(upstream: FakeUpstream) -> None:
    """The one upstream call is dropped within a second."""
    (taken,) = upstream.calls
    await asyncio.wait_for(taken.dropped.wait(), 1.0)


# 1 and 2: callers who leave


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
async def test_a_client_that_leaves_mid_stream_ends_the_upstream_call(
    gateway: Served, upstream: FakeUpstream, reset: bool
) -> None:
    upstream.script("any", Text("word " * 10_000, pace=0.001))
    async with connection(gateway.url) as wire:
        await wire.post(chat(stream=True))
        await wire.head()
        await wire.chunk()
        await wire.close(reset=reset)
        await dropped(upstream)
    await until(gateway.settled)
    assert '"status":499' in gateway.settled()[0]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_before_the_answer_ends_the_upstream_call(
    gateway: Served, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.script("any", SILENCE)
    async with connection(gateway.url) as wire:
        await wire.post(chat(stream=stream))
        await until(lambda: upstream.calls)
        await wire.close()
        await dropped(upstream)
    await until(gateway.settled)
    assert '"status":499' in gateway.settled()[0]


# 3 and 4: upstreams that die


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_an_upstream_that_dies_mid_stream_ends_it_with_an_error_and_not_cleanly(
    gateway: Served, upstream: FakeUpstream, end: str
) -> None:
    upstream.script("any", Text("one two three", pace=0.02, end=end, after=2))
    got = await call(gateway.url, chat(stream=True))
    assert (got.status, got.complete) == (200, False)
    assert got.error["code"] == "upstream_connection_lost"
    assert b"[DONE]" not in got.body


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_upstream_that_dies_before_its_answer_is_a_502(
    gateway: Served, upstream: FakeUpstream, stream: bool, end: str
) -> None:
    upstream.script("any", Bytes((), end=end))
    got = await call(gateway.url, chat(stream=stream))
    assert (got.status, got.complete, got.headers["content-type"]) == (502, True, "application/json")
    assert got.error["code"] == "upstream_connection_lost"


# 5 and 6: memory


class Flood:
    """A stream of so many bytes, as fast as they are taken."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    async def answer(self, call: Received, wire: Wire) -> None:
        event = b"data: " + b"x" * (64 * 1024 - 8) + b"\n\n"
        await wire.write(SSE)
        while self.sent < self.size:
            await wire.chunk(event)
            self.sent += len(event)
        await wire.end("clean")


@on_linux
async def test_a_slow_reader_holds_up_the_upstream_and_not_the_memory(gateway: Served, upstream: FakeUpstream) -> None:
    flood = Flood(200 * MIB)
    upstream.script("any", Text("warm"), flood)
    await call(gateway.url, chat(stream=True))
    before = gateway.mib
    async with connection(gateway.url) as wire:
        await wire.post(chat(stream=True))
        await wire.head()
        # Nobody reads: once nothing moves any more, all that is on its way lies in buffers.
        taken = -1
        while taken != flood.sent:
            taken = flood.sent
            await asyncio.sleep(0.5)
        assert 0 < taken < 100 * MIB
        assert gateway.mib - before < 40
        size = 0
        while piece := await wire.chunk():
            size += len(piece)
        assert size == flood.sent >= 200 * MIB
        assert gateway.mib - before < 40
        # And the connection is as good as before.
        upstream.script("any", Text("after"))
        await wire.post(chat())
        assert b"after" in (await wire.answer()).body


@on_linux
async def test_big_bodies_are_carried_whole_and_let_go(gateway: Served, upstream: FakeUpstream) -> None:
    await call(gateway.url, chat())
    before = gateway.mib
    size = 15 * MIB
    for _ in range(3):
        upstream.calls.clear()
        answers = await asyncio.gather(*(call(gateway.url, chat("x" * size)) for _ in range(3)))
        assert [got.status for got in answers] == [200] * 3
        assert all(len(each.json["messages"][0]["content"]) == size for each in upstream.calls)
    # 64 MiB is what the allocator keeps (`_keep_large_buffers`), and nine bodies of 15 have passed.
    assert gateway.mib - before < 200


async def test_a_body_over_the_limit_is_refused_before_it_is_read(gateway: Served, upstream: FakeUpstream) -> None:
    async with connection(gateway.url) as wire:
        await wire.send(POST + b"content-length: %d\r\n\r\n" % (33 * MIB))
        got = await wire.answer()
        assert (got.status, got.error["code"], got.headers["connection"]) == (413, "request_too_large", "close")
    assert upstream.calls == []


# 7 and 8: corners of HTTP


async def test_pipelined_requests_are_answered_in_order(gateway: Served, upstream: FakeUpstream) -> None:
    upstream.script("slow", Text("from {model}", delay=0.2))
    upstream.script("quick", Text("from {model}"))
    async with connection(gateway.url) as wire:
        asked = ["slow", "quick", "slow", "quick", "quick"]
        bodies = [chat(model=f"fake/{model}", stream=i % 2 == 1) for i, model in enumerate(asked)]
        await wire.send(b"".join(request(body) for body in bodies))
        for i, model in enumerate(asked):
            got = await wire.answer()
            said = text(got.body) if i % 2 else got.json["choices"][0]["message"]["content"]
            assert said == f"from {model}"


async def test_a_client_that_leaves_with_requests_queued_ends_the_one_at_work(
    gateway: Served, upstream: FakeUpstream
) -> None:
    upstream.script("any", SILENCE)
    async with connection(gateway.url) as wire:
        await wire.send(request(chat()) * 3)
        await until(lambda: upstream.calls)
        await wire.close()
        await dropped(upstream)


async def test_expect_continue_is_answered_before_the_body_is_sent(gateway: Served, upstream: FakeUpstream) -> None:
    body = chat()
    async with connection(gateway.url) as wire:
        await wire.send(request(body, "expect: 100-continue\r\n")[: -len(body)])
        assert (await wire.head())[0] == 100
        await wire.send(body)
        assert (await wire.answer()).status == 200
    assert upstream.calls[0].json["messages"] == [{"role": "user", "content": "hello"}]


async def test_an_offer_to_speak_http2_is_passed_over(gateway: Served, upstream: FakeUpstream) -> None:
    offer = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    async with connection(gateway.url) as wire:
        for head, body in ((offer, chat()), ("", chat()), (offer, chat("x" * 500_000)), (offer, chat())):
            upstream.calls.clear()
            # In two writes: the body may come with its head, or after it.
            await wire.send(request(body, head)[: -len(body)])
            await wire.send(body)
            assert (await wire.answer()).status == 200
            assert upstream.calls[0].json["messages"] == json.loads(body)["messages"]
        await wire.send(request(chat(), offer) * 2)
        assert [(await wire.answer()).status for _ in range(2)] == [200, 200]


async def test_a_tunnel_is_refused(gateway: Served) -> None:
    async with connection(gateway.url) as wire:
        await wire.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n")
        assert (await wire.rest()).startswith(b"HTTP/1.1 400 ")


# 9: smuggling


BODY = chat()
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
HIDDEN = request(chat("smuggled"))


TWOFOLD = {
    "length-and-chunked": POST + LENGTH + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked-and-length": POST + b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKED,
    "two-lengths": POST + LENGTH + b"content-length: 0\r\n\r\n" + BODY,
    "same-length-twice": POST + LENGTH + LENGTH + b"\r\n" + BODY,
    "list-of-lengths": POST + LENGTH.replace(b"\r\n", b", 0\r\n") + b"\r\n" + BODY,
    "plus": POST + LENGTH.replace(b": ", b": +") + b"\r\n" + BODY,
    "minus": POST + LENGTH.replace(b": ", b": -") + b"\r\n" + BODY,
    "hex": POST + b"content-length: 0x10\r\n\r\n" + BODY,
    "space-before-colon": POST + LENGTH.replace(b":", b" :") + b"\r\n" + BODY,
    "folded-chunked": POST + b"transfer-encoding:\r\n chunked\r\n" + LENGTH + b"\r\n" + CHUNKED,
    "xchunked": POST + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunked-not-last": POST + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "identity": POST + b"transfer-encoding: identity\r\n" + LENGTH + b"\r\n" + BODY,
    "two-encodings": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n" + CHUNKED,
    "negative-chunk": POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n" + BODY,
    "endless-chunk": POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + BODY,
    "bare-newline-in-chunk": POST + b"transfer-encoding: chunked\r\n\r\n%x\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "folded": POST + b"x-folded: one\r\n two\r\n" + LENGTH + b"\r\n" + BODY,
    "nul": POST + b"x-nul: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "bare-return": POST + b"x-bare: a\rb\r\n" + LENGTH + b"\r\n" + BODY,
}


async def test_a_request_with_two_readings_is_refused(gateway: Served, upstream: FakeUpstream) -> None:
    for name, sent in TWOFOLD.items():
        async with connection(gateway.url) as wire:
            # In one write: what a front server would take for one request, and we must not take for two.
            await wire.send(sent + HIDDEN)
            rest = await wire.rest()
        assert rest.startswith(b"HTTP/1.1 400 "), (name, rest)
        assert rest.count(b"HTTP/1.1 ") == 1, (name, rest)
    assert upstream.calls == []


async def test_a_chunked_request_is_read_whole_and_its_trailers_are_not_headers(
    gateway: Served, upstream: FakeUpstream
) -> None:
    trailers = b"idempotency-key: smuggled\r\n"
    async with connection(gateway.url) as wire:
        await wire.send(POST + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED[:-2] + trailers + b"\r\n")
        assert (await wire.answer()).status == 200
        await wire.post(chat())
        assert (await wire.answer()).status == 200
    assert len(upstream.calls) == 2
    assert "idempotency-key" not in upstream.calls[0].headers


# 10 and 11: upstream connections


class Closing:
    """A whole answer, and then the connection is closed without a word: at once, or so many seconds later."""

    def __init__(self, *delays: float) -> None:
        self.delays = delays
        self.answered = 0

    async def answer(self, call: Received, wire: Wire) -> None:
        await Body(b'{"choices": []}').answer(call, wire)
        self.answered += 1
        delay = self.delays[self.answered % len(self.delays)]
        asyncio.get_running_loop().call_later(delay, wire.close)


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize(
    "delays", [(0.0,), (0.0005, 0.001, 0.002, 0.003, 0.005)], ids=["right-after-the-answer", "while-idle"]
)
async def test_kept_connections_that_the_upstream_closes_fail_no_call(
    gateway: Served, upstream: FakeUpstream, delays: tuple[float, ...], lanes: int
) -> None:
    upstream.script("any", Closing(*delays))

    async def lane() -> list[int]:
        async with connection(gateway.url) as wire:
            statuses: list[int] = []
            for _ in range(400 // lanes):
                await wire.post(chat())
                statuses.append((await wire.answer()).status)
            return statuses

    statuses = [status for each in await asyncio.gather(*(lane() for _ in range(lanes))) for status in each]
    assert statuses == [200] * 400


async def test_a_call_that_died_on_a_fresh_connection_is_not_sent_again(
    gateway: Served, upstream: FakeUpstream
) -> None:
    upstream.script("any", Bytes((), end="cut"))
    assert (await call(gateway.url, chat())).status == 502
    assert len(upstream.calls) == 1


async def test_answers_that_end_with_their_connection_arrive_whole(gateway: Served, upstream: FakeUpstream) -> None:
    stream = b"".join(b'data: {"choices":[{"delta":{"content":"%d "}}]}\n\n' % i for i in range(500))
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: %s\r\n\r\n"
    upstream.script("any", Bytes((head % b"text/event-stream", stream[:9000], stream[9000:]), end="cut", pace=0.02))
    got = await call(gateway.url, chat(stream=True))
    assert (got.status, got.complete, got.body) == (200, True, stream)
    whole = b'{"choices": [], "padding": "%s"}' % (b"x" * 300_000)
    upstream.script("any", Bytes((head % b"application/json", whole), end="cut"))
    got = await call(gateway.url, chat())
    assert (got.status, got.complete, got.body) == (200, True, whole)


# 12: floods


@on_linux
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (POST, b"x-many: " + b"y" * 100 + b"\r\n"),
        (POST + b"x-giant: ", b"y" * 8192),
        (b"POST /v1/", b"y" * 8192),
        (POST + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED[:-2], b"x-many: " + b"y" * 100 + b"\r\n"),
        (POST + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED[:-2] + b"x-giant: ", b"y" * 8192),
        (POST + b"transfer-encoding: chunked\r\n\r\n5;", b"y" * 8192),
    ],
    ids=["many", "giant", "address", "many-trailers", "giant-trailer", "chunk-extension"],
)
async def test_a_flood_of_headers_is_cut_off(
    gateway: Served, upstream: FakeUpstream, start: bytes, piece: bytes
) -> None:
    await call(gateway.url, chat())
    upstream.calls.clear()
    before = gateway.mib
    sent = 0
    async with connection(gateway.url) as wire:
        try:
            await wire.send(start)
            while sent < 8 * MIB:
                await wire.send(piece * 8)
                sent += 8 * len(piece)
            answered = await wire.rest()
        except ConnectionError:
            answered = b""
    assert sent < 8 * MIB or answered.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")) or not answered
    assert b" 200 " not in answered
    assert gateway.mib - before < 4
    assert upstream.calls == []


# 13: the stop


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_stop_lets_an_open_stream_finish_and_takes_no_new_calls(
    tmp_path: Path, upstream: FakeUpstream, workers: str
) -> None:
    goes_on = asyncio.Event()

    class Held:
        async def answer(self, call: Received, wire: Wire) -> None:
            await wire.write(SSE)
            await wire.chunk(b'data: {"choices":[{"delta":{"content":"before "}}]}\n\n')
            await goes_on.wait()
            await wire.chunk(b'data: {"choices":[{"delta":{"content":"after"}}]}\n\ndata: [DONE]\n\n')
            await wire.end("clean")

    upstream.script("any", Held())
    async with serve(tmp_path, upstream, "--workers", workers) as served, connection(served.url) as wire:
        async with connection(served.url) as idle:
            await idle.send(b"GET /readyz HTTP/1.1\r\nhost: gateway\r\n\r\n")
            assert (await idle.answer()).status == 200
            await wire.post(chat(stream=True))
            await wire.head()
            body = await wire.chunk()
            served.process.send_signal(signal.SIGTERM)
            # An idle connection is closed, so that its client goes elsewhere.
            assert await idle.rest() == b""
        # Not ready any more, as whoever asks can tell: nobody listens.
        await until(lambda: sum("Shutting down" in line for line in served.lines) == int(workers))
        with pytest.raises(ConnectionError):
            await call(served.url, b"", path="/readyz")
        goes_on.set()
        while piece := await wire.chunk():
            body += piece
        assert text(body) == "before after"
        assert await served.stopped() == 0
    assert '"outcome":"complete"' in served.settled()[0]
    assert not any("Traceback" in line for line in served.lines)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_gateway_stops_at_once(tmp_path: Path, upstream: FakeUpstream, asked: signal.Signals) -> None:
    async with serve(tmp_path, upstream) as served:
        assert (await call(served.url, chat())).status == 200
        served.process.send_signal(asked)
        assert await served.stopped() == 0
