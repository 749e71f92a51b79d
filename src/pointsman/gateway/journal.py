"""The exchange log: one JSON line for each call, written many at a time. Knows nothing of HTTP.

Writing a line through `logging` costs as much CPU as half the gateway; encoding one costs a microsecond.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable

import msgspec

log = logging.getLogger(__name__)

# Lines that may wait for each other, and seconds that the first of them waits at most.
BATCH = 64
DELAY = 0.25
# Batches that may wait for a slow reader of stdout: up to 64,000 lines, about 20 MB.
BACKLOG = 1000


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


class Stdout:
    """A sink that never waits: a thread writes, and what it cannot keep up with is refused with OSError."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[bytes] = queue.Queue(maxsize=BACKLOG)
        self._thread: threading.Thread | None = None

    def __call__(self, lines: bytes) -> None:
        if self._thread is None:
            # A daemon, for a reader who does not read would keep the process from ending.
            self._thread = threading.Thread(target=self._write, name="pointsman-journal", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(lines)
        except queue.Full:
            raise OSError("nobody reads the exchange log") from None

    def drain(self) -> None:
        """Give what waits a moment to be written; blocks for a second at most, so call it when nothing else goes on."""
        deadline = time.monotonic() + 1.0
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)

    def _write(self) -> None:
        while True:
            lines = self._waiting.get()
            try:
                sys.stdout.buffer.write(lines)
                sys.stdout.buffer.flush()
            except (OSError, ValueError) as error:
                log.error("the exchange log lost %d lines: %s", lines.count(b"\n"), type(error).__name__)
            finally:
                self._waiting.task_done()


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
