"""`pointsman synth` and `pointsman corpus`: making labelled conversations, and the written corpus."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pointsman import config

if TYPE_CHECKING:
    from pointsman.synth.pipeline.endpoint import Limits, Price
    from pointsman.synth.pipeline.output import Summary
    from pointsman.synth.pipeline.run import Plan

_path = click.Path(path_type=Path)

SHOWN = 40
"""Findings that are printed; the rest is counted."""


def _prices(_context: click.Context, _option: click.Parameter, values: Sequence[str]) -> dict[str, Price]:
    from pointsman.synth.pipeline.endpoint import Price  # noqa: PLC0415

    found: dict[str, Price] = {}
    for value in values:
        model, _, amounts = value.rpartition("=")
        try:
            prompt, completion = map(float, amounts.split(","))
            if not model or min(prompt, completion) < 0:
                raise ValueError
        except ValueError:
            raise click.BadParameter(f"{value!r} is not MODEL=IN,OUT, such as openai/gpt-5-mini=0.25,2") from None
        found[model] = Price(prompt=prompt, completion=completion)
    return found


@click.command()
@click.option("-c", "--config", "path", type=_path, required=True, help="A policy file: its policies and providers.")
@click.option("--topics", type=_path, help="A text file, a topic a line: policies are invented for each of them.")
@click.option("--writer", "writers", multiple=True, required=True, metavar="MODEL", help="A model that writes.")
@click.option(
    "--checker", "checkers", multiple=True, metavar="MODEL", help="A model that checks.  [default: the writers]"
)
@click.option("--out", type=_path, required=True, help="The folder to write; a run that stopped goes on in it.")
@click.option("--examples", type=click.IntRange(1), default=200, show_default=True, help="Conversations wanted.")
@click.option("--language", "languages", multiple=True, metavar="NAME", help="Drawn evenly.  [default: English]")
@click.option("--price", "prices", multiple=True, metavar="MODEL=IN,OUT", callback=_prices, help="Of a million tokens.")
@click.option("--budget", type=click.FloatRange(0, min_open=True), help="What all calls of the folder may cost.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Calls a minute to each model.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Calls at a time.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, help="Seconds.")
@click.option("--tries", type=click.IntRange(1), default=6, show_default=True, help="Of one call.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another one gives other conversations.")
def synth(
    path: Path,
    topics: Path | None,
    writers: tuple[str, ...],
    checkers: tuple[str, ...],
    out: Path,
    examples: int,
    languages: tuple[str, ...],
    prices: dict[str, Price],
    budget: float | None,
    rate: float | None,
    concurrency: int,
    timeout: float,
    tries: int,
    seed: int,
) -> None:
    """Have models write labelled conversations for your policies, and check them.

    MODEL is provider/name, of the policy file's providers. Every answer is kept in OUT/journal.sqlite: run the same
    command again after a stop, and it asks only for what is missing. Exit code 1: there are fewer than were wanted.
    """
    from pointsman.synth.pipeline.endpoint import Limits  # noqa: PLC0415
    from pointsman.synth.pipeline.run import Plan  # noqa: PLC0415

    loaded = config.load(path, env=os.environ)
    subjects = _topics(topics)
    models = (*writers, *checkers)
    for model in models:
        provider, _, name = model.partition("/")
        if provider not in loaded.providers or not name:
            known = ", ".join(loaded.providers)
            raise click.UsageError(f"{model!r} is no model of {path}'s providers; they are {known}")
    if budget is not None and (unpriced := [model for model in models if model not in prices]):
        raise click.UsageError(f"a budget needs the price of {unpriced[0]}: --price {unpriced[0]}=IN,OUT")
    if not loaded.policies and not subjects:
        raise click.UsageError(f"{path} has no policies; give some, or --topics")
    plan = Plan(
        writers=writers,
        checkers=checkers or writers,
        examples=examples,
        languages=languages or ("English",),
        seed=seed,
    )
    limits = Limits(concurrency=concurrency, rate=rate, budget=budget, timeout=timeout, tries=tries)
    summary = asyncio.run(_synth(loaded, path.stem, subjects, plan, out, prices, limits))
    click.echo(
        f"{out}: {summary.conversations} conversations, {summary.turns} labelled turns, "
        f"{summary.perturbed_turns} more perturbed; {sum(summary.rejects.values())} answers rejected"
    )
    for model, bill in summary.bill.items():
        said = f"{bill.calls} calls, {bill.prompt_tokens} + {bill.completion_tokens} tokens"
        click.echo(f"  {model}: {said}" + (f", {bill.cost:.4f}" if bill.cost else ""))
    if summary.stopped:
        click.echo(f"stopped: {summary.stopped}; what is there is kept, the same command goes on", err=True)
        sys.exit(1)


def _topics(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise click.UsageError(f"{file} is not UTF-8 text") from None
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise click.UsageError(f"{file} names no topic; write one a line")
    return found


async def _synth(
    loaded: config.Config,
    name: str,
    topics: Sequence[str],
    plan: Plan,
    out: Path,
    prices: dict[str, Price],
    limits: Limits,
) -> Summary:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from pointsman.synth.pipeline import output  # noqa: PLC0415
    from pointsman.synth.pipeline.endpoint import Asker  # noqa: PLC0415
    from pointsman.synth.pipeline.journal import Journal  # noqa: PLC0415
    from pointsman.synth.pipeline.run import run  # noqa: PLC0415

    columns = (
        BarColumn(), MofNCompleteColumn(), TextColumn("ok,"), TimeElapsedColumn(), TextColumn("{task.fields[spent]}"),
    )  # fmt: skip
    sets = {name: loaded.policies} if loaded.policies else {}
    with (
        Journal(out / "journal.sqlite") as journal,
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task("checked", total=plan.examples, spent="")

        async with Asker(
            loaded.providers,
            journal,
            prices=prices,
            limits=limits,
            told=lambda _answer: progress.update(task, spent=f"{asker.spent:.4f} so far" if prices else ""),
        ) as asker:
            outcome = await run(
                sets, topics, plan, asker, journal,
                advance=lambda done, _wanted: progress.update(task, completed=min(done, plan.examples)),
            )  # fmt: skip
        return output.write(outcome, journal, out, seed=plan.seed)


@click.group()
def corpus() -> None:
    """Build, check and describe a written corpus (see corpus/STYLE.md)."""


_folder = click.argument("folder", metavar="FOLDER", type=_path)


@corpus.command("build")
@_folder
@click.option("--out", type=_path, required=True, help="The folder to write: train/, heldout/, policies/.")
@click.option("--written-only", is_flag=True, help="Only what is written, nothing perturbed: what the corpus ships.")
@click.option("--seed", type=int, default=1, show_default=True)
def build_corpus(folder: Path, out: Path, *, written_only: bool, seed: int) -> None:
    """Make the data folder that training and `pointsman eval` read. The same corpus gives the same bytes."""
    from pointsman.synth import build, corpus  # noqa: PLC0415

    read = corpus.load(folder)
    parts = build.packed(read) if written_only else build.built(read, build.Plan(seed=seed))
    build.write(parts, out)
    for split, made in parts.items():
        for part in made:
            where = out / split / f"{part.name}.jsonl.gz"
            click.echo(
                f"{where}: {len(part.examples)} examples, {part.turns} labelled turns, {len(part.sets)} policy sets"
            )
    click.echo(f"corpus {read.digest}")


@corpus.command("report")
@_folder
@click.option("--no-vectors", is_flag=True, help="Leave the figures that need the encoder as they are.")
def report_corpus(folder: Path, *, no_vectors: bool) -> None:
    """Write the tables and plots of the data card: the marked parts of FOLDER/README.md, and FOLDER/plots."""
    from pointsman.synth import card, corpus  # noqa: PLC0415

    for written in card.update(folder, corpus.load(folder), vectors=not no_vectors):
        click.echo(str(written))


@corpus.command("sample")
@_folder
@click.option("--count", type=click.IntRange(1), default=40, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def sample_corpus(folder: Path, *, count: int, seed: int) -> None:
    """Print items drawn at random, to be read: the place, then every turn with its label."""
    import random  # noqa: PLC0415

    from pointsman.synth import corpus  # noqa: PLC0415

    items = corpus.load(folder).items
    for item in random.Random(seed).sample(items, min(count, len(items))):  # noqa: S311 - reproducible is the point
        click.secho(
            f"\n{folder}/written/{item.domain}.txt:{item.line} ({item.language}, {item.form or 'talk'})", bold=True
        )
        labels = {turn.index: turn for turn in item.turns}
        for at, message in enumerate(item.messages):
            turn = labels.get(at)
            said = " ".join([turn.work or "-", *sorted(turn.flags)]) if turn else ""
            click.secho(f"{message['role']} {said}".rstrip(), dim=True)
            click.echo(message.get("content") or message.get("tool_calls"))


@corpus.command("blind")
@_folder
@click.option("--count", type=click.IntRange(1), default=300, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--labels", type=_path, help="A reader's labels: JSON lines of item, index, label (a name or null).")
def blind_corpus(folder: Path, count: int, seed: int, labels: Path | None) -> None:
    """Print sheets to be labelled blind, JSON lines; or, with --labels, write FOLDER/review/blind.jsonl."""
    import msgspec  # noqa: PLC0415

    from pointsman.synth import blind, corpus  # noqa: PLC0415

    read = corpus.load(folder)
    if labels is None:
        for sheet in blind.sheets(read, count=count, seed=seed):
            click.echo(msgspec.json.encode(sheet))
        return
    try:
        said = [
            msgspec.json.decode(line, type=blind.Label) for line in labels.read_bytes().splitlines() if line.strip()
        ]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{labels} holds no labels: {error}") from None
    made = blind.compared(read, said)
    (folder / "review").mkdir(exist_ok=True)
    (folder / "review" / "blind.jsonl").write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in made))
    alike = sum(each.label == each.again for each in made)
    click.echo(f"{alike} of {len(made)} alike; {len(said) - len(made)} labels are of turns that are gone")


@corpus.command("check")
@_folder
@click.option("--against", type=_path, multiple=True, help="Data folders or files that must not be in the corpus.")
@click.option("--no-vectors", is_flag=True, help="Leave out what needs the encoder: two minutes for 15,000 turns.")
@click.option("--notes", is_flag=True, help="Print notes too, not only errors.")
def check_corpus(folder: Path, against: tuple[Path, ...], *, no_vectors: bool, notes: bool) -> None:
    """Look for duplicates, contamination, wrong languages, names in texts, personal data, keys. Exit code 1: found."""
    from collections import Counter  # noqa: PLC0415

    from pointsman.synth import checks, corpus  # noqa: PLC0415

    found = list(checks.all_findings(corpus.load(folder), folder, against=against, vectors=not no_vectors))
    shown = [each for each in found if notes or each.severity == "error"]
    for each in shown[:SHOWN]:
        click.echo(f"{folder}/{each}", err=True)
    if len(shown) > SHOWN:
        click.echo(f"and {len(shown) - SHOWN} more", err=True)
    for (severity, check), count in sorted(Counter((each.severity, each.check) for each in found).items()):
        click.echo(f"{severity}: {check}: {count}")
    if any(each.severity == "error" for each in found):
        sys.exit(1)
    click.echo(f"{folder}: fine")
