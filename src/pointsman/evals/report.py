"""A run's figures with everything needed to believe them, as one JSON document. docs/reference/eval-report.md is made
from these structs.

Nothing in it but `times` depends on anything but the plan, the data, the routers and this package's version: the same
run gives the same bytes there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pointsman.dataset import Dataset
from pointsman.evals import paper
from pointsman.evals.cost import Cost
from pointsman.evals.metrics import Measure, Metrics, Outcome, measure, proportion, share
from pointsman.evals.robustness import PERTURBATIONS
from pointsman.evals.run import Entry, Plan, Setting, examples
from pointsman.evals.scenarios import Scenario

FORMAT = 1
"""Rises when a reader of the last one would go wrong."""


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A source as it was measured. `examples` and `turns` are those run, `unfitting` the turns that no policy fits."""

    name: str
    split: str
    sha256: str
    policy_sets: dict[str, str]
    """The digest of each policy set that its examples name."""
    policies: int
    examples: int
    turns: int
    unfitting: int


class RouterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A router: the name it was asked for by, and its id, which holds the digest of its weights and its threshold."""

    name: str
    id: str | None


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One router on one source in one setting. `size` is the number of policies on offer, 0 the whole set."""

    router: str
    source: str
    scenario: Scenario
    size: int
    metrics: Metrics


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """One router in one setting, over sources: each that has a value counts once, however large (macro average)."""

    router: str
    scenario: Scenario
    size: int
    sources: tuple[str, ...]
    turn: float | None
    macro: float | None
    best_policy: float | None
    ece: float | None
    false_other: float | None


class Robustness(msgspec.Struct, frozen=True, kw_only=True):
    """One router on one source after one perturbation.

    Over every labelled turn. `flipped` is the share of turns whose answer changed by it. `trapped` is the share that
    went where the text tried to be sent, where it tried. For `truth-removed` accuracy is the share told "none of them".
    """

    router: str
    source: str
    perturbation: str
    accuracy: Measure
    before: Measure
    """Accuracy on the same turns without it."""
    flipped: Measure
    trapped: Measure | None


class PaperRow(msgspec.Struct, frozen=True, kw_only=True):
    """Totals by the paper's rule, in percent: all of its benchmarks, and only those that this run has.

    `published` rows are the paper's, on its own samples, which are other ones.
    """

    model: str
    published: bool
    overall_as_printed: float | None
    all: paper.Totals | None
    shared: paper.Totals | None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions of a run, one at a time, as `Router.decide` measures them, in ms."""

    router: str
    decisions: int
    p50: float
    p95: float
    p99: float


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """What depends on the machine and the hour."""

    finished: str
    machine: str
    python: str
    seconds: float
    latency: tuple[Latency, ...]
    cost: tuple[Cost, ...] = ()


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Turn accuracy in one cell against the baseline's, on the turns that both measured.

    `difference` has the interval of paired conversations. `mended` turns were wrong before, `broken` ones right. `p` is
    the exact sign test's over conversations: how likely so uneven a change is if neither is better.
    """

    router: str
    source: str
    scenario: Scenario
    size: int
    before: float
    after: float
    difference: Measure
    mended: int
    broken: int
    p: float


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """One turn that is answered otherwise than in the baseline."""

    router: str
    source: str
    scenario: Scenario
    size: int
    example: str
    turn: int
    gold: str | None
    before: str | None
    after: str | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """This report against an earlier one. `unmatched` cells are in one of them only.

    Only turns that had the same policies on offer are compared, by name; `otherwise` is how many had others: another
    seed, another way to draw, or policies that came or went.
    """

    baseline: str
    same_conversations: bool
    same_policies: bool
    otherwise: int
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]
    unmatched: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    format: int
    pointsman: str
    fingerprint: str
    """Of plan, data and version; the journal beside the report bears the same."""
    conversations: str
    """Every source's text."""
    policies: str
    """Every policy set that was on offer."""
    skipped: tuple[str, ...]
    """Lines that could not be used and were left out: file, line and why."""
    plan: Plan
    sources: tuple[SourceInfo, ...]
    routers: tuple[RouterInfo, ...]
    cells: tuple[Cell, ...]
    means: tuple[Means, ...]
    robustness: tuple[Robustness, ...]
    paper: tuple[PaperRow, ...]
    comparison: Comparison | None = None
    times: Times | None = None


def sources(data: Dataset, plan: Plan) -> tuple[SourceInfo, ...]:
    """What the plan runs of each source."""
    found: list[SourceInfo] = []
    for source in data.sources:
        drawn = examples(source, plan)
        named = sorted({each.policies for each in drawn})
        labels = [label for each in drawn for label in each.turns]
        found.append(
            SourceInfo(
                name=source.name,
                split=source.split,
                sha256=source.sha256,
                policy_sets={name: data.taxonomies[name].digest for name in named},
                policies=max((len(data.taxonomies[name].policies) for name in named), default=0),
                examples=len(drawn),
                turns=len(labels),
                unfitting=sum(label.policy is None for label in labels),
            )
        )
    return tuple(found)


