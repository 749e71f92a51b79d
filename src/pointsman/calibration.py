"""Fitting the embedded router's probabilities to labelled traffic: readings and right answers to a Calibration.

The numbers of `routers.encoder.Calibration` are five, so a few hundred turns fix them. The temperature is the one of
greatest likelihood over turns whose policy is on offer (Guo et al. 2017); the other four are a logistic regression of
"none of them", drawn towards the numbers it starts from, so that ten turns do not move what thousands have fixed. Knows
no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.conversation import Conversation
from pointsman.dataset import Dataset
from pointsman.errors import DataError, Problem
from pointsman.policy import PolicySet
from pointsman.routers.encoder import Calibration, Encoder, Floats, probabilities

Doubles: TypeAlias = npt.NDArray[np.float64]

ENOUGH = 30
"""Turns of a kind below which its numbers are left as they were."""
STRENGTH = 4.0
"""How strongly the start holds: as much as so many turns would that say the same."""
BINS = 15


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the encoder makes of one turn, and what is right: a policy's place, or None for none of them."""

    conversation: str
    cosines: Floats
    none: float
    gold: int | None


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good decisions and their confidence are. Shares are of turns; None where there is no such turn."""

    turns: int
    right: float
    """Turns decided rightly."""
    ece: float
    """Expected calibration error of the decisions' confidence, in 15 bins."""
    none_found: float | None
    """Turns that no policy fits, told so."""
    false_none: float | None
    """Turns that a policy fits, told that none does."""


def readings(encoder: Encoder, data: Dataset) -> Iterator[Reading]:
    """The readings of every labelled turn, each with its whole policy set on offer. Raises RouterError."""
    for source in data.sources:
        for example in source.examples:
            offered: PolicySet = data.taxonomies[example.policies].policies
            for label in example.turns:
                read = encoder.reading(example.upto(label.index), offered)
                if read:
                    gold = offered.ids.index(label.policy) if label.policy is not None else None
                    yield Reading(conversation=f"{source.name}/{example.id}", cosines=read[0], none=read[1], gold=gold)


def unlabelled(encoder: Encoder, conversations: Sequence[Conversation], policies: PolicySet) -> list[Reading]:
    """The readings of conversations that nobody labelled, each at its newest user turn. Raises RouterError."""
    read = (encoder.reading(each, policies) for each in conversations)
    return [
        Reading(conversation=str(at), cosines=each[0], none=each[1], gold=None) for at, each in enumerate(read) if each
    ]


def fit(read: Sequence[Reading], start: Calibration) -> Calibration:
    """The calibration that these readings speak for. Raises DataError if they are too few to say anything."""
    return _fit(read, start, none=_enough(read))


def _enough(read: Sequence[Reading]) -> bool:
    """Whether turns without a policy are enough to fit "none" to. Raises DataError if those with one are too few."""
    fitting = sum(each.gold is not None for each in read)
    if fitting < ENOUGH:
        said = f"{fitting} turns with a policy are too few; {ENOUGH} are needed"
        raise DataError([Problem(path="", message=said, mend="label more, or keep the calibration that ships")])
    return len(read) - fitting >= ENOUGH


def _fit(read: Sequence[Reading], start: Calibration, *, none: bool) -> Calibration:
    temperature = _temperature([each for each in read if each.gold is not None], start.temperature)
    fitted = msgspec.structs.replace(start, temperature=temperature)
    return _none(read, fitted) if none else fitted


def quality(read: Sequence[Reading], fixed: Calibration) -> Quality:
    """How good the decisions are with this calibration. There is at least one reading."""
    return _quality(read, [fixed] * len(read))


def _quality(read: Sequence[Reading], fixed: Sequence[Calibration]) -> Quality:
    """How good the decisions are, each with its own calibration."""
    right, sure = np.zeros(len(read), bool), np.zeros(len(read))
    none = np.zeros(len(read), bool)
    for at, (each, own) in enumerate(zip(read, fixed, strict=True)):
        shares, other = probabilities(each.cosines, each.none, own)
        none[at] = other > 0.5
        best = int(shares.argmax())
        right[at] = each.gold is None if none[at] else each.gold == best
        sure[at] = other if none[at] else shares[best]
    unfitting = np.array([each.gold is None for each in read])
    return Quality(
        turns=len(read),
        right=float(right.mean()),
        ece=expected_error(sure, right),
        none_found=float(none[unfitting].mean()) if unfitting.any() else None,
        false_none=float(none[~unfitting].mean()) if not unfitting.all() else None,
    )


