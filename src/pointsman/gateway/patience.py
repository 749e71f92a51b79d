"""Waits that end. One timer serves all the calls of a worker. Knows nothing of what is waited for.

`asyncio.timeout` makes and cancels a timer for every wait, and a stream waits before each chunk: 14 µs of the 40 that a
chunk costs. Here a wait is an assignment, and a sweep every `SWEEP` seconds looks who has waited too long.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType

from pointsman.config import Timeouts

# The limits are seconds; to be this late with one harms nobody.
SWEEP = 0.05


class Watchdog:
    """The timer of an event loop. It runs while somebody waits."""

    def __init__(self) -> None:
        self._waiting: set[Patience] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, patience: Patience) -> None:
        self._waiting.add(patience)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def forget(self, patience: Patience) -> None:
        self._waiting.discard(patience)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for patience in tuple(self._waiting):
            patience.check(now)
        self._timer = loop.call_later(SWEEP, self._sweep) if self._waiting else None


class Patience:
    """The waits of one call: each has its own limit, and all of them together the total.

        with patience.first_byte():
            ...                      # raises TimeoutError when it takes longer
            patience.renew_idle()    # and from here on, when this does

    Waits do not nest. The task that enters one is the task that is cancelled.
    """

    def __init__(self, timeouts: Timeouts, watchdog: Watchdog) -> None:
        self._timeouts = timeouts
        self._watchdog = watchdog
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + timeouts.total
        self._until = math.inf
        self._expired = False
        self._task: asyncio.Task[object] | None = None

    @property
    def over(self) -> bool:
        """Whether the total is used up."""
        return self._now() >= self._end

    def total(self) -> Patience:
        self._until = self._end
        return self

    def first_byte(self) -> Patience:
        self._until = min(self._end, self._now() + self._timeouts.first_byte)
        return self

    def at_most(self, seconds: float) -> Patience:
        self._until = min(self._end, self._now() + seconds)
        return self

    def renew_idle(self) -> None:
        self._until = min(self._end, self._now() + self._timeouts.idle)

    def check(self, now: float) -> None:
        """Cancel the task if it has waited too long. Somebody else's cancelling goes first."""
        if now >= self._until and self._task and not self._task.cancelling():
            self._expired = True
            self._until = math.inf
            self._task.cancel()

    def __enter__(self) -> Patience:
        if self._task is None:
            self._task = asyncio.current_task()
        self._watchdog.watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.forget(self)
        self._until = math.inf
        if self._expired and kind is asyncio.CancelledError:
            self._expired = False
            assert self._task is not None  # noqa: S101 - set on entering
            # If the caller has hung up as well, or the server stops, the cancelling is theirs.
            if self._task.uncancel() == 0:
                raise TimeoutError from None
