"""All that serving one configuration takes, made and closed together. A call keeps the one that it began with."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from urllib.parse import quote

from pointsman import router
from pointsman.config import Config, Provider
from pointsman.gateway.journal import Journal, Stdout
from pointsman.gateway.patience import Watchdog
from pointsman.router import Router
from pointsman.upstreams.client import Client
from pointsman.upstreams.health import Health


class Runtime:
    """A Config come alive. Make it on the running event loop, then `start` it.

    `journal` takes the lines of the exchange log; stdout if it is not given.
    """

    def __init__(
        self, config: Config, *, routing: Router | None = None, journal: Callable[[bytes], object] | None = None
    ) -> None:
        self.config = config
        self.router = routing or router.build(config)
        self.client = Client(config.gateway.timeouts)
        self.health = Health(time.monotonic)
        self.watchdog = Watchdog()
        self._stdout = Stdout()
        self.journal = Journal(journal or self._stdout)
        self.keys = tuple(_digest(key.reveal()) for key in config.gateway.keys)
        spelled = {each.encode() for secret in config.secrets for each in _spellings(secret)}
        self.secrets = tuple(sorted(spelled, key=len, reverse=True))

    async def start(self) -> None:
        """Load what the first call would wait for. Raises RouterError if the router cannot be loaded."""
        await self.router.warm()

    async def close(self) -> None:
        await self.router.close()
        await self.client.close()
        self.flush()

    def flush(self) -> None:
        """Write out what the exchange log still holds; for the end of a process."""
        self.journal.flush()
        self._stdout.drain()

    def knows(self, key: str) -> bool:
        """Whether a caller's key is one of ours; each is compared, and in constant time."""
        given = _digest(key)
        return sum(hmac.compare_digest(given, known) for known in self.keys) > 0

    def provider(self, model: str) -> tuple[Provider, str]:
        """The provider of `provider/name`, and the name that it knows the model by."""
        provider, _, name = model.partition("/")
        return self.config.providers[provider], name

    def scrubbed(self, text: bytes) -> bytes:
        """`text` without our secrets, for what a provider says goes on to a caller when it refuses."""
        for secret in self.secrets:
            text = text.replace(secret, b"***")
        return text


def _spellings(secret: str) -> set[str]:
    """A secret as a provider may say it back: as it is, in JSON with escaped slashes, and in an address."""
    # A plus in the query of an address was read as a blank.
    written = {secret, secret.replace(" ", "+")}
    return {way for each in written for way in (each, each.replace("/", "\\/"), quote(each), quote(each, safe=""))}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
