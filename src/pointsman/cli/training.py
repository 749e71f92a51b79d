"""`pointsman train` and `pointsman calibrate`: other weights for the embedded router, and other probabilities."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pointsman import config
from pointsman.errors import PointsmanError

if TYPE_CHECKING:
    from pointsman.calibration import Quality

_path = click.Path(path_type=Path)


@click.group()
def train() -> None:
    """Train a router of your own; needs `pip install 'pointsman[train]'`."""


@train.command()
@click.argument("settings", type=_path)
@click.option("--out", type=_path, required=True, help="The folder of weights to write.")
@click.option("--work", type=_path, help="Where the run stands; run again, it goes on.  [default: OUT.work]")
@click.option("--data", "folders", type=_path, multiple=True, help="Instead of data.folders; may be given again.")
@click.option("--apart", type=_path, multiple=True, help="Instead of data.apart; may be given again.")
@click.option("--evaluate", type=_path, multiple=True, help="Besides evaluation.data; may be given again.")
@click.option("--steps", type=click.IntRange(1), help="Instead of plan.steps.")
@click.option("--seed", type=int, help="Instead of plan.seed.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to compute.")
@click.option("--threads", type=click.IntRange(1), help="Cores to use.  [default: all]")
def encoder(
    settings: Path,
    out: Path,
    work: Path | None,
    folders: tuple[Path, ...],
    apart: tuple[Path, ...],
    evaluate: tuple[Path, ...],
    steps: int | None,
    seed: int | None,
    device: str,
    threads: int | None,
) -> None:
    """Train the embedded router's encoder as the TOML file SETTINGS says, and export it.

    Ctrl-C keeps what was learned; the same command goes on. The folder OUT then serves with `routing: {weights: OUT}`
    in a policy file, and `pointsman eval --router encoder@OUT` measures it.
    """
    from pointsman.training import settings as read  # noqa: PLC0415

    told = read.load(settings)
    data = msgspec.structs.replace(
        told.data,
        folders=tuple(str(each.resolve()) for each in folders) or told.data.folders,
        apart=tuple(str(each.resolve()) for each in apart) or told.data.apart,
    )
    changes = {name: value for name, value in (("steps", steps), ("seed", seed)) if value is not None}
    measured = (*told.evaluation.data, *(str(each.resolve()) for each in evaluate))
    evaluation = msgspec.structs.replace(told.evaluation, data=measured)
    told = msgspec.structs.replace(
        told, data=data, evaluation=evaluation, plan=msgspec.structs.replace(told.plan, **changes)
    )
    try:
        from pointsman.training.run import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise PointsmanError(f"{error.name} is not installed; pip install 'pointsman[train]'") from error
    result = run(
        told,
        work=work or out.absolute().with_name(f"{out.absolute().name}.work"),
        out=out,
        device=device,
        threads=threads,
        told=lambda line: click.echo(line, err=True),
    )
    click.echo(f"{out}: {result.card.name}, {(out / 'encoder.onnx').stat().st_size / 1e6:.1f} MB")


@click.command()
@click.option("-c", "--config", "path", type=_path, required=True, help="The policy file.")
@click.option("--data", type=_path, required=True, help="Labelled conversations; unlabelled ones with --none-share.")
@click.option("--out", type=_path, required=True, help="The calibration file to write.")
@click.option(
    "--none-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Read no labels; let this share of the turns be none of the policies'.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out lines that cannot be used.")
def calibrate(path: Path, data: Path, out: Path, none_share: float | None, skip_bad: bool) -> None:
    """Fit the embedded router's confidence, and when it says that no policy fits, to conversations of your own.

    Prints how good decisions are before and after, the latter on conversations that the fit did not see. Then write
    `routing: {calibration: OUT}` into the policy file.
    """
    from pointsman import calibration, dataset  # noqa: PLC0415
    from pointsman.routers.encoder import CalibrationFile, Encoder  # noqa: PLC0415

    loaded = config.load(path, env=None)
    if not loaded.policies:
        raise click.UsageError(f"{path} has no policies to decide between")
    router = Encoder.load(loaded.routing.weights, calibration=loaded.routing.calibration)
    own = dataset.taxonomy(path.stem, loaded.policies)
    if none_share is None:
        given = dataset.load(data, own=own, skip_bad=skip_bad)
        read = list(calibration.readings(router, given))
        skipped = len(given.skipped)
        fitted = calibration.fit(read, router.calibration)
        before = calibration.quality(read, router.calibration)
        _show(before, calibration.held_out(read, router.calibration))
    else:
        conversations, problems = dataset.unlabelled(data, skip_bad=skip_bad)
        read, skipped = calibration.unlabelled(router, conversations, loaded.policies), len(problems)
        fitted = calibration.for_share(read, router.calibration, none_share)
        click.echo(f"{len(read)} turns; {none_share:.1%} of them are none of the policies' now")
    content = CalibrationFile(weights=router.card.sha256["encoder.onnx"], calibration=fitted)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    if skipped:
        click.echo(f"{skipped} bad lines were left out", err=True)
    click.echo(f"{out} is written; `routing: {{calibration: {out.name}}}` in {path.name} uses it", err=True)
    sys.exit(0)


def _show(before: Quality, after: Quality) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, header_style="")
    for column in (f"{before.turns} turns", "before", "after"):
        table.add_column(column, justify="left" if column not in ("before", "after") else "right")
    rows = (
        ("decided rightly", before.right, after.right),
        ("error of confidence (ECE)", before.ece, after.ece),
        ("none found where none fits", before.none_found, after.none_found),
        ("none where a policy fits", before.false_none, after.false_none),
    )
    for name, *values in rows:
        table.add_row(name, *("–" if value is None else f"{value:.1%}" for value in values))
    Console().print(table)
