"""The data card's plots: figures as SVG. Knows no page."""

# matplotlib publishes types, but none of its keyword arguments.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
from itertools import pairwise

import matplotlib.style
from matplotlib.figure import Figure

from pointsman.synth.figures import BINS, LENGTHS, Figures, Nearness

_WIDTH, _HEIGHT = 7.2, 2.6  # inches
_COLOURS = {"action": "#1f6f8b", "sibling": "#d98324", "elsewhere": "#9a9a9a"}
_WORDS = {"action": "same action", "sibling": "sibling action", "elsewhere": "another domain"}


def lengths(measured: Figures) -> bytes:
    """How long first requests and later turns are: SVG."""
    figure, axes = _axes()
    names = [f"{low}–{high - 1}" for low, high in pairwise(LENGTHS)] + [f"{LENGTHS[-1]}+"]
    places = range(len(names))
    for offset, name, values, colour in (
        (-0.2, "first requests", measured.first_lengths, _COLOURS["action"]),
        (0.2, "later turns", measured.follow_up_lengths, _COLOURS["sibling"]),
    ):
        axes.bar([place + offset for place in places], values, width=0.4, label=name, color=colour)
    axes.set_xticks(list(places), names)
    axes.set_xlabel("words")
    axes.legend(frameon=False)
    return _svg(figure)


def nearest(near: Nearness) -> bytes:
    """How near the nearest first requests are: SVG."""
    figure, axes = _axes()
    edges = [at / BINS for at in range(BINS + 1)]
    for name, values in near.histograms.items():
        axes.stairs(values, edges, label=_WORDS[name], color=_COLOURS[name], linewidth=1.6)
    axes.set_xlabel("cosine to the nearest first request")
    axes.set_ylabel("requests")
    axes.legend(frameon=False)
    return _svg(figure)


def _axes():
    from matplotlib.figure import Figure  # noqa: PLC0415 - the extra `report`

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", linewidth=0.4)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    written = io.BytesIO()
    with matplotlib.style.context({"svg.hashsalt": "pointsman", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return b"\n".join(line.rstrip() for line in written.getvalue().splitlines()) + b"\n"
