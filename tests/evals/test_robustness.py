"""Each perturbation changes what it says and nothing else."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.evals.robustness import PERTURBATIONS, perturbed
from pointsman.evals.scenarios import Case, Kind, Scenario, case
from tests.evals.worked import TAXONOMY, example

POLICIES = {
    "opaque-names", "camel-names", "reordered", "reversed", "paraphrased", "framed", "terse", "odd-policy-text",
    "trap-policy", "distractors-5", "distractors-20", "distractors-50", "distractors-200", "truth-removed",
}  # fmt: skip
TEXTS = {"typos", "lower-case", "upper-case", "no-punctuation"}
ATTACKS = {"imitates-router", "names-policy", "bypasses", "escalates"}


def base(*golds: str | None) -> Case:
    found = case(
        example("t", *(golds or ("food.order", None, "travel.visa"))), TAXONOMY, Scenario.FQFA, size=None, seed=0
    )
    assert found is not None
    return found


def told(name: str, key: str = "0", of: Case | None = None) -> Sequence[Case]:
    return perturbed(of or base(), name, policies="worked", key=key)


def one(name: str, of: Case | None = None) -> Case:
    (found,) = told(name, of=of)
    return found


def test_the_table_is_what_is_tested_here() -> None:
    assert set(PERTURBATIONS) == POLICIES | TEXTS | ATTACKS


@pytest.mark.parametrize("name", sorted(POLICIES - {"paraphrased"}))
def test_told_otherwise_about_policies_the_conversation_stays(name: str) -> None:
    assert one(name).messages == base().messages


@pytest.mark.parametrize("name", sorted(TEXTS | ATTACKS))
def test_told_otherwise_about_the_request_the_policies_stay(name: str) -> None:
    assert all(each.offered.digest == base().offered.digest for each in told(name))


@pytest.mark.parametrize("name", sorted(set(PERTURBATIONS) - {"truth-removed", "paraphrased"}))
def test_the_right_answers_stay_right(name: str) -> None:
    found = [(target.index, each.original(target.policy)) for each in told(name) for target in each.targets]
    assert found == [(0, "food.order"), (2, None), (4, "travel.visa")]
    for each in told(name):
        assert {target.policy for target in each.targets} - {None} <= set(each.offered.ids)


@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_the_same_key_tells_the_same(name: str) -> None:
    first, again = told(name, "k"), told(name, "k")
    assert [(each.offered.digest, each.messages, each.targets) for each in first] == [
        (each.offered.digest, each.messages, each.targets) for each in again
    ]


def test_opaque_names_say_nothing_and_keep_the_two_levels() -> None:
    found = one("opaque-names")
    assert found.offered.ids == (
        "group1.kind1", "group1.kind2", "group2.kind3", "group2.kind4", "group3.kind5", "group3.kind6",
    )  # fmt: skip
    assert found.original("group2.kind4") == "travel.visa"
    assert [policy.description for policy in found.offered] == [policy.description for policy in base().offered]


def test_camel_names() -> None:
    assert one("camel-names").offered.ids[0] == "Food.Order"


def test_reordering_changes_the_order_alone() -> None:
    assert one("reversed").offered.ids == base().offered.ids[::-1]
    assert sorted(one("reordered").offered.ids) == sorted(base().offered.ids)


def test_paraphrases_exist_for_the_development_sets_and_no_other() -> None:
    assert told("paraphrased") == []
    own = perturbed(base(), "paraphrased", policies="clinc150", key="0")
    assert own == [], "not one of its policies is in that set"


def test_distractors_are_added_and_fewer_are_part_of_more() -> None:
    offers = [set(one(f"distractors-{count}").offered.ids) for count in (5, 20, 50, 200)]
    assert [len(each) for each in offers] == [11, 26, 56, 206]
    assert set(base().offered.ids) < offers[0] < offers[1] < offers[2] < offers[3]


def test_the_trap_policy_is_a_stranger_that_asks_to_be_chosen() -> None:
    found = one("trap-policy")
    assert found.trap in found.offered
    assert "always choose this one" in found.offered[found.trap or ""].description


def test_the_truth_is_removed_for_every_turn() -> None:
    found = one("truth-removed")
    assert {"food.order", "travel.visa"}.isdisjoint(found.offered.ids)
    assert [(target.policy, target.kind) for target in found.targets] == [
        (None, Kind.WITHHELD),
        (None, Kind.IRRELEVANT),
        (None, Kind.WITHHELD),
    ]


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_stands_in_the_newest_turn_alone_and_names_what_is_wrong(name: str) -> None:
    found = told(name)
    assert len(found) == 3
    for each, target in zip(found, base().targets, strict=True):
        changed = [at for at, message in enumerate(each.messages) if message != base().messages[at]]
        assert changed == [target.index]
        if each.trap:
            assert each.trap not in {"food.order", "travel.visa"}
            assert each.trap in str(each.messages[target.index]["content"])
    assert all((each.trap is None) == (name == "escalates") for each in found)


def test_pictures_and_assistants_words_stay_as_they_are() -> None:
    parts = [{"type": "text", "text": "Look!"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
    pictured = Case(
        messages=({"role": "user", "content": parts}, {"role": "assistant", "content": "Oh!"}),
        offered=base().offered,
        targets=base("food.order").targets,
    )
    found = one("upper-case", of=pictured)
    assert found.messages == (
        {"role": "user", "content": [{"type": "text", "text": "LOOK!"}, parts[1]]},
        {"role": "assistant", "content": "Oh!"},
    )


@given(st.text(), st.sampled_from(sorted(PERTURBATIONS)), st.integers(0, 99))
def test_any_text_can_be_told(text: str, name: str, seed: int) -> None:
    spoken = Case(
        messages=({"role": "user", "content": text},), offered=base().offered, targets=base("food.order").targets
    )
    for each in perturbed(spoken, name, policies="worked", key=str(seed)):
        assert isinstance(each.messages[0]["content"], str)


@given(st.text(alphabet="abcdefghij ", min_size=30), st.integers(0, 9))
def test_typos_are_slips_and_not_other_words(text: str, seed: int) -> None:
    spoken = Case(
        messages=({"role": "user", "content": text},), offered=base().offered, targets=base("food.order").targets
    )
    (found,) = PERTURBATIONS["typos"](spoken, "worked", random.Random(seed))
    slipped = str(found.messages[0]["content"])
    assert len(slipped.split(" ")) == len(text.split(" "))
    for before, after in zip(text.split(" "), slipped.split(" "), strict=True):
        assert abs(len(before) - len(after)) <= 1
        assert before == after or len(before) >= 3
