"""A corpus in figures: how much there is, how long, how varied, how near to each other. Knows no page."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.overlap import words
from pointsman.synth.corpus import Corpus
from pointsman.synth.written import Item

Floats: TypeAlias = npt.NDArray[np.float32]

LENGTHS = (1, 6, 16, 31, 61, 121, 251, 601)
"""Lower bounds of the classes of length, in words."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Five quantiles of something."""

    p5: float
    p25: float
    p50: float
    p75: float
    p95: float


def spread(values: Iterable[float]) -> Spread:
    """Quantiles of at least two values."""
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return Spread(p5=cuts[0], p25=cuts[4], p50=cuts[9], p75=cuts[14], p95=cuts[18])


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """User turns by what they are. `shifts_*` ask for something else than the last request did."""

    all: int
    distinct: int
    """Texts, regardless of case and punctuation."""
    follow_ups: int
    """Not the first of their conversation."""
    history: int
    """Cannot be routed without what came before."""
    shifts_sibling: int
    shifts_domain: int
    closing: int
    smalltalk: int
    abandons: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the data card's tables are made of."""

    domains: int
    actions: int
    descriptions: int
    sets: int
    set_sizes: Spread
    requests: int
    conversations: int
    with_tools: int
    requests_per_action: Spread
    least_requests: int
    least_conversations: int
    """Of any action: conversations in which it is asked for."""
    turns: Turns
    languages: Mapping[str, int]
    """Items."""
    forms: Mapping[str, int]
    first_words: Spread
    follow_up_words: Spread
    first_lengths: tuple[int, ...]
    """First requests by class of `LENGTHS`."""
    follow_up_lengths: tuple[int, ...]
    distinct_ngrams: Mapping[int, float]
    """Distinct n-grams of words as a share of all, over user turns, by n."""
    train: tuple[int, int]
    """Items and turns."""
    heldout: tuple[int, int]


def measured(corpus: Corpus) -> Figures:
    """The figures that need no encoder."""
    requests = Counter(item.turns[0].work for item in corpus.items if item.form)
    talks = [item for item in corpus.items if not item.form]
    asked = Counter(work for item in talks for work in item.works)
    first = [len(words(item.text(item.turns[0]))) for item in corpus.items]
    later = [len(words(item.text(turn))) for item in talks for turn in item.turns[1:]]
    sizes = [len(offer.entries) for offer in corpus.sets]
    actions = corpus.catalogue.actions
    return Figures(
        domains=len(corpus.catalogue.domains),
        actions=len(actions),
        descriptions=sum(len(set(work.descriptions.values())) for work in corpus.catalogue),
        sets=len(sizes),
        set_sizes=spread(sizes) if len(sizes) > 1 else spread([0, 0]),
        requests=requests.total(),
        conversations=len(talks),
        with_tools=sum(any("tool_calls" in message for message in item.messages) for item in talks),
        requests_per_action=spread([requests[action] for action in actions]),
        least_requests=min(requests[action] for action in actions),
        least_conversations=min(asked[action] for action in actions),
        turns=_turns(corpus.items),
        languages=dict(Counter(item.language for item in corpus.items).most_common()),
        forms=dict(Counter(item.form for item in corpus.items if item.form).most_common()),
        first_words=spread(first),
        follow_up_words=spread(later) if len(later) > 1 else spread([0, 0]),
        first_lengths=_classes(first),
        follow_up_lengths=_classes(later),
        distinct_ngrams={n: _distinct(corpus.items, n) for n in (1, 2, 3, 4)},
        train=(len(corpus.train), sum(len(item.turns) for item in corpus.train)),
        heldout=(len(corpus.heldout), sum(len(item.turns) for item in corpus.heldout)),
    )


def _turns(items: Sequence[Item]) -> Turns:
    flags = Counter(flag for item in items for turn in item.turns for flag in turn.flags)
    shifts = Counter(shift for item in items for shift in _shifts(item))
    return Turns(
        all=sum(len(item.turns) for item in items),
        distinct=len({tuple(words(item.text(turn))) for item in items for turn in item.turns}),
        follow_ups=sum(len(item.turns) - 1 for item in items),
        history=flags["history"],
        shifts_sibling=shifts["sibling"],
        shifts_domain=shifts["domain"],
        closing=flags["closing"],
        smalltalk=flags["smalltalk"],
        abandons=flags["abandons"],
    )


def _shifts(item: Item) -> Iterator[str]:
    asked = [turn.work for turn in item.turns if turn.work]
    for before, now in itertools.pairwise(asked):
        if before != now:
            yield "sibling" if before.partition(".")[0] == now.partition(".")[0] else "domain"


def _classes(lengths: Sequence[int]) -> tuple[int, ...]:
    bounds = (*LENGTHS, 10**9)
    return tuple(sum(low <= length < high for length in lengths) for low, high in itertools.pairwise(bounds))


def _distinct(items: Sequence[Item], n: int) -> float:
    count = 0
    seen: set[tuple[str, ...]] = set()
    for item in items:
        for turn in item.turns:
            said = words(item.text(turn))
            for at in range(len(said) - n + 1):
                count += 1
                seen.add(tuple(said[at : at + n]))
    return len(seen) / count if count else 0.0


class Nearness(msgspec.Struct, frozen=True, kw_only=True):
    """How near each first request is to the nearest other one, as cosines, by where that one belongs."""

    action: Spread
    sibling: Spread
    elsewhere: Spread
    nearest_is_alike: float
    """Share of requests whose nearest other one is of the same action."""
    nearest_is_related: float
    """The same of the same domain."""
    histograms: Mapping[str, tuple[int, ...]]
    """Requests by cosine, in `BINS` equal classes from 0 to 1, for `action`, `sibling`, `elsewhere`."""


BINS = 40


def nearness(corpus: Corpus, vectors: Floats) -> Nearness:
    """From unit vectors [items, d] of the first requests, in the order of the corpus. English ones alone are compared:
    the encoder knows little of other languages, and would find all of them alike."""
    kept = [at for at, item in enumerate(corpus.items) if item.language == "en" and item.turns[0].work]
    works = np.array([corpus.items[at].turns[0].work for at in kept])
    domains = np.array([work.partition(".")[0] for work in works.tolist()])
    own = vectors[kept]
    best: dict[str, list[Any]] = {"action": [], "sibling": [], "elsewhere": []}
    for start in range(0, len(kept), 512):
        rows = slice(start, start + 512)
        cosines = cast("Floats", own[rows] @ own.T)
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1.0
        same = works[rows, None] == works[None]
        related = domains[rows, None] == domains[None]
        for name, mask in (("action", same), ("sibling", related & ~same), ("elsewhere", ~related)):
            best[name].append(np.where(mask, cosines, -1.0).max(axis=1))
    nearest = {name: np.concatenate(found) for name, found in best.items()}
    related = np.maximum(nearest["action"], nearest["sibling"])
    return Nearness(
        **{name: spread(cosines.tolist()) for name, cosines in nearest.items()},
        nearest_is_alike=float((nearest["action"] > np.maximum(nearest["sibling"], nearest["elsewhere"])).mean()),
        nearest_is_related=float((related > nearest["elsewhere"]).mean()),
        histograms={
            name: tuple(np.histogram(cosines, bins=BINS, range=(0.0, 1.0))[0].tolist())
            for name, cosines in nearest.items()
        },
    )
