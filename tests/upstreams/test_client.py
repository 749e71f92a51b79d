from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pointsman.config import Provider, Secret, Timeouts
from pointsman.errors import BadAnswer, ConnectFailed, ConnectionLost, UpstreamError
from pointsman.testing import Body, Bytes, FakeUpstream, Status, Text
from pointsman.upstreams.client import Client, Reply

ASK = b'{"model": "m"}'
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def client() -> AsyncGenerator[Client]:
    made = Client(Timeouts(connect=2, first_byte=5, idle=5, total=10))
    yield made
    await made.close()


def provider(url: str, *, key: str | None = "the-key", **headers: str) -> Provider:
    return Provider(
        name="fake",
        dialect="openai",
        base_url=Secret(url),
        key=Secret(key) if key else None,
        headers={name.replace("_", "-"): Secret(value) for name, value in headers.items()},
    )


async def ask(client: Client, to: Provider, body: bytes = ASK, **headers: str) -> Reply:
    async with asyncio.timeout(5):
        return await client.open(to, "/chat/completions", body, headers)


async def whole(reply: Reply) -> bytes:
    body = b""
    async with asyncio.timeout(5), reply:
        while piece := await reply.read():
            body += piece
    return body


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("", "/chat/completions"),
        ("/", "/chat/completions"),
        (
            "/openai/deployments/x?api-version=1&key=a%2Bb",
            "/openai/deployments/x/chat/completions?api-version=1&key=a%2Bb",
        ),
        ("/v1?a=b&a=c", "/v1/chat/completions?a=b&a=c"),
        ("/with%20blank/v1", "/with%20blank/v1/chat/completions"),
        ("/a%2Fb/v1", "/a%2Fb/v1/chat/completions"),
    ],
)
async def test_the_path_is_appended_and_the_query_stays_behind_it(
    client: Client, upstream: FakeUpstream, base: str, path: str
) -> None:
    await whole(await ask(client, provider(f"http://127.0.0.1:{upstream.port}{base}")))
    assert upstream.calls[0].path == path


async def test_the_key_and_headers_go_with_every_call(client: Client, upstream: FakeUpstream) -> None:
    await whole(await ask(client, provider(upstream.url, x_team="blue"), traceparent="00-1"))
    sent = upstream.calls[0]
    assert sent.body == ASK
    assert sent.headers["authorization"] == "Bearer the-key"
    assert (sent.headers["x-team"], sent.headers["traceparent"]) == ("blue", "00-1")
    assert (sent.headers["content-type"], sent.headers["accept-encoding"]) == ("application/json", "identity")


async def test_a_provider_without_a_key_gets_none(client: Client, upstream: FakeUpstream) -> None:
    await whole(await ask(client, provider(upstream.url, key=None)))
    assert "authorization" not in upstream.calls[0].headers


async def test_the_files_headers_win_over_the_callers(client: Client, upstream: FakeUpstream) -> None:
    await whole(await ask(client, provider(upstream.url, openai_beta="ours"), **{"openai-beta": "theirs"}))
    assert upstream.calls[0].headers["openai-beta"] == "ours"


