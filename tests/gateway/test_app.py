from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator

import pytest

from pointsman import config
from pointsman.decision import Reason
from pointsman.gateway import protocol
from pointsman.gateway.app import App
from pointsman.gateway.runtime import Runtime
from pointsman.testing import FakeRouter, FakeUpstream, gateway
from tests.wire import Answer, call, chat, connection, request

FILE = """
version: 1
providers:
  fake: {{base_url: "{url}"}}
default: fake/small
aliases: {{fast: fake/tiny}}
gateway: {{max_body_mb: 0.001}}
policies:
  legal: {{description: Contracts and the law., models: [fake/lawyer, fake/small]}}
"""


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def url(upstream: FakeUpstream) -> AsyncGenerator[str]:
    async with gateway(FILE.format(url=upstream.url), router=FakeRouter({"contract": "legal"})) as served:
        yield served


async def get(url: str, path: str, *, method: str = "GET") -> Answer:
    async with connection(url) as wire:
        await wire.send(f"{method} {path} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode())
        return await wire.answer()


async def test_it_says_that_it_lives_and_is_ready(url: str) -> None:
    assert (await get(url, "/healthz")).json == {"status": "ok"}
    ready = await get(url, "/readyz")
    assert (ready.status, ready.json["status"]) == (200, "ready")


async def test_the_models_are_listed_and_found_by_name(url: str) -> None:
    listed = (await get(url, "/v1/models")).json["data"]
    assert [each["id"] for each in listed] == ["auto", "fast", "fake/lawyer", "fake/small", "fake/tiny"]
    for name in ("auto", "fast", "fake/lawyer"):
        assert (await get(url, f"/v1/models/{name}")).json["id"] == name
    missing = await get(url, "/v1/models/fake/nobody")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/route", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions/", 404),
        ("GET", "/%00%ff", 404),
    ],
)
async def test_what_is_not_here_is_an_error_in_the_dialect(url: str, method: str, path: str, status: int) -> None:
    got = await get(url, path, method=method)
    assert (got.status, got.error["type"].endswith("error")) == (status, True)


async def test_a_decision_alone_calls_nobody(url: str, upstream: FakeUpstream) -> None:
    got = await call(url, chat("a contract", model="auto"), path="/v1/route")
    assert (got.status, got.json["policy"], got.json["model"]) == (200, "legal", "fake/lawyer")
    assert got.json["fallbacks"] == ["fake/small"]
    assert got.headers["x-pointsman-policy"] == "legal"
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("model", "forwarded", "reason"),
    [
        ("auto", "lawyer", Reason.MATCHED),
        ("", "lawyer", Reason.MATCHED),
        (None, "lawyer", Reason.MATCHED),
        ("fast", "tiny", Reason.PINNED),
        ("fake/any/thing", "any/thing", Reason.PINNED),
        ("fake/ünï", "ünï", Reason.PINNED),
    ],
)
async def test_a_model_by_name_is_pinned_and_every_other_call_is_routed(
    url: str, upstream: FakeUpstream, model: str | None, forwarded: str, reason: Reason
) -> None:
    got = await call(url, chat("a contract", model=model))
    assert (got.status, got.headers["x-pointsman-reason"]) == (200, reason.value)
    assert [each.model for each in upstream.calls] == [forwarded]


@pytest.mark.parametrize(
    "model", ["gpt-5", "other/x", "fake/", "/x", "fake/a\r\nx-evil: 1", "fake/\u0000", "AUTO", "x" * 600]
)
async def test_a_model_that_is_not_here_is_named_briefly(url: str, upstream: FakeUpstream, model: str) -> None:
    got = await call(url, chat(model=model))
    assert (got.status, got.error["code"], got.error["param"]) == (404, "model_not_found", "model")
    assert len(got.error["message"]) < 400
    assert "x-evil" not in got.headers
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ("legal", "policies"),
        ({"legal": {}}, "description"),
        ({"legal": {"description": "x", "models": "nobody/x"}}, "nobody"),
        ({"a.b": {"description": "x", "models": "fake/x"}}, "a.b"),
        ({"legal": {"description": "x", "model": "fake/x"}}, "model"),
    ],
)
async def test_inline_policies_that_cannot_be_are_refused_with_their_path(
    url: str, upstream: FakeUpstream, policies: object, said: str
) -> None:
    got = await call(url, chat(policies=policies))
    assert (got.status, got.error["code"], got.error["param"]) == (400, "invalid_policies", "policies")
    assert said in got.error["message"]
    assert upstream.calls == []


