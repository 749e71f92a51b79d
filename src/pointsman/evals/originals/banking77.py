"""BANKING77: single requests to a bank's support, 77 intents. Knows `train.csv` and `test.csv`, and nothing else there.

The policies are grouped by domains of our own making: the original has flat labels. Its splits are kept complete.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from pointsman.dataset import Example, Label
from pointsman.errors import DataError, Problem
from pointsman.evals.originals.original import Rebuilt, below, by_action, refuse, refused, shipped, tidy

_SPLITS = ("train", "test")
_HEADER = ["text", "category"]
_MEND = "get train.csv and test.csv from the banking_data folder of PolyAI-LDN/task-specific-datasets"


def build(location: Path) -> Rebuilt:
    """`train` and `test`, each request a conversation of its own."""
    folder = _folder(location)
    taxonomy = shipped("banking77")
    ids = by_action(taxonomy)
    problems: list[Problem] = []
    splits: dict[str, tuple[Example, ...]] = {}
    for split in _SPLITS:
        try:
            splits[split] = _read(folder / f"{split}.csv", split, ids, problems)
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        refuse(problems)
    return Rebuilt(taxonomy=taxonomy, splits=splits)


def action(label: str) -> str:
    """A label as the action of its policy: two of the 77 have a capital or a question mark."""
    return re.sub(r"\W+", "", label).lower()


def _folder(location: Path) -> Path:
    if not location.is_dir():
        raise refused(location, "is not a folder with train.csv and test.csv", _MEND)
    found = [file.parent for file in below(location, "train.csv") if (file.parent / "test.csv").is_file()]
    if not found:
        raise refused(location, "holds no train.csv with a test.csv beside it", _MEND)
    return found[0]


def _read(file: Path, split: str, ids: dict[str, str], problems: list[Problem]) -> tuple[Example, ...]:
    examples: list[Example] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            if next(rows, None) != _HEADER:
                raise refused(file, f"does not begin with the line {','.join(_HEADER)}", _MEND)
            for row in rows:
                if not row:
                    continue
                said = None
                if len(row) != len(_HEADER):
                    said = f"has {len(row)} columns, not 2"
                elif action(row[1]) not in ids:
                    said = f"there is no category {row[1]!r} in BANKING77"
                if said:
                    problems.append(Problem(path="", message=said, mend=_MEND, line=rows.line_num, file=str(file)))
                elif tidy(row[0]):  # nobody can route an empty one
                    examples.append(
                        Example(
                            id=f"banking77-{split}-{len(examples):05}",
                            source="banking77",
                            policies="banking77",
                            messages=({"role": "user", "content": tidy(row[0])},),
                            turns=(Label(index=0, policy=ids[action(row[1])]),),
                        )
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refused(file, f"cannot be read as CSV: {error}", _MEND) from None
    return tuple(examples)