async def test_a_user_in_the_address_is_sent_as_basic(client: Client, upstream: FakeUpstream) -> None:
    url = f"http://user:pass@127.0.0.1:{upstream.port}/v1"
    await whole(await ask(client, provider(url, key=None)))
    assert upstream.calls[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed_with_the_key(client: Client, upstream: FakeUpstream, status: int) -> None:
    async with FakeUpstream() as thief:
        upstream.script("m", Status(status, {"location": f"{thief.url}/chat/completions"}))
        reply = await ask(client, provider(upstream.url))
        assert reply.status == status
        await whole(reply)
        assert thief.calls == []
    assert len(upstream.calls) == 1


async def test_cookies_are_not_kept(client: Client, upstream: FakeUpstream) -> None:
    upstream.script("m", Status(200, {"set-cookie": "session=abc; Path=/"}))
    for _ in range(2):
        await whole(await ask(client, provider(upstream.url)))
    assert "cookie" not in upstream.calls[1].headers


async def test_a_connection_is_used_again_after_an_answer_was_read(client: Client, upstream: FakeUpstream) -> None:
    for _ in range(3):
        await whole(await ask(client, provider(upstream.url)))
    assert upstream.connections == 1


async def test_a_connection_is_dropped_with_an_answer_that_was_not_read(client: Client, upstream: FakeUpstream) -> None:
    upstream.script("m", Text(end="hang"))
    (await ask(client, provider(upstream.url), b'{"model": "m", "stream": true}')).close()
    await asyncio.wait_for(upstream.calls[0].dropped.wait(), 1)


async def test_a_body_of_megabytes_arrives_whole(client: Client, upstream: FakeUpstream) -> None:
    body = b'{"model": "m", "messages": "%s"}' % (b"x" * 20_000_000)
    await whole(await ask(client, provider(upstream.url), body))
    assert upstream.calls[0].body == body


# What is sent again


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_what_died_on_a_kept_connection_without_a_byte_is_sent_once_more(
    client: Client, upstream: FakeUpstream, end: str
) -> None:
    upstream.script("m", Body(b"{}"), Bytes((), end=end), Body(b'{"second": 1}'))
    await whole(await ask(client, provider(upstream.url)))
    assert await whole(await ask(client, provider(upstream.url))) == b'{"second": 1}'
    assert (len(upstream.calls), upstream.connections) == (3, 2)


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_it_is_sent_no_third_time(client: Client, upstream: FakeUpstream, end: str) -> None:
    upstream.script("m", Body(b"{}"), Bytes((), end=end))
    await whole(await ask(client, provider(upstream.url)))
    with pytest.raises(ConnectionLost):
        await ask(client, provider(upstream.url))
    assert len(upstream.calls) == 3


async def test_it_is_sent_again_on_a_new_connection_for_the_kept_ones_may_all_be_dead(
    client: Client, upstream: FakeUpstream
) -> None:
    upstream.script("m", Text(delay=0.05))
    replies = await asyncio.gather(*(ask(client, provider(upstream.url)) for _ in range(3)))
    await asyncio.gather(*(whole(reply) for reply in replies))
    assert upstream.connections == 3
    upstream.script("m", Bytes((), end="reset"), Body(b"{}"))
    assert await whole(await ask(client, provider(upstream.url))) == b"{}"
    assert upstream.connections == 4


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_what_died_on_a_new_connection_is_not_sent_again(
    client: Client, upstream: FakeUpstream, end: str
) -> None:
    upstream.script("m", Bytes((), end=end))
    with pytest.raises(ConnectionLost):
        await ask(client, provider(upstream.url))
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "begun", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx", b"garbage\r\n\r\n"]
)
async def test_what_was_answered_in_part_is_not_sent_again(
    client: Client, upstream: FakeUpstream, begun: bytes
) -> None:
    upstream.script("m", Body(b"{}"), Bytes((begun,), end="cut"))
    await whole(await ask(client, provider(upstream.url)))
    with pytest.raises(UpstreamError):
        await ask(client, provider(upstream.url))
    assert len(upstream.calls) == 2


# What goes wrong, by name


async def test_what_is_not_http_is_a_bad_answer(client: Client, upstream: FakeUpstream) -> None:
    upstream.script("m", Bytes((b"SSH-2.0-x\r\n\r\n",)))
    with pytest.raises(BadAnswer, match="not HTTP"):
        await ask(client, provider(upstream.url))


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_a_body_that_breaks_off_is_a_lost_connection(client: Client, upstream: FakeUpstream, end: str) -> None:
    upstream.script("m", Bytes((CHUNKED + b"5\r\nhello\r\n",), end=end, pace=0.02))
    reply = await ask(client, provider(upstream.url))
    with pytest.raises(ConnectionLost, match="in the middle of the answer"):
        await whole(reply)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/v1", "no connection"),
        ("http://nowhere.invalid/v1?key=secret", "cannot be resolved"),
        ("http://secret:secret@127.0.0.1:1/v1", ""),
        ("http://a..b/secret", ""),
        ("http://[::1]:1/secret", ""),
    ],
)
async def test_an_address_that_nobody_answers_at_is_named_without_its_text(client: Client, url: str, said: str) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await ask(client, provider(url))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
