"""RESULTS.md out of the report beside it: `python benches/corpus/tables.py > benches/corpus/RESULTS.md`."""

from __future__ import annotations

from pathlib import Path

from pointsman.evals.evaluate import read
from pointsman.evals.metrics import Measure
from pointsman.evals.report import Cell, Report

HERE = Path(__file__).parent
TOLD = {
    "untrained": "untrained",
    "pool": "(a) public pool",
    "corpus": "(b) corpus",
    "both": "(c) both",
}


HEAD = """# What the corpus is worth

MiniLM fine-tuned for 600 steps of 32 turns, by one recipe, on (a) the public pool, (b) the corpus, (c) both, and as
published; int8; zero-shot on development sets that none of them holds. Turns right in percent, and half of the 95 %
interval. Confidence and "none" are calibrated as for the weights that ship, for all four; so the best policy without
"none" is given too. The corpus was that of digest 36a9b6ba2bcae474, before the last of the second looks, which changed
one item in fourteen of the domains still to be looked at, most of them in a flag only. Made by `runs/corpus-proof.sh`
and `python benches/corpus/tables.py`.
"""


def main() -> None:
    report = read(HERE / "proof.json")
    print(HEAD)
    print(f"Pointsman {report.pointsman}, conversations {report.conversations}, run {report.fingerprint}.")
    for size in (0, 10):
        print(f"\n## {'Ten policies' if size else 'The whole set'} on offer\n")
        table(report, size, lambda cell: cell.metrics.turn)
        print('\nThe best policy, "none" left out:\n')
        table(report, size, lambda cell: cell.metrics.best_policy)
    print("\n## Spans and conversations of sgd, the whole set on offer\n")
    head("", *map(told, report.routers))
    for name in ("span", "every_conversation"):
        print(f"| {name.replace('_', ' ')} | " + " | ".join(
            percent(getattr(cell.metrics, name)) for router in report.routers
            for cell in report.cells if (cell.router, cell.source, cell.size) == (router.name, "sgd", 0)
        ) + " |")  # fmt: skip


def told(router) -> str:
    folder = Path(router.name.partition("@")[2]).name.removesuffix("-weights")
    return TOLD.get(folder, folder)


def table(report: Report, size: int, measure) -> None:
    found: dict[tuple[str, str], Cell] = {
        (cell.router, cell.source): cell for cell in report.cells if cell.size == size
    }
    head("source", "turns", *map(told, report.routers))
    columns: list[list[float]] = [[] for _ in report.routers]
    for source in report.sources:
        measures = [measure(found[router.name, source.name]) for router in report.routers]
        for column, each in zip(columns, measures, strict=True):
            column.append(100 * each.value)
        print(f"| {source.name} | {measures[0].count} | {' | '.join(map(percent, measures))} |")
    print("| **mean** | | " + " | ".join(f"**{sum(column) / len(column):.1f}**" for column in columns) + " |")


def head(*names: str) -> None:
    print(f"| {' | '.join(names)} |")
    print(f"|---|{'--:|' * (len(names) - 1)}")


def percent(measure: Measure) -> str:
    if measure.value is None:
        return ""
    return f"{100 * measure.value:.1f} ±{50 * ((measure.high or 0) - (measure.low or 0)):.1f}"


if __name__ == "__main__":
    main()
