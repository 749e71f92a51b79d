from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Generator

import pytest

from pointsman.testing import FakeUpstream


class Settled(logging.Handler):
    """The lines that `settle` writes, as they come: one for each call, whatever happened to it."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        found = dict(re.findall(r"(\w+)=(\S+)", record.getMessage()))
        if "outcome" in found:
            self._lines.put_nowait(found)

    async def next(self, *, within: float = 1.0) -> dict[str, str]:
        async with asyncio.timeout(within):
            return await self._lines.get()

    @property
    def more(self) -> bool:
        return not self._lines.empty()


@pytest.fixture
def settled() -> Generator[Settled]:
    handler = Settled()
    logger = logging.getLogger("pointsman.gateway.exchange")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake
