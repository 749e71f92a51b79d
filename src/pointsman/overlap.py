"""Whether a text stands in other data sets: the same words, or eight words in a row. Knows no file of a corpus.

Eight words in a row is the usual measure of contamination (Brown et al. 2020 use 13, GPT-2's authors 8). It finds what
was copied, not what was said in other words.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from pointsman.conversation import read
from pointsman.errors import DataError, Problem

GRAM = 8

_WORDS = re.compile(r"\w+")


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """What a text has of a source's: all of it (`words` None), or these words in a row."""

    source: str
    words: tuple[str, ...] | None


class Foreign:
    """Texts by the name of their source, to look others up in."""

    def __init__(self, texts: Mapping[str, Iterable[str]]) -> None:
        self._grams: dict[tuple[str, ...], str] = {}
        self._wholes: dict[tuple[str, ...], str] = {}
        for source, said in texts.items():
            for text in said:
                listed = words(text)
                self._wholes[tuple(listed)] = source
                for gram in _grams(listed):
                    self._grams.setdefault(gram, source)

    def find(self, text: str) -> Overlap | None:
        """What `text` has of them. Up to three words ("thanks a lot") belong to nobody."""
        said = words(text)
        if len(said) > 3 and (source := self._wholes.get(tuple(said))):
            return Overlap(source=source, words=None)
        for gram in _grams(said):
            if source := self._grams.get(gram):
                return Overlap(source=source, words=gram)
        return None


def words(text: str) -> list[str]:
    """The words of a text in lower case; punctuation and spacing do not count."""
    return _WORDS.findall(text.lower())


def user_turns(*paths: Path) -> dict[str, list[str]]:
    """The user turns of data folders' files (or of single files), by file name; of one name together.

    Raises DataError.
    """
    files: list[Path] = []
    for path in paths:
        inside = [path] if path.is_file() else sorted([*path.rglob("*.jsonl.gz"), *path.rglob("*.jsonl")])
        if not inside:
            raise DataError([Problem(path="", message="holds no .jsonl.gz or .jsonl file", file=str(path))])
        files += inside
    found: dict[str, dict[str, None]] = {}
    for file in files:
        try:
            with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
                rows = [msgspec.json.decode(line, type=dict[str, object]) for line in lines if line.strip()]
        except (OSError, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError([Problem(path="", message=f"cannot be read: {error}", file=str(file))]) from None
        turns = (turn for row in rows for turn in read(row.get("messages")).turns)
        said = (turn.text for turn in turns if turn.role == "user" and turn.text)
        found.setdefault(file.name, {}).update(dict.fromkeys(said))
    return {name: list(said) for name, said in found.items()}


def _grams(said: Sequence[str]) -> Iterator[tuple[str, ...]]:
    # Eight numbers in a row, or eight times one word, are no text.
    for at in range(len(said) - GRAM + 1):
        gram = tuple(said[at : at + GRAM])
        if sum(len(word) > 2 and not word.isdigit() for word in set(gram)) >= GRAM // 2:
            yield gram
