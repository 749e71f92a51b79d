"""The gateway's log: one line per event on stderr, without secrets. Knows nothing of what is logged."""

from __future__ import annotations

import asyncio
import logging
import sys

_HIDDEN = "***"


class _Formatter(logging.Formatter):
    """Formats as usual, then blanks out every known secret, tracebacks included: the last thing before the sink."""

    secrets: tuple[str, ...] = ()

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self.secrets:
            text = text.replace(secret, _HIDDEN)
        return text


_formatter = _Formatter("%(asctime)s %(levelname)s %(message)s")


def configure(level: int = logging.INFO) -> None:
    """Log to stderr. Twice is as good as once."""
    root = logging.getLogger()
    if not any(handler.formatter is _formatter for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_formatter)
        root.addHandler(handler)
    root.setLevel(level)
    # Not completing an answer is how a broken stream ends here (exchange.relay); uvicorn would call it an error.
    logging.getLogger("uvicorn.error").addFilter(_completed)


def hide(secrets: tuple[str, ...]) -> None:
    """From now on, these texts appear in no line."""
    _formatter.secrets = secrets


def _completed(record: logging.LogRecord) -> bool:
    # A second signal cancels the calls that are open; they are in the exchange log, and need no traceback.
    cancelled = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    return not cancelled and "without completing response" not in record.getMessage()
