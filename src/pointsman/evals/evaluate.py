"""An evaluation from data to report: each router on each source, then the figures. What `pointsman eval` calls."""

from __future__ import annotations

import datetime as dt
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from pointsman import __version__
from pointsman.dataset import Dataset
from pointsman.errors import DataError, Problem
from pointsman.evals import report as reports
from pointsman.evals.contenders import Contender
from pointsman.evals.report import Cell, Latency, Report, Robustness, RouterInfo, Times
from pointsman.evals.run import Entry, Journal, Plan, examples, fingerprint, run

Advance = Callable[[str], None]
"""Called after each example, with what is being measured."""


def size(data: Dataset, plan: Plan, routers: int) -> int:
    """How many times `evaluate` calls `advance`."""
    return routers * sum(len(examples(source, plan)) for source in data.sources)


def journal(report: Path | None, data: Dataset, plan: Plan, *, resume: bool = False) -> Journal:
    """The journal that lies beside a report, or one that is not kept. To be entered; raises DataError then."""
    mark = fingerprint(plan, data, __version__)
    return Journal(journal_path(report) if report else None, mark, resume=resume)


def journal_path(report: Path) -> Path:
    """Where the decisions that a report is made of are kept: beside it."""
    return report.with_name(f"{report.name.removesuffix('.json')}.decisions.jsonl.gz")


def read(path: Path) -> Report:
    """A report. Raises DataError if the file holds none that this version understands."""
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found != reports.FORMAT:
            raise _refused(path, f"is a report of format {found}, not {reports.FORMAT}")
        return msgspec.json.decode(content, type=Report)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(path, f"is no report: {error}") from error


def _refused(path: Path, message: str) -> DataError:
    mend = "make one with `pointsman eval --out FILE`"
    return DataError([Problem(path="", message=message, mend=mend, file=str(path))])


class _Format(msgspec.Struct):
    format: int


async def evaluate(
    data: Dataset,
    contenders: Sequence[Contender],
    plan: Plan,
    *,
    journal: Journal,
    models: Mapping[str | None, str] | None = None,
    advance: Advance = lambda _: None,
) -> Report:
    """Every contender over all the data.

    `models` is a policy file's table, if the share of turns that reach the right model is wanted. `journal` keeps every
    decision; those that it holds are not made again. Raises PointsmanError if a router cannot be loaded.
    """
    began = time.perf_counter()
    cells: list[Cell] = []
    robustness: list[Robustness] = []
    routers: list[RouterInfo] = []
    latency: list[Latency] = []
    for contender in contenders:
        try:
            by = await contender.identify()
            routers.append(RouterInfo(name=contender.name, id=by))
            times: list[float] = []
            for source in data.sources:
                what = f"{contender.name} on {source.name}"
                entries = await run(
                    contender,
                    source,
                    data.taxonomies,
                    plan,
                    by=by,
                    journal=journal,
                    advance=lambda what=what: advance(what),
                )
                cells += reports.cells(entries, models)
                robustness += reports.robustness(entries)
                times += _times(entries)
            latency.append(_latency(contender.name, times))
        finally:
            await contender.router.close()
    return Report(
        format=reports.FORMAT,
        pointsman=__version__,
        fingerprint=journal.fingerprint,
        conversations=data.conversations,
        policies=data.policies,
        skipped=tuple(problem.located() for problem in data.skipped),
        plan=plan,
        sources=reports.sources(data, plan),
        routers=tuple(routers),
        cells=tuple(cells),
        means=reports.means(cells),
        robustness=tuple(robustness),
        paper=reports.paper_rows(cells, [each.name for each in routers]),
        times=Times(
            finished=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            python=platform.python_version(),
            seconds=round(time.perf_counter() - began, 1),
            latency=tuple(latency),
        ),
    )


def _times(entries: Sequence[Entry]) -> list[float]:
    return [answer.ms for entry in entries for answers in entry.answers.values() for answer in answers]


def _latency(router: str, times: Sequence[float]) -> Latency:
    p50, p95, p99 = (round(float(each), 3) for each in np.percentile(times or [0.0], [50, 95, 99]))
    return Latency(router=router, decisions=len(times), p50=p50, p95=p95, p99=p99)


def encode(report: Report) -> bytes:
    """The report as a JSON document, in one line: that of twenty sources and five routers is 2 MB as it is."""
    return msgspec.json.encode(report) + b"\n"
