from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from pointsman.gateway.journal import Journal, Record
from pointsman.testing import FakeUpstream


class Settled:
    """The records that `settle` notes, as they come: one for each call, whatever happened to it."""

    def __init__(self) -> None:
        self._records: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    def put(self, record: Record) -> None:
        self._records.put_nowait({name: str(value) for name, value in msgspec.structs.asdict(record).items()})

    async def next(self, *, within: float = 1.0) -> dict[str, str]:
        async with asyncio.timeout(within):
            return await self._records.get()

    @property
    def more(self) -> bool:
        return not self._records.empty()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Settled:
    """Listens at every gateway's journal; the journal writes as ever."""
    heard = Settled()
    note = Journal.note

    def listened(journal: Journal, record: Record) -> None:
        heard.put(record)
        note(journal, record)

    monkeypatch.setattr(Journal, "note", listened)
    return heard


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake
