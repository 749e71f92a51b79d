"""What each scenario offers and takes for right: on the worked dozen, and as properties over any seed and size."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataset import Taxonomy
from pointsman.evals.scenarios import Case, Kind, Scenario, asks, case
from pointsman.policy import Policy, PolicySet
from tests.evals.worked import CLOSING, EXAMPLES, POLICIES, TAXONOMY, example

BY_ID = {each.id: each for each in EXAMPLES}

LARGE = Taxonomy(
    name="large",
    policies=PolicySet(Policy(id=f"d{d}.a{a}", description=f"Action {a} of {d}") for d in range(6) for a in range(8)),
    domains=PolicySet(Policy(id=f"d{d}", description=f"Domain {d}") for d in range(6)),
)
WIDE = Taxonomy(
    name="wide",
    policies=PolicySet(Policy(id=f"d{d}.a{a}", description=f"Action {a} of {d}") for d in range(6) for a in range(15)),
    domains=LARGE.domains,
)


def made(id: str, scenario: Scenario, size: int | None = None, seed: int = 0) -> Case:
    found = case(BY_ID[id], TAXONOMY, scenario, size=size, seed=seed)
    assert found is not None
    return found


def golds(found: Case) -> list[tuple[int, str | None, str]]:
    return [(target.index, target.policy, target.kind.value) for target in found.targets]


def test_fqfa_offers_the_whole_set_and_keeps_the_labels() -> None:
    found = made("w8", Scenario.FQFA)
    assert found.offered.digest == POLICIES.digest
    assert golds(found) == [
        (0, "money.tax", "policy"),
        (2, "money.tax", "policy"),
        (4, "money.tax", "policy"),
        (6, None, "fulfilled"),
        (8, None, "fulfilled"),
    ]
    assert golds(made("w6", Scenario.FQFA)) == [(0, None, "irrelevant")]


def test_fqca_offers_the_domains_alone_and_judges_only_what_they_describe() -> None:
    found = made("w4", Scenario.FQCA)
    assert found.offered.ids == ("food", "travel")
    assert [policy for _, policy, _ in golds(found)] == ["travel", "food", "travel", "travel"]
    assert golds(made("w7", Scenario.FQCA)) == [(2, None, "irrelevant")], "nobody described money"


def test_fqca_needs_described_domains() -> None:
    bare = Taxonomy(name="bare", policies=POLICIES, domains=PolicySet())
    assert case(BY_ID["w1"], bare, Scenario.FQCA, size=None, seed=0) is None


def test_fqca_in_small_withholds_every_action_of_the_conversation_but_not_its_siblings() -> None:
    talk = example("t", "d1.a0", "d1.a3", "d2.a5")
    found = case(talk, LARGE, Scenario.FQCA, size=10, seed=0)
    assert found is not None
    offered = set(found.offered.ids)
    assert {"d1", "d2"} <= offered
    assert not offered & {"d1.a0", "d1.a3", "d2.a5"}
    assert len(offered) == 10
    near = [id for id in offered - {"d1", "d2"} if id.startswith(("d1.", "d2."))]
    assert len(near) == 3
    strangers = offered - {"d1", "d2"} - set(near)
    assert {id for id in strangers if "." not in id} == {id.partition(".")[0] for id in strangers}, "each with its own"


def test_irrelevance_withholds_one_policy_of_the_conversation_wherever_it_is_right() -> None:
    found = made("w4", Scenario.IRRELEVANCE)
    (withheld,) = set(POLICIES.ids) - set(found.offered.ids)
    assert withheld in ("travel.book", "food.order")
    for target, label in zip(found.targets, BY_ID["w4"].turns, strict=True):
        if label.policy == withheld:
            assert (target.policy, target.kind) == (None, Kind.WITHHELD)
        else:
            assert (target.policy, target.kind) == (label.policy, Kind.POLICY)
    assert {made("w4", Scenario.IRRELEVANCE, seed=seed).offered.digest for seed in range(20)} == {
        PolicySet(each for each in POLICIES if each.id != out).digest for out in ("travel.book", "food.order")
    }


def test_irrelevance_takes_what_the_data_say_as_it_is() -> None:
    assert golds(made("w11", Scenario.IRRELEVANCE)) == [(0, None, "irrelevant"), (2, None, "irrelevant")]
    assert made("w11", Scenario.IRRELEVANCE).offered.digest == POLICIES.digest
    kinds = [kind for _, _, kind in golds(made("w5", Scenario.IRRELEVANCE))]
    assert kinds == ["withheld", "fulfilled"]


def test_a_policy_files_domain_goes_with_its_withheld_action() -> None:
    """Else that domain would be the right answer, and "none of them" a wrong one."""
    mixed = PolicySet([*TAXONOMY.domains, *POLICIES])
    own = Taxonomy(name="worked", policies=mixed, domains=TAXONOMY.domains)
    found = case(BY_ID["w1"], own, Scenario.IRRELEVANCE, size=None, seed=0)
    assert found is not None
    assert set(mixed.ids) - set(found.offered.ids) == {"food", "food.order"}


@pytest.mark.parametrize("scenario", Scenario)
def test_a_set_that_is_no_larger_than_the_size_is_not_asked_in_small(scenario: Scenario) -> None:
    assert case(BY_ID["w1"], TAXONOMY, scenario, size=20, seed=0) is None


def test_what_a_scenario_asks_for() -> None:
    assert asks(Scenario.FQFA, Kind.POLICY)
    assert not asks(Scenario.FQCA, Kind.FULFILLED)
    assert asks(Scenario.IRRELEVANCE, Kind.WITHHELD)
    assert not asks(Scenario.IRRELEVANCE, Kind.POLICY)


turns = st.lists(
    st.none() | st.just(CLOSING) | st.builds("d{}.a{}".format, st.integers(0, 5), st.integers(0, 7)),
    min_size=1,
    max_size=6,
)


@given(turns, st.sampled_from(Scenario), st.sampled_from([5, 10, 20]), st.integers(0, 99))
def test_small_offers_hold_what_is_right_and_are_filled_up(
    labels: list[str | None], scenario: Scenario, size: int, seed: int
) -> None:
    talk = example("t", *labels)
    found = case(talk, LARGE, scenario, size=size, seed=seed)
    assert found is not None
    right = {target.policy for target in found.targets} - {None}
    assert right <= set(found.offered.ids)
    assert len(found.offered) == max(size, len(right))
    again = case(talk, LARGE, scenario, size=size, seed=seed)
    assert again is not None
    assert (again.offered.digest, again.targets) == (found.offered.digest, found.targets)
    order = [*LARGE.domains.ids, *LARGE.policies.ids]
    assert list(found.offered.ids) == sorted(found.offered.ids, key=order.index), "in the set's order"


@pytest.mark.parametrize("scenario", [Scenario.FQFA, Scenario.FQCA])
@pytest.mark.parametrize("size", [5, 10, 20])
@pytest.mark.parametrize("golds", [("d3.a3",), ("d3.a3", "d3.a5"), ("d3.a3", "d1.a0")])
def test_the_size_of_a_domain_on_offer_does_not_give_the_answer_away(
    scenario: Scenario, size: int, golds: tuple[str, ...]
) -> None:
    """A router that took the largest domain, or the smallest, must not fare better than one that draws among them."""
    largest = smallest = 0
    for number in range(200):
        found = case(example(f"t{number}", *golds), WIDE, scenario, size=size, seed=0)
        assert found is not None
        sizes = Counter(policy.domain for policy in found.offered)
        others = [count for domain, count in sizes.items() if domain not in ("d3", "d1"[: 2 * (golds[-1][1] == "1")])]
        largest += sizes["d3"] > max(others)
        smallest += sizes["d3"] < min(others)
    assert largest <= 120
    assert smallest <= 120


@given(st.integers(0, 99))
def test_half_of_an_offer_is_of_the_domain_of_what_is_right(seed: int) -> None:
    found = case(example("t", "d3.a3"), LARGE, Scenario.FQFA, size=10, seed=seed)
    assert found is not None
    sizes = Counter(policy.domain for policy in found.offered)
    assert sizes["d3"] == 5
    assert len(sizes) == 2


def test_other_seeds_draw_other_distractors() -> None:
    talk = example("t", "d3.a3")
    drawn = {made.offered.digest for seed in range(9) if (made := case(talk, LARGE, Scenario.FQFA, size=5, seed=seed))}
    assert len(drawn) > 1
