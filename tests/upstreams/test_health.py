from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman.upstreams.health import LONGEST, Health, retry_after

# A busy machine is no finding.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOON = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def after(**headers: str) -> float:
    return retry_after({name.replace("_", "-"): value for name, value in headers.items()}, wall=lambda: NOON)


NUMBERS = st.floats().map(str) | st.integers().map(str)
DATES = st.datetimes().map(lambda day: day.strftime("%a, %d %b %Y %H:%M:%S GMT"))
ODD = st.sampled_from(["1e400", "-1e400", "inf", "-nan", "1_0", "٣", "0x10", " 5 ", "5,6", "31 Feb 2026 99:99:99 GMT"])


@calm
@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text() | NUMBERS | DATES | ODD))
def test_whatever_a_provider_says_is_some_seconds(headers: dict[str, str]) -> None:
    seconds = retry_after(headers, wall=lambda: NOON)
    assert math.isfinite(seconds)
    assert seconds >= 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "30"}, 30),
        ({"retry_after": " 1.5 "}, 1.5),
        ({"retry_after_ms": "1500", "retry_after": "30"}, 1.5),
        ({"retry_after_ms": "soon", "retry_after": "30"}, 30),
        ({"retry_after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30),
        ({"retry_after": "Friday, 15-Jan-27 08:00:30 GMT"}, 30),
        ({"retry_after": "Fri, 15 Jan 2027 09:00:30 +0100"}, 30),
        ({"retry_after": "Fri, 15 Jan 2027 07:59:00 GMT"}, 0),
        ({"retry_after": "-5"}, 0),
        ({"retry_after_ms": "-5"}, 0),
        ({"retry_after": ""}, 0),
        ({}, 0),
    ],
)
def test_seconds_milliseconds_and_dates_are_read(headers: dict[str, str], seconds: float) -> None:
    assert after(**headers) == pytest.approx(seconds)


def test_a_model_rests_and_comes_back() -> None:
    clock = Clock()
    health = Health(clock)
    health.rest("a", 10)
    assert health.resting("a")
    clock.now += 9.9
    assert health.ordered(["a", "b"]) == ("b", "a")
    clock.now += 0.1
    assert not health.resting("a")
    assert health.ordered(["a", "b"]) == ("a", "b")


def test_no_rest_is_longer_than_the_longest() -> None:
    clock = Clock()
    health = Health(clock)
    health.rest("a", 1e9)
    clock.now += LONGEST
    assert not health.resting("a")


@calm
@given(st.lists(st.sampled_from("abcdef"), unique=True), st.sets(st.sampled_from("abcdef")))
def test_the_resting_come_last_in_their_order_and_none_is_lost(models: list[str], tired: set[str]) -> None:
    health = Health(Clock())
    for model in tired:
        health.rest(model, 5)
    fresh = [model for model in models if model not in tired]
    assert health.ordered(models) == (*fresh, *(model for model in models if model in tired))


def test_a_rest_of_no_time_does_not_end_one() -> None:
    health = Health(Clock())
    health.rest("a", 5)
    health.rest("a", 0)
    assert health.resting("a")


def test_what_has_rested_is_forgotten() -> None:
    clock = Clock()
    health = Health(clock)
    for i in range(1000):
        health.rest(f"pinned/{i}", 1)
        clock.now += 0.5
    assert len(health._until) <= 3
