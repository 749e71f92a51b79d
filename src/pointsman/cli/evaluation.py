"""`pointsman eval` and `pointsman dataset`: the benchmark, on public data or on a user's own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pointsman import config
from pointsman.cli.tables import print_report
from pointsman.config import Config

if TYPE_CHECKING:
    from pointsman.dataset import Dataset
    from pointsman.evals.contenders import Contender
    from pointsman.evals.cost import Cost
    from pointsman.evals.report import Report
    from pointsman.evals.run import Journal, Plan

_path = click.Path(path_type=Path)

SHOWN = 20
"""Bad lines that are printed; all of them stand in the report."""


def _sizes(_context: click.Context, _option: click.Parameter, values: Sequence[str]) -> tuple[int | None, ...]:
    wrong = [value for value in values if value != "all" and not (value.isdecimal() and int(value))]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is neither a number of policies nor 'all'")
    return tuple(None if value == "all" else int(value) for value in dict.fromkeys(values))


def _names(_context: click.Context, _option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for value in values for name in value.split(",") if name))


@click.command("eval")
@click.option("--data", "path", type=_path, required=True, help="A folder of labelled conversations, or one file.")
@click.option("--policies", "sets", type=_path, help="The folder of policy sets, if it is not DATA/policies.")
@click.option("--split", help="The part of the data, such as test.  [default: dev, or the only one]")
@click.option("--only", multiple=True, metavar="NAME,...", callback=_names, help="These sources alone.")
@click.option("-c", "--config", "policy_file", type=_path, help="A policy file: its policies, its router.")
@click.option("--router", "routers", multiple=True, metavar="NAME", help="Routers to measure, as above.")
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(["fqfa", "fqca", "irrelevance"]),
    multiple=True,
    help="What is asked.  [default: all three]",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    callback=_sizes,
    help="Policies on offer.  [default: all, 5, 10, 20; all if a policy file has them]",
)
@click.option(
    "--robustness",
    type=click.IntRange(0),
    is_flag=False,
    flag_value=100,
    default=0,
    metavar="[N]",
    help="Also perturb N examples of each source (100 if no number is given).",
)
@click.option("--cost", is_flag=True, help="Also measure latency, throughput, memory and cold start.")
@click.option("--shots", type=click.IntRange(0), default=0, help="Examples a policy gets from the train split.")
@click.option("--limit", type=click.IntRange(1), help="So many examples of each source, drawn by seed.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores an encoder may use.")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that cannot be used, and say which.")
@click.option("--out", type=_path, help="The report, as JSON; decisions are kept beside it.")
@click.option("--html", type=_path, help="The report, as a page.")
@click.option("--texts", is_flag=True, help="Show requests that were routed wrong on the page.")
@click.option("--baseline", type=_path, help="An earlier report: what changed, which turns flipped.")
@click.option("--resume", is_flag=True, help="Go on where a stopped run with the same --out was.")
def evaluate(  # one option a parameter; each is passed on once
    path: Path,
    sets: Path | None,
    split: str | None,
    only: tuple[str, ...],
    policy_file: Path | None,
    routers: tuple[str, ...],
    scenarios: tuple[str, ...],
    sizes: tuple[int | None, ...],
    robustness: int,
    cost: bool,
    shots: int,
    limit: int | None,
    seed: int,
    threads: int,
    skip_bad: bool,
    out: Path | None,
    html: Path | None,
    texts: bool,
    baseline: Path | None,
    resume: bool,
) -> None:
    """Measure how often routers pick the right policy.

    With labelled conversations of your own: pointsman eval -c policies.yaml --data mine.jsonl, where a line is
    {"messages": [...], "policy": "legal.summarization"} for the newest user turn, or labels every turn.

    \b
    Routers: encoder; configured, the one of -c (the default with it); the baselines
    most-frequent, word-overlap, cosine-last, cosine-all and nearest-example; and
    FILE.py:NAME or module:NAME, where NAME() gives a Scorer of your own. encoder@FOLDER
    and the last three baselines @FOLDER take the weights in FOLDER.
    """
    from pointsman import dataset  # noqa: PLC0415
    from pointsman.evals import contenders  # noqa: PLC0415
    from pointsman.evals import evaluate as evals  # noqa: PLC0415
    from pointsman.evals.compare import compare  # noqa: PLC0415
    from pointsman.evals.run import SIZES, Plan, read_journal  # noqa: PLC0415
    from pointsman.evals.scenarios import Scenario  # noqa: PLC0415

    if resume and not out:
        raise click.UsageError("--resume goes on with the decisions beside --out; give the same --out")
    if texts and not html:
        raise click.UsageError("--texts are shown on the page; say where with --html")
    _make_way(out, html)
    # Read whole before anything is written: the baseline may be the report that is made anew.
    before = (evals.read(baseline), list(read_journal(evals.journal_path(baseline)))) if baseline else None
    # No provider is called, so no key is needed.
    loaded = config.load(policy_file, env=None) if policy_file else None
    own = dataset.taxonomy(policy_file.stem, loaded.policies) if loaded and policy_file else None
    data = dataset.load(path, policies=sets, split=split, only=only, own=own, skip_bad=skip_bad)
    if shots:
        data = dataset.shown(data, path / "train", shots, seed=seed)
    for problem in data.skipped[:SHOWN]:
        click.echo(f"left out: {problem.located()}", err=True)
    if more := len(data.skipped[SHOWN:]):
        click.echo(f"left out: {more} more, which the report lists", err=True)
    plan = Plan(
        scenarios=tuple(map(Scenario, scenarios)) or tuple(Scenario),
        sizes=sizes or ((None,) if _models(data, loaded) else (None, *SIZES)),
        robustness=robustness,
        shots=shots,
        limit=limit,
        seed=seed,
        threads=threads,
    )
    names = dict.fromkeys(routers or (("configured",) if loaded else ("encoder",)))
    found = [contenders.find(name, data, config=loaded, threads=threads) for name in names]
    with evals.journal(out, data, plan, resume=resume) as journal:
        try:
            report = _run(data, found, plan, journal, loaded)
        except KeyboardInterrupt:
            if out:
                click.echo("stopped; what was decided is kept, and --resume goes on from there", err=True)
            raise
    # Written first: what follows may fail, and the figures are there.
    _write(out, report)
    if before and baseline:
        compared = compare(report, journal.entries, *before, baseline=baseline.name)
        report = msgspec.structs.replace(report, comparison=compared)
    if cost:
        report = _with_cost(report, policy_file, threads)
    _write(out, report)
    if html:
        html.write_text(_page(report, journal, data if texts else None), encoding="utf-8")
    print_report(report)


def _make_way(out: Path | None, html: Path | None) -> None:
    """Say now, and not after the work, what cannot be written."""
    if html:
        from pointsman.evals import page as _  # noqa: F401, PLC0415 - raises if its extra is not there
    for target in filter(None, (out, html)):
        if target.is_dir():
            raise click.UsageError(f"{target} is a folder; name a file in it")
        target.parent.mkdir(parents=True, exist_ok=True)


def _write(out: Path | None, report: Report) -> None:
    """The report in place of what was there, whole or not at all."""
    from pointsman.evals.evaluate import encode  # noqa: PLC0415

    if out:
        fresh = out.with_name(out.name + ".new")
        fresh.write_bytes(encode(report))
        fresh.replace(out)


def _run(data: Dataset, contenders: Sequence[Contender], plan: Plan, journal: Journal, loaded: Config | None) -> Report:
    """The evaluation, with a progress bar on a terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from pointsman.evals.evaluate import evaluate, size  # noqa: PLC0415

    columns = (
        *Progress.get_default_columns()[:3],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("examples", total=size(data, plan, len(contenders)), what="")
        return asyncio.run(
            evaluate(
                data,
                contenders,
                plan,
                journal=journal,
                models=_models(data, loaded),
                advance=lambda what: progress.update(task, advance=1, what=what),
            )
        )


def _with_cost(report: Report, policy_file: Path | None, threads: int) -> Report:
    from rich.console import Console  # noqa: PLC0415

    from pointsman.evals.cost import cost  # noqa: PLC0415

    made: list[Cost] = []
    with Console(stderr=True).status("cost") as status:
        for router in report.routers:
            measured = cost(
                router.name,
                config=policy_file,
                threads=threads,
                advance=lambda part, name=router.name: status.update(f"cost of {name}: {part}"),
            )
            made.append(asyncio.run(measured))
    times = msgspec.structs.replace(report.times, cost=tuple(made)) if report.times else None
    return msgspec.structs.replace(report, times=times)


def _models(data: Dataset, loaded: Config | None) -> dict[str | None, str] | None:
    """The policy file's table, if all the data are judged by its policies."""
    if loaded is None:
        return None
    named = {example.policies for source in data.sources for example in source.examples}
    if any(data.taxonomies[name].policies.digest != loaded.policies.digest for name in named):
        return None
    table: dict[str | None, str] = {policy.id: (policy.models or loaded.default)[0] for policy in loaded.policies}
    return {**table, None: loaded.default[0]}


def _page(report: Report, journal: Journal, data: Dataset | None) -> str:
    """The report's page; with `data`, the wrong turns of fQfA with the whole set on it, and what they say."""
    from pointsman.evals.page import Wrong, render  # noqa: PLC0415
    from pointsman.evals.run import Setting  # noqa: PLC0415
    from pointsman.evals.scenarios import Scenario  # noqa: PLC0415

    if data is None:
        return render(report)
    key = Setting(scenario=Scenario.FQFA, size=0).key
    examples = {(source.name, each.id): each for source in data.sources for each in source.examples}
    ids = {(router.name, router.id) for router in report.routers}
    wrong: list[Wrong] = []
    for entry in journal.entries:
        example = examples.get((entry.source, entry.id))
        if example is None or (entry.router, entry.by) not in ids:
            continue
        asked = [at for at, message in enumerate(example.messages) if message.get("role") == "user"]
        wrong += [
            Wrong(
                router=entry.router,
                source=entry.source,
                example=entry.id,
                turn=each.turn + 1,
                gold=each.gold,
                chosen=each.chosen,
                confidence=each.confidence,
                text=example.upto(asked[each.turn]).turns[-1].text,
            )
            for each in entry.answers.get(key, ())
            if each.gold != each.chosen
        ]
    return render(report, wrong=wrong)


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("location", metavar="LOCATION")
@click.option("--out", type=_path, required=True, help="The folder to write: OUT/<split>/NAME.jsonl.gz, OUT/policies/.")
def dataset(name: str, location: str, out: Path) -> None:
    """Rebuild a benchmark from its public original.

    NAME is clinc150, clinc150-multi, sgd, mantis or banking77; LOCATION a file, a folder, an archive, or the address of
    one. Where to get each: docs/how-to/rebuild-the-data.md.
    """
    from pointsman.evals.originals import ORIGINALS, rebuild  # noqa: PLC0415

    if name not in ORIGINALS:
        raise click.UsageError(f"there is no {name!r}; there are {', '.join(ORIGINALS)}")
    for written in rebuild(name, location, out):
        click.echo(str(written))
    click.echo(f"{ORIGINALS[name].licence}; please cite {ORIGINALS[name].citation}", err=True)
