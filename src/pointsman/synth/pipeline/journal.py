"""What models answered, on disk: the cache that makes a run resumable, the bill, and the rejects. Knows no model.

SQLite in WAL mode. An answer is committed before anything is made of it, so that a killed run loses at most the calls
that were in flight, and asks nothing twice.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pointsman.errors import DataError, Problem

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,              -- digest of model, prompt, version and seed
    step TEXT NOT NULL,
    version TEXT NOT NULL,
    model TEXT NOT NULL,
    seed INTEGER NOT NULL,
    parent TEXT NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost REAL NOT NULL,                -- in the currency of the prices given
    at REAL NOT NULL                   -- seconds since 1970
);
CREATE TABLE IF NOT EXISTS rejects (
    key TEXT PRIMARY KEY,              -- the answer that was rejected
    step TEXT NOT NULL,
    reason TEXT NOT NULL,
    said TEXT NOT NULL
);
"""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A model's answer, and what it took."""

    key: str
    step: str
    version: str
    model: str
    seed: int
    parent: str
    """The key of what it was made from: an intent's, a dialogue's; or the policy's id."""
    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: float


class Reject(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was not used, and why. `reason` is one of a few, for counting."""

    key: str
    step: str
    reason: str
    said: str


class Journal:
    """The journal of one folder. Close it, or use it as a context."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises DataError if it is no journal or in use by another run."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
        with _told(path):
            # One run at a time: two would ask everything twice, and pay for it.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def get(self, key: str) -> Answer | None:
        columns = ", ".join(Answer.__struct_fields__)
        row = self._db.execute(f"SELECT {columns} FROM answers WHERE key = ?", (key,)).fetchone()  # noqa: S608 - our names
        return Answer(**dict(zip(Answer.__struct_fields__, row, strict=True))) if row else None

    def put(self, answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns."""
        marks = ", ".join("?" * (len(Answer.__struct_fields__) + 1))
        with _told(self.path):
            values = (*msgspec.structs.astuple(answer), time.time())
            self._db.execute(f"INSERT OR IGNORE INTO answers VALUES ({marks})", values)  # noqa: S608 - question marks

    def reject(self, reject: Reject) -> None:
        with _told(self.path):
            self._db.execute("INSERT OR IGNORE INTO rejects VALUES (?, ?, ?, ?)", msgspec.structs.astuple(reject))

    def rejects(self) -> Iterator[tuple[Reject, str]]:
        """All rejects with the text of the answer, in the order of their keys."""
        asked = (
            "SELECT r.key, r.step, r.reason, r.said, a.text FROM rejects r JOIN answers a USING (key) ORDER BY r.key"
        )
        for key, step, reason, said, text in self._db.execute(asked):
            yield Reject(key=key, step=step, reason=reason, said=said), text

    def bill(self) -> dict[str, Bill]:
        """What each model has cost so far."""
        asked = (
            "SELECT model, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(cost) FROM answers GROUP BY model"
        )
        return {
            model: Bill(calls=calls, prompt_tokens=prompt, completion_tokens=completion, cost=cost)
            for model, calls, prompt, completion, cost in self._db.execute(asked)
        }


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """Answered calls, their tokens, and the cost by the prices given at the time."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


@contextmanager
def _told(path: Path) -> Generator[None]:
    """What SQLite complains of, as an error that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        mend = "is it from another program? give another --out"
        if "locked" in str(error):
            mend = "another run is at work in this folder; wait for it or stop it"
        elif "full" in str(error) or "disk I/O" in str(error):
            mend = "the disk is full or failing; nothing that was answered before is lost"
        raise DataError([Problem(path="", message=f"cannot be used: {error}", mend=mend, file=str(path))]) from None
