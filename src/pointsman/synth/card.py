"""The data card: tables and plots out of the figures, put into the marked parts of `README.md`. Knows no corpus file
but that page, the plots, and the verdicts of the reviews.

    <!-- counts -->  ...  <!-- /counts -->       what needs no encoder; a test holds it to the corpus
    <!-- nearness --> ... <!-- /nearness -->     what does
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from pointsman.errors import DataError, Problem
from pointsman.synth import build, figures
from pointsman.synth.blind import Verdict
from pointsman.synth.build import Parts
from pointsman.synth.checks import embedded
from pointsman.synth.corpus import Corpus
from pointsman.synth.figures import LENGTHS, Figures, Nearness, Spread


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """`review/second-look.json`: what the second look at every item did to one domain."""

    domain: str
    looked_at: int
    rewritten: int
    relabelled: int
    dropped: int
    reasons: Mapping[str, int]


def update(folder: Path, corpus: Corpus, *, vectors: bool) -> list[Path]:
    """Write the card's tables and plots; the paths written. Raises DataError if the card has no places for them."""
    from pointsman.synth import plots  # noqa: PLC0415 - the extra `report`

    measured = figures.measured(corpus)
    page = folder / "README.md"
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError([Problem(path="", message=f"cannot be read: {error.strerror}", file=str(page))]) from None
    text = _filled(text, "counts", counts(measured, build.built(corpus, build.Plan()), folder), page)
    drawn = {"lengths": plots.lengths(measured)}
    if vectors:
        near = figures.nearness(corpus, embedded([item.text(item.turns[0]) for item in corpus.items]))
        text = _filled(text, "nearness", nearness(near), page)
        drawn["nearness"] = plots.nearest(near)
    page.write_text(text, encoding="utf-8")
    (folder / "plots").mkdir(exist_ok=True)
    for name, svg in drawn.items():
        (folder / "plots" / f"{name}.svg").write_bytes(svg)
    return [page, *(folder / "plots" / f"{name}.svg" for name in drawn)]


def _filled(text: str, name: str, inside: str, page: Path) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise DataError([Problem(path="", message=f"has no <!-- {name} --> ... <!-- /{name} -->", file=str(page))])
    return pattern.sub(lambda found: f"{found[1]}{inside}{found[2]}", text)


# Tables ---------------------------------------------------------------------------------------------------------------


def counts(measured: Figures, parts: Parts, folder: Path) -> str:
    """The tables that need no encoder, as Markdown."""
    return "\n".join(
        [
            _table(("what there is", ""), _amounts(measured)),
            _table(("user turns", ""), _turn_kinds(measured)),
            _table(
                ("words of", "5 %", "25 %", "half", "75 %", "95 %"),
                [
                    ("a first request", *_quantiles(measured.first_words, 0)),
                    ("a later turn", *_quantiles(measured.follow_up_words, 0)),
                ],
            ),
            _table(
                ("first requests, words", *(f"{low}+" for low in LENGTHS)),
                [("share", *(_share(count, sum(measured.first_lengths)) for count in measured.first_lengths))],
            ),
            _table(("form", "requests"), [(form, f"{count:,}") for form, count in measured.forms.items()]),
            _table(("language", "items"), [(language, f"{count:,}") for language, count in measured.languages.items()]),
            _table(
                ("distinct n-grams of words, share of all", *map(str, measured.distinct_ngrams)),
                [("user turns", *(f"{share:.1%}" for share in measured.distinct_ngrams.values()))],
            ),
            _table(
                ("built", "examples", "labelled turns", "none of them", "policy sets"),
                [
                    (
                        f"`{split}/{part.name}`",
                        f"{len(part.examples):,}",
                        f"{part.turns:,}",
                        _share(sum(label.policy is None for each in part.examples for label in each.turns), part.turns),
                        f"{len(part.sets):,}",
                    )
                    for split, made in parts.items()
                    for part in made
                ],
            ),
            *_reviews(folder / "review"),
        ]
    )


