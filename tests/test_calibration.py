"""Fitting probabilities: what is fitted is what the readings were drawn by, and few readings move little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman import calibration
from pointsman.calibration import ENOUGH, Reading, expected_error, fit, for_share, held_out, quality
from pointsman.conversation import Conversation, read
from pointsman.dataset import Dataset, Example, Label, Source, Taxonomy
from pointsman.errors import DataError
from pointsman.policy import Policy, PolicySet
from pointsman.routers.encoder import Calibration, Floats, probabilities

pytestmark = pytest.mark.filterwarnings("error")

TRUE = Calibration(temperature=0.06, bias=-1.5, evidence=6.0, height=6.0, doubt=1.0)
WRONG = Calibration(temperature=0.2, bias=1.0, evidence=2.0, height=1.0, doubt=0.0)
STARTS = [
    WRONG,
    *(msgspec.structs.replace(TRUE, bias=TRUE.bias + by) for by in (-5, -3, 3, 5)),
    Calibration(temperature=0.02, bias=5.0, evidence=20.0, height=0.0, doubt=0.0),
]
ABSURD = [
    *(msgspec.structs.replace(TRUE, bias=TRUE.bias + by) for by in (-20, 20)),
    Calibration(temperature=0.5, bias=0.0, evidence=0.0, height=30.0, doubt=5.0),
    Calibration(temperature=3.0, bias=0.0, evidence=-40.0, height=-40.0, doubt=-9.0),
]


def drawn(count: int, by: Calibration = TRUE, *, seed: int, policies: int = 8, turns: int = 1) -> list[Reading]:
    """Readings whose right answers are drawn by a calibration; so many turns a conversation."""
    rng = np.random.default_rng(seed)
    found: list[Reading] = []
    for at in range(count):
        cosines = rng.normal(0.25, 0.12, policies)
        cosines[rng.integers(policies)] += rng.uniform(0, 0.35)
        cosines, none = cosines.astype(np.float32), float(rng.normal(0.35, 0.2))
        shares, other = probabilities(cosines, none, by)
        gold = int(rng.choice(policies + 1, p=[*shares, other]))
        found.append(
            Reading(
                conversation=str(at // turns),
                cosines=cosines,
                none=none,
                gold=gold if gold < policies else None,
            )
        )
    return found


def split(read: Sequence[Reading]) -> tuple[list[Reading], list[Reading]]:
    """Those with a policy, and those without."""
    return [each for each in read if each.gold is not None], [each for each in read if each.gold is None]


def loss(read: Sequence[Reading], fixed: Calibration) -> float:
    """Mean negative log likelihood of what is right."""
    total = 0.0
    for each in read:
        shares, other = probabilities(each.cosines, each.none, fixed)
        total -= math.log(max(other if each.gold is None else shares[each.gold], 1e-100))
    return total / len(read)


def others(read: Sequence[Reading], fixed: Calibration) -> list[float]:
    return [probabilities(each.cosines, each.none, fixed)[1] for each in read]


# --- fit


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_that_readings_were_drawn_by_is_found_again(seed: int) -> None:
    read = drawn(4000, seed=seed)
    fitted = fit(read, WRONG)
    fitting, _ = split(read)
    # The logarithm of the temperature has a standard error of one by the root of its Fisher information.
    information = 0.0
    for each in fitting:
        shares = np.exp((each.cosines.astype(np.float64) - each.cosines.max()) / TRUE.temperature)
        shares /= shares.sum()
        scaled = each.cosines / TRUE.temperature
        information += float(shares @ scaled**2 - (shares @ scaled) ** 2)
    assert abs(math.log(fitted.temperature / TRUE.temperature)) < 4 / math.sqrt(information)
    # Four numbers fitted to n turns: the squares of the logits' errors, weighed by p(1 - p), add up to 4 on average,
    # and to less than 24 in all but one of 10,000 draws.
    chances = np.array(others(read, TRUE))
    logits, found = (np.log(p / (1 - p)) for p in (chances, np.array(others(read, fitted))))
    assert float((chances * (1 - chances) * (found - logits) ** 2).sum()) < 24


@pytest.mark.parametrize("start", STARTS, ids=lambda start: f"bias {start.bias}")
def test_from_a_wrong_start_the_loss_comes_down_to_that_of_the_truth(start: Calibration) -> None:
    read = drawn(1000, seed=4)
    assert loss(read, start) > loss(read, TRUE) + 0.3
    assert loss(read, fit(read, start)) < loss(read, TRUE) + 0.02


@pytest.mark.parametrize("start", ABSURD, ids=lambda start: f"bias {start.bias}")
def test_from_an_absurd_start_the_loss_comes_down_most_of_the_way(start: Calibration) -> None:
    read = drawn(1000, seed=4)
    assert loss(read, fit(read, start)) - loss(read, TRUE) < 0.2 * (loss(read, start) - loss(read, TRUE))


def test_a_wrong_start_is_mended_on_turns_that_the_fit_did_not_see() -> None:
    fitted = fit(drawn(600, seed=5), WRONG)
    unseen = drawn(2000, seed=6)
    assert loss(unseen, fitted) < loss(unseen, WRONG) - 0.1
    assert quality(unseen, fitted).ece < 0.5 * quality(unseen, WRONG).ece
    assert quality(unseen, fitted).right > quality(unseen, WRONG).right


def test_the_same_readings_give_the_same_numbers_in_any_order() -> None:
    read = drawn(300, seed=7)
    fitted = fit(read, WRONG)
    assert fit(read, WRONG) == fitted
    turned = fit(read[::-1], WRONG)
    for one, other in zip(msgspec.structs.astuple(fitted), msgspec.structs.astuple(turned), strict=True):
        assert one == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("without", [0, 1, ENOUGH - 1])
def test_too_few_turns_without_a_policy_leave_the_numbers_of_none(without: int) -> None:
    fitting, unfitting = split(drawn(1000, seed=8))
    fitted = fit([*fitting, *unfitting[:without]], WRONG)
    assert fitted == msgspec.structs.replace(WRONG, temperature=fitted.temperature)
    assert fitted.temperature == pytest.approx(TRUE.temperature, rel=0.15)
    moved = fit([*fitting, *unfitting[:ENOUGH]], WRONG)
    assert moved.temperature == fitted.temperature
    assert moved.bias != WRONG.bias


def test_too_few_turns_with_a_policy_are_refused() -> None:
    fitting, unfitting = split(drawn(1000, seed=9))
    assert fit(fitting[:ENOUGH], WRONG).temperature < WRONG.temperature
    for few in (fitting[: ENOUGH - 1], [*fitting[: ENOUGH - 1], *unfitting]):
        with pytest.raises(DataError) as caught:
            fit(few, WRONG)
        assert str(caught.value) == (
            "29 turns with a policy are too few; 30 are needed; label more, or keep the calibration that ships"
        )
    with pytest.raises(DataError, match="0 turns with a policy are too few"):
        fit([], WRONG)


def test_few_readings_are_drawn_to_the_start() -> None:
    fitting, unfitting = split(drawn(1000, seed=10))
    few = [*fitting[:ENOUGH], *unfitting[:ENOUGH]]
    # Said more often, the same readings speak louder against the start.
    heard = [fit(few * often, WRONG) for often in (1, 4, 16, 64)]
    losses = [loss(few, each) for each in (WRONG, *heard)]
    assert losses == sorted(losses, reverse=True)
    distances = [abs(math.log(each.temperature / WRONG.temperature)) for each in (WRONG, *heard)]
    assert distances == sorted(distances)
    assert losses[1] - losses[-1] > 0.005


def test_readings_that_agree_with_the_start_leave_it_about_where_it_is() -> None:
    read = drawn(80, seed=11)
    apart = np.array(others(read, fit(read, TRUE))) - others(read, TRUE)
    assert float(np.abs(apart).mean()) < 0.1


def test_with_one_policy_on_offer_there_is_nothing_to_share() -> None:
    read = drawn(400, seed=12, policies=1)
    start = msgspec.structs.replace(WRONG, temperature=0.1)
    fitted = fit(read, start)
    assert fitted.temperature == pytest.approx(start.temperature, rel=1e-2)
    assert fitted.doubt == pytest.approx(start.doubt)
    assert loss(read, fitted) < loss(read, start)


def test_what_can_be_told_apart_without_error_gives_finite_numbers() -> None:
    def certain(gold: int | None, at: int) -> Reading:
        cosines = np.full(3, -1.0 if gold is None else 0.0, np.float32)
        if gold is not None:
            cosines[gold] = 1.0
        return Reading(conversation=str(at), cosines=cosines, none=5.0 if gold is None else -5.0, gold=gold)

    read = [certain(None if at % 2 else at % 3, at) for at in range(200)]
    fitted = fit(read, WRONG)
    assert all(map(math.isfinite, msgspec.structs.astuple(fitted)))
    assert quality(read, fitted).right == 1
    assert quality(read, fitted).ece < 0.05


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    policies=st.integers(1, 6),
    spread=st.sampled_from([0.0, 1e-6, 0.1, 1.0]),
    height=st.sampled_from([0.0, 0.3, 100.0]),
    without=st.floats(0, 0.6),
    start=st.sampled_from([*STARTS, *ABSURD]),
)
def test_any_readings_give_finite_numbers(  # noqa: PLR0917
    seed: int, policies: int, spread: float, height: float, without: float, start: Calibration
) -> None:
    rng = np.random.default_rng(seed)
    read = [
        Reading(
            conversation=str(at),
            cosines=np.clip(rng.normal(0, spread, policies), -1, 1).astype(np.float32),
            none=float(rng.normal(0, height)),
            gold=None if rng.random() < without else int(rng.integers(policies)),
        )
        for at in range(120)
    ]
    fitted = fit(read, start)
    assert all(map(math.isfinite, msgspec.structs.astuple(fitted)))
    assert 0 <= quality(read, fitted).ece <= 1


# --- quality


def reading(cosines: Sequence[float], none: float, gold: int | None, conversation: str = "a") -> Reading:
    return Reading(conversation=conversation, cosines=np.array(cosines, np.float32), none=none, gold=gold)


def test_quality_by_hand() -> None:
    # The chance of none is a half at the height 0; a share is 1 / (1 + exp(-10 * what lies between the two cosines)).
    plain = Calibration(temperature=0.1, bias=0.0, evidence=0.0, height=1.0, doubt=0.0)
    read = [
        reading([0.5, 0.1], -50, 0),
        reading([0.5, 0.1], -50, 1),
        reading([0.5, 0.1], 50, 0),
        reading([0.5, 0.1], 50, None),
        reading([0.5, 0.1], -50, None),
    ]
    sure = 1 / (1 + math.exp(-4))
    found = quality(read, plain)
    assert (found.turns, found.right) == (5, pytest.approx(2 / 5))
    assert (found.none_found, found.false_none) == (pytest.approx(1 / 2), pytest.approx(1 / 3))
    # All five are sure enough for the last bin.
    assert found.ece == pytest.approx(abs(3 * sure + 2 - 2) / 5)


def test_shares_of_turns_that_are_not_there_are_not_given() -> None:
    fitting, unfitting = split(drawn(100, seed=13))
    assert quality(fitting, TRUE).none_found is None
    assert quality(fitting, TRUE).false_none is not None
    assert quality(unfitting, TRUE).none_found is not None
    assert quality(unfitting, TRUE).false_none is None


def test_expected_error_by_hand() -> None:
    bins = {
        1: ([0.10, 0.12], [False, False]),  # 0.22 sure, none right
        7: ([0.50, 0.50, 0.52], [True, False, True]),  # 1.52 sure, two right
        10: ([0.70, 0.69], [True, True]),  # 1.39 sure, two right
        14: ([0.95, 0.99, 1.00, 1.00, 0.94], [True, True, True, False, True]),  # 4.88 sure, four right
    }
    sure = np.array([each for chances, _ in bins.values() for each in chances])
    right = np.array([each for _, said in bins.values() for each in said])
    assert len(sure) == 12
    assert [int(each * 15) for each in sure if each < 1] == [at for at, (s, _) in bins.items() for x in s if x < 1]
    assert expected_error(sure, right) == pytest.approx((0.22 + 0.48 + 0.61 + 0.88) / 12)


def test_expected_error_at_the_ends() -> None:
    yes, no = np.ones(4, bool), np.zeros(4, bool)
    assert expected_error(np.ones(4), yes) == 0
    assert expected_error(np.ones(4), no) == 1
    assert expected_error(np.zeros(4), no) == 0
    assert expected_error(np.zeros(4), yes) == 1


# --- held_out


def test_each_fifth_of_the_conversations_is_judged_by_the_others() -> None:
    read = drawn(660, seed=14, turns=3)
    right = none = 0.0
    for at in range(5):
        judged = [each for each in read if int(each.conversation) % 5 == at]
        rest = [each for each in read if int(each.conversation) % 5 != at]
        assert len(judged) == 3 * len({each.conversation for each in judged}) == 132
        found = quality(judged, fit(rest, WRONG))
        right += found.right * len(judged)
        none += (found.none_found or 0) * len(split(judged)[1])
    found = held_out(read, WRONG)
    assert found.turns == len(read)
    assert found.right == pytest.approx(right / len(read))
    assert found.none_found == pytest.approx(none / len(split(read)[1]))


def test_no_conversation_is_judged_by_its_own_turns() -> None:
    # In the longest conversation a great height means none of them, in the others it means a policy; so the longest
    # one outvotes the others, and whatever is held out is judged by those that say the opposite.
    def turns(conversation: str, count: int, none: float) -> list[Reading]:
        cosines = np.random.default_rng(15).uniform(0.3, 0.5, count)
        return [
            reading([cosine, 0.1], sign * none, gold, conversation)
            for cosine in cosines
            for sign, gold in ((1, None), (-1, 0))
        ]

    read = [*turns("0", 60, 1.0), *(each for name in "1234" for each in turns(name, 10, -1.0))]
    start = Calibration(temperature=0.06, bias=0.0, evidence=0.0, height=0.0, doubt=0.0)
    assert quality(read, fit(read, start)).right == pytest.approx(0.6)
    assert held_out(read, start).right == 0


@pytest.mark.parametrize("start", [TRUE, WRONG])
def test_held_out_is_no_better_than_what_the_fit_has_seen_on_average(start: Calibration) -> None:
    seen, unseen = [], []
    for seed in range(20):
        read = drawn(120, seed=100 + seed)
        seen.append(quality(read, fit(read, start)))
        unseen.append(held_out(read, start))
    assert np.mean([each.right for each in unseen]) <= np.mean([each.right for each in seen])


def test_held_out_is_comparable_with_what_is_measured_on_all_turns() -> None:
    # Where the start is right, holding out loses next to nothing; errors of calibration taken fifth by fifth and
    # averaged would be twice as large, for each would be of few turns.
    before, after = [], []
    for seed in range(10):
        read = drawn(400, seed=200 + seed)
        before.append(quality(read, TRUE).ece)
        after.append(held_out(read, TRUE).ece)
    assert np.mean(after) < 1.3 * np.mean(before)


@pytest.mark.parametrize("without", [0, ENOUGH - 1, ENOUGH])
def test_a_part_held_out_changes_nothing_of_what_is_fitted(without: int) -> None:
    fitting, unfitting = split(drawn(1000, seed=16))
    read = [*fitting[:ENOUGH], *unfitting[:without]]
    never = msgspec.structs.replace(WRONG, bias=-20.0)
    assert quality(read, never).none_found == (0 if without else None)
    found = held_out(read, never).none_found
    if without < ENOUGH:
        assert not found
    else:
        assert found is not None
        assert found > 0.5


def test_too_few_to_fit_or_to_hold_out_are_refused() -> None:
    fitting, _ = split(drawn(200, seed=17))
    with pytest.raises(DataError, match="29 turns with a policy are too few; 30 are needed"):
        held_out(fitting[: ENOUGH - 1], WRONG)
    with pytest.raises(DataError, match="0 turns with a policy are too few"):
        held_out([], WRONG)
    for count in (1, 4):
        few = [msgspec.structs.replace(each, conversation=str(at % count)) for at, each in enumerate(fitting)]
        with pytest.raises(DataError) as caught:
            held_out(few, WRONG)
        said = f"{count} conversations are too few to hold a part out; 5 are needed; label more of them"
        assert str(caught.value) == said
    enough = [msgspec.structs.replace(each, conversation=str(at % 5)) for at, each in enumerate(fitting)]
    assert held_out(enough, WRONG).turns == len(enough)


# --- for_share


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("start", [TRUE, WRONG, *ABSURD[:2]])
def test_the_share_that_is_asked_for_is_none_of_them(share: float, start: Calibration) -> None:
    read = drawn(500, seed=18)
    moved = for_share(read, start, share)
    assert np.mean(np.array(others(read, moved)) > 0.5) == pytest.approx(share, abs=1.01 / len(read))
    assert moved == msgspec.structs.replace(start, bias=moved.bias)


def test_a_greater_share_needs_a_greater_bias() -> None:
    read = drawn(200, seed=19)
    biases = [for_share(read, TRUE, share).bias for share in (0.05, 0.2, 0.5, 0.8)]
    assert biases == sorted(set(biases))


def test_one_reading_is_enough_for_a_share() -> None:
    (only,) = drawn(1, seed=20)
    assert others([only], for_share([only], TRUE, 0.3)) == [pytest.approx(0.5)]


# --- probabilities

numbers = st.floats(-1e9, 1e9)


@settings(max_examples=300)
@given(
    cosines=st.lists(st.floats(-1.125, 1.125, width=32), min_size=1, max_size=9),
    none=numbers,
    fixed=st.builds(
        Calibration,
        temperature=st.floats(0.001, 1e9),
        bias=numbers,
        evidence=numbers,
        height=numbers,
        doubt=numbers,
    ),
)
def test_probabilities_are_a_distribution(cosines: list[float], none: float, fixed: Calibration) -> None:
    array = np.array(cosines, np.float32)
    shares, other = probabilities(array, none, fixed)
    assert shares.shape == array.shape
    assert (shares >= 0).all()
    assert 0 <= other <= 1
    assert float(shares.sum()) + other == pytest.approx(1)
    assert shares[int(array.argmax())] == shares.max()


def test_probabilities_by_hand() -> None:
    fixed = Calibration(temperature=0.1, bias=0.3, evidence=2.0, height=3.0, doubt=4.0)
    shares, other = probabilities(np.array([0.5, 0.4], np.float32), 0.2, fixed)
    best = 1 / (1 + math.exp(-1))
    expected = 1 / (1 + math.exp(-(0.3 - 2 * 0.5 + 3 * 0.2 - 4 * math.log(best))))
    assert other == pytest.approx(expected)
    assert list(shares) == pytest.approx([best * (1 - expected), (1 - best) * (1 - expected)])


# --- readings

DESK = PolicySet([Policy(id="legal", description="The law"), Policy(id="code", description="Programs")])


class Lengths:
    """Reads a conversation's turns: how many, and how long the newest is."""

    def __init__(self) -> None:
        self.offered: list[PolicySet] = []

    def reading(self, conversation: Conversation, policies: PolicySet) -> tuple[Floats, float] | None:
        self.offered.append(policies)
        turns = conversation.readable
        if not turns:
            return None
        return np.full(len(policies), len(turns), np.float32), float(len(turns[-1].text))


