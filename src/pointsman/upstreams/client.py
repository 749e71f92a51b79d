"""Calls to a provider over HTTP: open one, read it as it comes, drop it. Knows no dialect and no policy.

A small interface on purpose (`open`, `read`, `close`), so that a thinner client than aiohttp can take its place
(docs/decisions/0003). It never follows a redirect, keeps no cookie, and decompresses nothing that passes through.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from pointsman.config import Provider, Timeouts
from pointsman.errors import BadAnswer, ConnectFailed, ConnectionLost, UpstreamError, UpstreamTimeout

# Shorter than any common server keeps an idle connection, so that we are the ones to close it.
_KEEP_ALIVE = 15.0
# aiohttp pauses the socket at twice this; what a slow caller has not taken stays in the kernel and at the provider.
_READ_BUFFER = 64 * 1024
# aiohttp hands a body of bytes to the transport whole, and warns of it from here on; a file it sends piece by piece.
_SENT_WHOLE = 1024 * 1024


class _Stale(ConnectionLost):
    """A kept-alive connection was dead before one byte of the answer came back."""


class Reply:
    """An open answer. Leaving it as a context closes it; unless it was read to its end, its connection is dropped."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """The next bytes as they came; empty at the end. Raises ConnectionLost if they break off before it."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError):
            raise ConnectionLost("the connection broke off in the middle of the answer") from None

    def close(self) -> None:
        self._response.close()

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# Set by `_Request` for the call in whose task it runs: whether it went out on a kept-alive connection.
_reused: ContextVar[bool] = ContextVar("reused")


class _Request(aiohttp.ClientRequest):
    """Notes whether its connection has carried a call before. A TraceConfig would tell too, for 16 µs a call."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        protocol: Any = conn.protocol
        _reused.set(getattr(protocol, "carried_a_call", False))
        protocol.carried_a_call = True
        return await super().send(conn)


class Client:
    """Keep-alive connections to every provider. Make it on the running event loop; `close` it there."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._session = _session(
            timeouts, aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, ttl_dns_cache=60)
        )
        # Keeps nothing: what is sent once more must not meet the next dead connection.
        self._fresh = _session(timeouts, aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=60))
        self._urls: dict[tuple[str, str], URL] = {}

    async def open(self, provider: Provider, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST `body` to the provider; the answer's head is there, its body is not yet read.

        Raises ConnectFailed, ConnectionLost or UpstreamTimeout. A request whose kept-alive connection turns out to be
        dead before one byte came back is sent once more on a new one: the provider closed it while it was idle.
        """
        try:
            return await self._post(self._session, provider, path, body, headers)
        except _Stale:
            return await self._post(self._fresh, provider, path, body, headers)

    async def _post(
        self, session: aiohttp.ClientSession, provider: Provider, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        own = {"content-type": "application/json", "accept-encoding": "identity", **headers}
        if provider.key:
            own["authorization"] = f"Bearer {provider.key.reveal()}"
        own.update((name, value.reveal()) for name, value in provider.headers.items())
        _reused.set(False)
        try:
            response = await session.post(
                self._url(provider, path),
                data=body if len(body) <= _SENT_WHOLE else io.BytesIO(body),
                headers=own,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # No text of the error goes further: it may hold the address, and that may hold a secret.
            raise (_Stale(_BROKE_OFF) if _reused.get(False) and _silent(error) else _translated(error)) from None
        return Reply(response)

    def _url(self, provider: Provider, path: str) -> URL:
        """The provider's address with `path` appended to its path; a query in the base address stays behind it."""
        key = (provider.name, path)
        if key not in self._urls:
            base = URL(provider.base_url.reveal())
            # As it is written: a `%2F` in it is no slash.
            self._urls[key] = base.with_path(base.raw_path.rstrip("/") + path, encoded=True, keep_query=True)
        return self._urls[key]

    async def close(self) -> None:
        await self._session.close()
        await self._fresh.close()


def _session(timeouts: Timeouts, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=_READ_BUFFER,
        # The caller of `open` and `read` holds the clock for everything else.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
        request_class=_Request,
        skip_auto_headers=("user-agent", "accept"),
    )


_BROKE_OFF = "the connection broke off before the answer"

# What aiohttp's errors mean here; the first that fits, so the more special ones stand first.
_MEANING: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[UpstreamError], str], ...] = (
    ((aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError), ConnectFailed, "TLS failed"),
    (aiohttp.ClientConnectorDNSError, ConnectFailed, "its address cannot be resolved"),
    (aiohttp.ClientConnectorError, ConnectFailed, "no connection"),
    (aiohttp.ConnectionTimeoutError, ConnectFailed, "no connection in time"),
    (asyncio.TimeoutError, UpstreamTimeout, "no answer in time"),
    ((aiohttp.InvalidURL, ValueError), ConnectFailed, "its address is not valid"),
    (aiohttp.ClientResponseError, BadAnswer, "what it sent is not HTTP"),
    (Exception, ConnectionLost, _BROKE_OFF),
)


def _translated(error: Exception) -> UpstreamError:
    return next(ours(said) for theirs, ours, said in _MEANING if isinstance(error, theirs))


def _silent(error: Exception) -> bool:
    """Whether the connection ended without a byte. Where some came, the request was taken: it is not sent again."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the head that was begun
    return isinstance(error, aiohttp.ClientOSError)
