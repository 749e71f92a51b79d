"""The exchange log: one JSON line for each call, written many at a time. Knows nothing of HTTP.

Writing a line through `logging` costs as much CPU as half the gateway; encoding one costs a microsecond.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

log = logging.getLogger(__name__)

# Lines that may wait for each other, and seconds that the first of them waits at most.
BATCH = 64
DELAY = 0.25


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to one call. No content, no key, no address."""

    time: float
    """When it ended, in seconds since the epoch."""
    exchange: str
    config: str
    status: int
    """What the caller got; 499 if it hung up before its answer was complete."""
    outcome: str
    """`complete`, or the code of what went wrong."""
    policy: str | None = None
    model: str | None = None
    reason: str | None = None
    confidence: float | None = None
    attempts: int = 0
    decision_ms: float = 0.0
    ms: float


class Journal:
    """Collects records and hands them on as lines. Use it on one event loop; `flush` writes what waits."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._encode = msgspec.json.Encoder().encode

    def note(self, record: Record) -> None:
        self._lines.append(self._encode(record))
        if len(self._lines) >= BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self.flush)

    def flush(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._sink(b"\n".join(lines) + b"\n")
        except (OSError, ValueError) as error:
            # A full disk or a closed pipe must not fail calls; say how much is missing and go on.
            log.error("the exchange log lost %d lines: %s", len(lines), type(error).__name__)