def test_every_labelled_turn_is_read_up_to_itself_with_its_whole_set_on_offer() -> None:
    messages = (
        {"role": "user", "content": "sue"},
        {"role": "assistant", "content": "whom?"},
        {"role": "user", "content": "never mind"},
    )
    labels = (Label(index=0, policy="legal"), Label(index=2, policy=None))
    one = Example(id="one", source="x", policies="desk", messages=messages, turns=labels)
    silent = msgspec.structs.replace(
        one, id="two", messages=({"role": "user", "content": " "},), turns=(Label(index=0, policy="code"),)
    )
    source = Source(name="log", split="", file="log.jsonl", sha256="", examples=(one, silent))
    data = Dataset(sources=(source,), taxonomies={"desk": Taxonomy(name="desk", policies=DESK, domains=PolicySet())})
    encoder = Lengths()
    found = list(calibration.readings(encoder, data))  # type: ignore[arg-type]
    assert [(each.conversation, each.cosines[0], each.none, each.gold) for each in found] == [
        ("log/one", 1, 3, 0),
        ("log/one", 3, 10, None),
    ]
    assert encoder.offered == [DESK, DESK, DESK]


def test_unlabelled_conversations_are_read_at_their_newest_turn_and_those_of_nobody_left_out() -> None:
    conversations = [read("hello"), read([]), read([{"role": "user", "content": "a"}] * 2)]
    found = calibration.unlabelled(Lengths(), conversations, DESK)  # type: ignore[arg-type]
    assert [(each.conversation, each.cosines[0], each.gold) for each in found] == [("0", 1, None), ("2", 2, None)]