def held_out(read: Sequence[Reading], start: Calibration, *, folds: int = 5) -> Quality:
    """How good the decisions are if each fifth of the conversations is judged by what the others speak for.

    What is fitted is what `fit` would fit to all of them. Raises DataError if there are too few.
    """
    none = _enough(read)
    names = list(dict.fromkeys(each.conversation for each in read))
    if len(names) < folds:
        said = f"{len(names)} conversations are too few to hold a part out; {folds} are needed"
        raise DataError([Problem(path="", message=said, mend="label more of them")])
    fold = {name: at % folds for at, name in enumerate(names)}
    fitted = [_fit([each for each in read if fold[each.conversation] != at], start, none=none) for at in range(folds)]
    # All turns at once: an error of calibration over few turns is too large, and would not compare with one over many.
    return _quality(read, [fitted[fold[each.conversation]] for each in read])


def for_share(read: Sequence[Reading], start: Calibration, share: float) -> Calibration:
    """The start, its bias moved so that this share of the readings is none of them: for traffic without labels.

    `share` is in (0, 1).
    """
    logits = [_logit(each, start) for each in read]
    return msgspec.structs.replace(start, bias=start.bias - float(np.quantile(logits, 1 - share)))


def expected_error(sure: Doubles, right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error, in 15 bins of equal width (Guo et al. 2017)."""
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(sure[bins == at].sum() - right[bins == at].sum()) for at in range(BINS)]
    return float(sum(gaps) / len(sure))


def _logit(each: Reading, fixed: Calibration) -> float:
    _, other = probabilities(each.cosines, each.none, fixed)
    other = min(max(other, 1e-12), 1 - 1e-12)
    return math.log(other / (1 - other))


def _temperature(fitting: Sequence[Reading], start: float) -> float:
    """By golden sections over its logarithm; the likelihood has one maximum."""

    def loss(log: float) -> float:
        total = STRENGTH * (log - math.log(start)) ** 2
        for each in fitting:
            scaled = each.cosines.astype(np.float64) / math.exp(log)
            scaled -= scaled.max()
            total += math.log(np.exp(scaled).sum()) - scaled[each.gold]
        return total

    low, high = math.log(0.005), math.log(0.5)
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-3:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def _none(read: Sequence[Reading], start: Calibration) -> Calibration:
    """The four numbers of "none", by Newton's method, its steps halved until they lead downwards."""
    features: Doubles = np.empty((len(read), 4))
    for at, each in enumerate(read):
        best = float(each.cosines.max())
        shares = np.exp((each.cosines.astype(np.float64) - best) / start.temperature)
        features[at] = 1.0, -best, each.none, math.log(shares.sum())
    unfitting: Doubles = np.array([each.gold is None for each in read], dtype=np.float64)
    begun: Doubles = np.array([start.bias, start.evidence, start.height, start.doubt])
    # In units in which the features are of like size, so that the start holds them all alike.
    units: Doubles = np.maximum(features.std(axis=0), 1e-6)
    units[0] = 1.0
    scaled: Doubles = features / units
    held: Doubles = begun * units

    def loss(weights: Doubles) -> float:
        logits = scaled @ weights
        drawn = STRENGTH / 2 * float(np.square(weights - held).sum())
        return float(np.logaddexp(0.0, logits).sum() - logits @ unfitting) + drawn

    weights: Doubles = held.copy()
    for _ in range(50):
        chance: Doubles = 0.5 * (1.0 + np.tanh(scaled @ weights / 2))
        slope: Doubles = scaled.T @ (chance - unfitting) + STRENGTH * (weights - held)
        curve = (scaled * (chance * (1 - chance))[:, None]).T @ scaled + STRENGTH * np.eye(4)
        change: Doubles = np.linalg.solve(curve, slope).astype(np.float64)
        if np.abs(change).max() < 1e-6:
            break
        before, falling = loss(weights), float(slope @ change)
        step = 1.0
        while step > 1e-9 and loss(weights - step * change) > before - 0.1 * step * falling:
            step /= 2
        weights -= step * change
    bias, evidence, height, doubt = (float(each) for each in weights / units)
    return msgspec.structs.replace(start, bias=bias, evidence=evidence, height=height, doubt=doubt)
