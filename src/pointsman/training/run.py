"""A whole training run: Settings in, a folder of weights out, with its model card and learning curve.

WORK/                   where the run stands: state.pt, curve.jsonl, at the end checkpoint/
OUT/                    encoder.onnx, tokenizer.json, card.json, README.md, curve.svg
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from torch import nn

from pointsman import calibration
from pointsman.dataset import Dataset
from pointsman.errors import ConfigError, DataError, Problem
from pointsman.routers.encoder import Calibration, Card, Encoder, Reading
from pointsman.training import checkpoint, export, loop, modelcard
from pointsman.training.loop import Point, Trainer
from pointsman.training.mixture import Mixture, gather
from pointsman.training.settings import Settings
from pointsman.training.validation import Validation

READING = Reading(user=64, before=64, before_user=24, before_assistant=16, policy=128)
TEMPLATES = ("{id}", "{description}", "{name}: {description}")
CALIBRATION = Calibration(temperature=0.06, bias=-1.5, evidence=6.0, height=6.0, doubt=1.0)
"""Where the fit of a calibration starts, for weights that bring none."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave."""

    card: Card
    curve: list[Point]
    mixture: Mixture


def run(
    settings: Settings,
    *,
    work: Path,
    out: Path,
    device: str = "auto",
    threads: int | None = None,
    told: Callable[[str], None] = lambda _line: None,
) -> Result:
    """Train, or go on with, the run in `work`, and export it to `out`.

    Raises ConfigError, DataError, WeightsError, TrainingError, OSError.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(settings.plan.seed % 2**63)
    where = torch.device(_device(device))
    began = checkpoint.begin(settings.start, none=settings.plan.none)
    card = Card(
        name=settings.name,
        base="sentence-transformers/all-MiniLM-L6-v2",
        licence=settings.licence,
        source=began.source,
        training=_described(settings),
        dimension=began.network.bert.config.hidden_size,
        max_tokens=min(256, began.network.bert.config.max_position_embeddings),
        policy_texts=TEMPLATES,
        reading=READING,
        calibration=began.calibration or CALIBRATION,
        sha256={},
    )
    mixture = gather(settings.data)
    told(_counted(mixture))
    card = msgspec.structs.replace(card, data=mixture.digest)
    validation = Validation(settings.evaluation, began.tokenizer, card) if settings.evaluation.data else None
    original = {name: tensor.clone() for name, tensor in began.network.state_dict().items()}
    trainer = Trainer(began.network.to(where), began.tokenizer, card, settings.plan)

    def measure() -> dict[str, float]:
        return validation.measure(trainer.network) if validation else {}

    curve = loop.train(
        trainer,
        mixture,
        work,
        measure=measure if validation else None,
        measure_every=settings.evaluation.every,
        told=lambda point: told(_line(point, settings)),
    )
    network = averaged(trainer.network.cpu(), original, settings.average)
    made = f"{card.name} before export ({card.training}); {card.source}"
    checkpoint.save(network, began.tokenizer, work / "checkpoint", made=made)
    card = export.export(network, began.tokenizer, out, card)
    if validation:
        card = _calibrated(out, card, validation.data, told)
    modelcard.write(out, card, settings, mixture, curve)
    return Result(card=card, curve=curve, mixture=mixture)


def _calibrated(out: Path, card: Card, data: Sequence[Dataset], told: Callable[[str], None]) -> Card:
    """The card with a calibration fitted, on what was evaluated, to the weights as they were exported."""
    encoder = Encoder.load(out)
    read = [reading for each in data for reading in calibration.readings(encoder, each)]
    try:
        fitted = calibration.fit(read, card.calibration)
    except DataError as error:
        told(f"the calibration stays as it was: {error}")
        return card
    card = msgspec.structs.replace(card, calibration=fitted)
    export.write_card(out, card)
    return card


def averaged(network: nn.Module, original: dict[str, torch.Tensor], share: float) -> nn.Module:
    """`network`, its encoder's weights averaged with the original's: `share` of its own. Keeps what tuning would lose.

    Weight averaging between the weights before and after fine-tuning: Wortsman et al. 2022 (arXiv 2109.01903). Heads
    stay as trained.
    """
    state = network.state_dict()
    for name, theirs in original.items():
        if name.startswith("bert.") and theirs.is_floating_point() and "token_type" not in name:
            state[name] = torch.lerp(theirs.cpu(), state[name], share)
    network.load_state_dict(state)
    return network


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError([Problem(path="--device", message="this machine has no CUDA device", mend="leave it out")])
    try:
        return str(torch.device(asked))
    except RuntimeError:
        raise ConfigError([Problem(path="--device", message=f"there is no {asked}", mend="cpu or cuda")]) from None


def _described(settings: Settings) -> str:
    plan = settings.plan
    said = f"{plan.steps} steps of {plan.batch} turns, rate {plan.rate:g}, seed {plan.seed}"
    if settings.average < 1:
        said += f"; averaged {settings.average:.0%} to {1 - settings.average:.0%} with the weights it began with"
    return f"{said}; int8. pointsman {version('pointsman')}{_commit()}, torch {torch.__version__.partition('+')[0]}"


def _commit() -> str:
    """The commit of the checkout that this code is run from, or nothing."""
    git = shutil.which("git")
    if not git:
        return ""
    folder = Path(__file__).parent
    asked = subprocess.run(  # noqa: S603 - no argument is anybody's input
        [git, "describe", "--always", "--dirty", "--exclude=*"], cwd=folder, capture_output=True, text=True, check=False
    )
    return f" at {asked.stdout.strip()}" if asked.returncode == 0 and asked.stdout.strip() else ""


def _counted(mixture: Mixture) -> str:
    turns = sum(each.turns for each in mixture.figures)
    said = f"{turns} labelled turns of {len(mixture.figures)} sources"
    if mixture.overlapping:
        said += f"; {sum(mixture.overlapping.values())} conversations left out that share text with data kept apart"
    if mixture.skipped:
        said += f"; {len(mixture.skipped)} bad lines left out"
    return said


def _line(point: Point, settings: Settings) -> str:
    figures = "".join(f"  {name} {value:.1f}" for name, value in point.figures.items())
    return f"step {point.step}/{settings.plan.steps}  loss {point.loss:.3f}  {point.seconds:.0f} s{figures}"
