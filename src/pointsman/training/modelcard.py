"""The model card and the learning curve beside exported weights. Knows no network.

The card's sections are those of Mitchell et al. 2019 (arXiv 1810.03993) that a router's user needs. Figures of the
benchmark are not in it: they are measured by `pointsman eval` on the finished folder, and go into the card's `note`.
"""

# matplotlib publishes types, but none of its keyword arguments.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from pointsman.routers.encoder import Card
from pointsman.training.loop import Point
from pointsman.training.mixture import Mixture
from pointsman.training.settings import Settings


def write(folder: Path, card: Card, settings: Settings, mixture: Mixture, curve: Sequence[Point]) -> None:
    """Write README.md and curve.svg."""
    (folder / "README.md").write_text("\n".join(_page(card, settings, mixture, curve)) + "\n", encoding="utf-8")
    (folder / "curve.svg").write_bytes(plot(curve))


def _page(card: Card, settings: Settings, mixture: Mixture, curve: Sequence[Point]) -> Iterator[str]:
    size = card.sha256["encoder.onnx"][:16]
    yield f"# {card.name}"
    yield ""
    yield "A policy router's encoder: it scores a conversation against policies in plain words."
    yield f"Licence: {card.licence}. Began with: {card.source}."
    if settings.note:
        yield ""
        yield settings.note.strip()
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| training | {card.training} |"
    yield f"| data | `{card.data}`, below |"
    yield f"| reads | {card.reading.user} tokens of the newest turn, {card.reading.before} of what was said before |"
    yield f"| encoder.onnx | sha256 {size}… |"
    yield ""
    yield "## Data"
    yield ""
    yield "| source | weight | conversations | turns | of them none | policy sets | sha256 |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for each in mixture.figures:
        yield (
            f"| {each.name} | {each.weight:g} | {each.conversations:,} | {each.turns:,} | {each.none:,} "
            f"| {each.sets} | {each.sha256[:12]} |"
        )
    yield ""
    for source, count in mixture.overlapping.items():
        yield f"* Conversations left out, since they share text with {source}: {count}."
    if mixture.skipped:
        yield f"* Lines left out, since they cannot be used: {len(mixture.skipped)}."
    if not settings.data.apart:
        yield "* No data were named to be kept apart, so nothing was looked for."
    yield ""
    yield "## While it was trained"
    yield ""
    yield "![learning curve](curve.svg)"
    yield ""
    yield from _figures(curve)
    yield "## Limits"
    yield ""
    yield "* It reads meaning, not truth: a policy is chosen for what its text says, and a poor text gets poor routing."
    yield "* Languages other than English are a small part of what it has seen, if any."
    yield "* int8 was measured with AVX-512 VNNI; other processors round a little differently."
    yield "* The calibration holds for data like those it was fitted on; `pointsman calibrate` fits it to yours."


def _figures(curve: Sequence[Point]) -> Iterator[str]:
    measured = [point for point in curve if point.figures]
    if not measured:
        return
    names = list(measured[-1].figures)
    yield "In percent, before export and calibration, the whole set on offer: `turn`, the best policy is the right one;"
    yield "`none`, the area under the ROC curve that tells apart the turns for which no policy fits."
    yield ""
    yield "| step | loss | " + " | ".join(names) + " |"
    yield "|--:|--:" + "|--:" * len(names) + "|"
    for point in measured:
        values = " | ".join(f"{point.figures[name]:.1f}" if name in point.figures else "" for name in names)
        yield f"| {point.step} | {point.loss:.3f} | {values} |"
    yield ""


def plot(curve: Sequence[Point]) -> bytes:
    """The learning curve: SVG."""
    with matplotlib.style.context({"svg.fonttype": "none", "svg.hashsalt": "pointsman", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        above.plot([point.step for point in curve], [point.loss for point in curve], color="#1f6f8b")
        above.set_ylabel("loss")
        measured = [point for point in curve if point.figures]
        for name in dict.fromkeys(name for point in measured for name in point.figures):
            points = [(point.step, point.figures[name]) for point in measured if name in point.figures]
            style = "-" if name.endswith(" turn") else ":"
            below.plot(*zip(*points, strict=True), style, marker=".", label=name)
        below.set_ylabel("percent")
        below.set_xlabel("step")
        if measured:
            below.legend(frameon=False, fontsize=7, ncols=3)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
