"""Which models are resting: they refused with a `retry-after`, or could not be reached. Knows no HTTP client.

A resting model is tried after the others, never left out: if all of them rest, the caller's order holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime

# A provider that says "a billion seconds" must not take itself out of the table until a restart.
LONGEST = 60.0
UNREACHABLE = 5.0


class Health:
    """Rests by model. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: dict[str, float] = {}

    def rest(self, model: str, seconds: float) -> None:
        if seconds <= 0:
            return
        now = self._now()
        # Callers may pin any name of a provider's: those that have rested are forgotten, or the table grows for ever.
        self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[model] = now + min(seconds, LONGEST)

    def resting(self, model: str) -> bool:
        return self._until.get(model, 0.0) > self._now()

    def ordered(self, models: Sequence[str]) -> tuple[str, ...]:
        """`models` in their order, but the resting ones last."""
        return tuple(sorted(models, key=self.resting))


def retry_after(headers: Mapping[str, str], *, wall: Callable[[], float]) -> float:
    """Seconds to wait by `retry-after-ms` or `retry-after` (RFC 9110, 10.2.3: seconds or a date); 0 if there is none.

    Nonsense and the past are 0. `wall` is the time of day in seconds since the epoch.
    """
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    given = headers.get("retry-after", "").strip()
    seconds = _seconds(given)
    if seconds is not None:
        return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - wall())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def _seconds(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