def cells(entries: Sequence[Entry], models: Mapping[str | None, str] | None = None) -> list[Cell]:
    """One router's figures on one source, setting by setting, perturbations left out."""
    return [
        Cell(
            router=entries[0].router,
            source=entries[0].source,
            scenario=setting.scenario,
            size=setting.size,
            metrics=measure(outcomes, setting.scenario, models=models, whole=not setting.size),
        )
        for setting, outcomes in _by_setting(entries).items()
        if not setting.perturbation
    ]


def _by_setting(entries: Sequence[Entry]) -> dict[Setting, list[Outcome]]:
    """Outcomes in the order of examples; settings in that of scenarios, sizes and perturbations."""
    keys = dict.fromkeys(key for entry in entries for key in entry.answers)
    order = {scenario: at for at, scenario in enumerate(Scenario)}
    settings = sorted(map(Setting.of, keys), key=lambda each: (order[each.scenario], each.size))
    return {
        setting: [
            outcome for entry in entries if setting.key in entry.answers for outcome in entry.outcomes(setting.key)
        ]
        for setting in settings
    }


def robustness(entries: Sequence[Entry]) -> list[Robustness]:
    """What each perturbation did to one router's answers on one source."""
    runs = {setting.perturbation: outcomes for setting, outcomes in _by_setting(entries).items()}
    before = {(each.id, each.turn): each for each in runs.get("none", [])}
    rows: list[Robustness] = []
    for perturbation in PERTURBATIONS:
        outcomes = runs.get(perturbation, [])
        if not outcomes:
            continue
        paired = [before[each.id, each.turn] for each in outcomes]
        flips = [now.chosen != then.chosen for now, then in zip(outcomes, paired, strict=True)]
        rows.append(
            Robustness(
                router=entries[0].router,
                source=entries[0].source,
                perturbation=perturbation,
                accuracy=share(outcomes, lambda each: each.right),
                before=share(paired, lambda each: each.right),
                flipped=proportion(flips, [each.id for each in outcomes]),
                trapped=share(outcomes, lambda each: bool(each.trapped)) if _has_trap(outcomes) else None,
            )
        )
    return rows


def _has_trap(outcomes: Sequence[Outcome]) -> bool:
    return any(each.trapped is not None for each in outcomes)


def means(found: Sequence[Cell]) -> tuple[Means, ...]:
    """Macro averages over the sources that have the setting."""
    groups: dict[tuple[str, Scenario, int], list[Cell]] = {}
    for cell in found:
        groups.setdefault((cell.router, cell.scenario, cell.size), []).append(cell)
    return tuple(
        Means(
            router=router,
            scenario=scenario,
            size=size,
            sources=tuple(cell.source for cell in group if cell.metrics.turn.value is not None),
            turn=_mean([cell.metrics.turn for cell in group]),
            macro=_mean([cell.metrics.macro for cell in group]),
            best_policy=_mean([cell.metrics.best_policy for cell in group]),
            ece=_mean([cell.metrics.ece for cell in group]),
            false_other=_mean([cell.metrics.false_other for cell in group]),
        )
        for (router, scenario, size), group in groups.items()
    )


def _mean(measures: Sequence[Measure]) -> float | None:
    values = [each.value for each in measures if each.value is not None]
    return round(sum(values) / len(values), 6) if values else None


# The paper ------------------------------------------------------------------------------------------------------------

_PAPER_SOURCES = {"clinc150": "clinc150", "sgd": "sgd", "mantis": "mantis14"}
"""Our source for each of its benchmarks. LMSYS-1M's labels are not published, and nothing stands in for it."""


def paper_rows(found: Sequence[Cell], routers: Sequence[str]) -> tuple[PaperRow, ...]:
    """The paper's totals, and ours by its rule from the cells with the whole set on offer."""
    ours = {router: _paper_cells([cell for cell in found if cell.router == router]) for router in routers}
    shared = {key.partition("/")[0] for cells in ours.values() for key in cells}
    rows = [
        PaperRow(
            model=router,
            published=False,
            overall_as_printed=None,
            all=paper.totals(cells),
            shared=paper.totals(cells, shared),
        )
        for router, cells in ours.items()
    ]
    if not any(row.shared for row in rows):
        return ()
    return (
        *rows,
        *(
            PaperRow(
                model=each.model,
                published=True,
                overall_as_printed=each.overall,
                all=paper.totals(each.cells),
                shared=paper.totals(each.cells, shared),
            )
            for each in paper.PUBLISHED
        ),
    )


def _paper_cells(found: Sequence[Cell]) -> dict[str, float]:
    """Percentages under the paper's keys."""
    made: dict[str, float] = {}
    for cell in found:
        if cell.size:
            continue
        for benchmark, source in _PAPER_SOURCES.items():
            if cell.source != source:
                continue
            # MANtIS has no finer label than its site, which the paper counts as a domain.
            scenario = "fqca" if benchmark == "mantis" else cell.scenario.value
            if benchmark == "mantis" and cell.scenario is not Scenario.FQFA:
                continue
            for metric in ("turn", "span", "conversation"):
                value = getattr(cell.metrics, metric).value
                if value is not None:
                    made[f"{benchmark}/{scenario}/{metric}"] = 100 * value
    return made