def _amounts(measured: Figures) -> list[tuple[str, str]]:
    per_action = measured.requests_per_action
    return [
        ("domains", f"{measured.domains}"),
        ("actions", f"{measured.actions}"),
        ("descriptions, five hands each", f"{measured.descriptions:,}"),
        (
            "policy sets",
            f"{measured.sets}, nine in ten of {measured.set_sizes.p5:.0f} to {measured.set_sizes.p95:.0f} policies",
        ),
        ("first requests", f"{measured.requests:,}"),
        ("for an action", f"{measured.least_requests} at least, {per_action.p50:.0f} in the middle"),
        ("conversations", f"{measured.conversations:,}, {measured.with_tools} of them with tool calls"),
        ("that ask for an action", f"{measured.least_conversations} at least"),
        ("**user turns**", f"**{measured.turns.all:,}**, {measured.turns.distinct:,} of them distinct"),
        ("for training", f"{measured.train[0]:,} items, {measured.train[1]:,} turns"),
        ("held out", f"{measured.heldout[0]:,} items, {measured.heldout[1]:,} turns"),
    ]


def _turn_kinds(measured: Figures) -> list[tuple[str, str]]:
    turns = measured.turns
    rows = {
        "later turns of a conversation": turns.follow_ups,
        "cannot be routed without what came before": turns.history,
        "shift to a sibling action": turns.shifts_sibling,
        "shift to another domain": turns.shifts_domain,
        "only close": turns.closing,
        "small talk": turns.smalltalk,
        "drop the request before them": turns.abandons,
    }
    return [(name, f"{count:,} ({_share(count, turns.all)})") for name, count in rows.items()]


def _reviews(folder: Path) -> list[str]:
    """What the second look and the blind one found, if there are records of them."""
    said: list[str] = []
    looks = folder / "second-look.json"
    if looks.exists():
        made = msgspec.json.decode(looks.read_bytes(), type=list[Review])
        total = sum(each.looked_at for each in made)
        reasons: Counter[str] = Counter()
        for each in made:
            reasons.update(each.reasons)
        rows = [
            ("items looked at", f"{total:,}"),
            ("rewritten", _of(sum(each.rewritten for each in made), total)),
            ("label or flags changed", _of(sum(each.relabelled for each in made), total)),
            ("dropped", _of(sum(each.dropped for each in made), total)),
            *((f"for: {reason}", f"{count:,}") for reason, count in reasons.most_common()),
        ]
        said.append(_table(("second look", ""), rows))
    blind = folder / "blind.jsonl"
    if blind.exists():
        lines = [msgspec.json.decode(line, type=Verdict) for line in blind.read_bytes().splitlines()]
        alike = sum(line.label == line.again for line in lines)
        near = sum(line.label != line.again and line.near for line in lines)
        rows = [
            ("turns", f"{len(lines):,}"),
            ("the same label", _of(alike, len(lines))),
            ("another, which the taxonomy calls near", _of(near, len(lines))),
        ]
        said.append(_table(("blind labels", ""), rows))
    return said


def nearness(near: Nearness) -> str:
    """The table that needs the encoder, as Markdown."""
    rows = [
        ("of the same action", *_quantiles(near.action, 2)),
        ("of a sibling action", *_quantiles(near.sibling, 2)),
        ("of another domain", *_quantiles(near.elsewhere, 2)),
    ]
    table = _table(("cosine to the nearest first request", "5 %", "25 %", "half", "75 %", "95 %"), rows)
    return (
        f"{table}\nThe nearest of all is of the same action for {near.nearest_is_alike:.1%} of the requests, "
        f"and of the same domain for {near.nearest_is_related:.1%}.\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *rows))


def _quantiles(of: Spread, digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in msgspec.structs.astuple(of)]


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "–"


def _of(count: int, total: int) -> str:
    return f"{count:,} ({_share(count, total)})"