async def test_a_body_over_the_limit_is_refused_and_so_is_what_follows_it(url: str, upstream: FakeUpstream) -> None:
    async with connection(url) as wire:
        await wire.send(request(chat("x" * 5000)) + request(chat()))
        got = await wire.answer()
        assert (got.status, got.error["code"], got.headers["connection"]) == (413, "request_too_large", "close")
        assert await wire.rest() == b""
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n"
    async with connection(url) as wire:
        await wire.send(chunked + b"7d0\r\n%s\r\n" % (b"x" * 2000))
        assert (await wire.answer()).status == 413
    assert upstream.calls == []


async def test_many_calls_on_one_connection_are_each_answered(url: str, upstream: FakeUpstream) -> None:
    async with connection(url) as wire:
        for i in range(50):
            await wire.post(chat(stream=i % 2 == 0))
            assert (await wire.answer()).complete
    assert upstream.connections == 1


async def test_r41_no_answer_on_a_kept_connection_waits_for_an_acknowledgement(url: str) -> None:
    took: list[float] = []
    async with connection(url) as wire:
        for i in range(20):
            began = time.perf_counter()
            await wire.post(chat(stream=i % 2 == 0))
            await wire.answer()
            took.append(time.perf_counter() - began)
    # Nagle's algorithm against delayed acknowledgements costs 40 ms on each.
    assert sorted(took)[5] < 0.03


class Broken(Runtime):
    def knows(self, key: str) -> bool:
        raise LookupError(f"the key was {key}")


async def test_a_bug_is_a_500_that_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loaded = config.loads(
        "{version: 1, providers: {fake: {base_url: 'http://x'}}, default: fake/a, gateway: {keys: ['${K}']}}",
        env={"K": "the-key-of-ours"},
    )
    sent: list[dict[str, object]] = []
    started = asyncio.Event()

    async def send(message: dict[str, object]) -> None:
        sent.append(message)
        started.set()

    messages: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    lines: list[bytes] = []
    app = App(lambda: loaded, make=lambda made: Broken(made, journal=lines.append))
    life = asyncio.create_task(app({"type": "lifespan"}, messages.get, send))
    messages.put_nowait({"type": "lifespan.startup"})
    await started.wait()
    scope = {"type": "http", "method": "POST", "path": "/v1/route", "headers": [(b"x-api-key", b"theirs")]}
    with caplog.at_level(logging.INFO):
        await app(scope, messages.get, send)
    assert sent[1]["status"] == 500
    assert json.loads(sent[2]["body"])["error"]["message"] == "the gateway failed"  # type: ignore[arg-type]
    assert "theirs" not in caplog.text
    assert "bug: LookupError at Broken.knows" in caplog.text
    messages.put_nowait({"type": "lifespan.shutdown"})
    await life
    assert sent[-1] == {"type": "lifespan.shutdown.complete"}
    record = json.loads(lines[0])
    assert (record["status"], record["outcome"]) == (500, "internal_error")


async def test_before_it_has_started_it_is_alive_and_not_ready() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    app = App(lambda: pytest.fail("nothing is loaded"))
    for path, status in (("/healthz", 200), ("/readyz", 503), ("/v1/chat/completions", 503)):
        await app({"type": "http", "method": "GET", "path": path, "headers": []}, asyncio.Queue().get, send)
        assert sent[-2]["status"] == status


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /healthz HTTP/1.1\r\nhost: a"])
async def test_a_head_that_trickles_in_does_not_hold_a_connection(
    url: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    async with connection(url) as wire:
        await wire.send(sent)
        assert await wire.rest() == b""


async def test_an_idle_connection_is_kept_longer_than_a_head_may_take(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.1)
    async with connection(url) as wire:
        for _ in range(2):
            await wire.send(b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n")
            assert (await wire.answer()).status == 200
            await asyncio.sleep(0.3)


async def test_a_flood_of_pipelined_requests_is_cut_off(url: str) -> None:
    async with connection(url) as wire:
        await wire.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n" * 5000)
        answered = await wire.rest()
    assert answered.count(b"HTTP/1.1 200") < 5000


async def test_a_complete_head_that_is_too_long_is_refused(url: str) -> None:
    async with connection(url) as wire:
        await wire.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 80_000 + b"\r\n\r\n")
        assert (await wire.rest()).startswith(b"HTTP/1.1 431 ")


async def test_a_wrong_method_is_told_the_right_one(url: str) -> None:
    refused = await get(url, "/v1/route")
    assert (refused.status, refused.headers["allow"]) == (405, "POST")
