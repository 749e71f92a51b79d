"""Policies and their set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policy import Policy, PolicySet

LEGAL = Policy(id="legal", description="The law.", models=("a/x",))
REVIEW = Policy(id="legal.review", description="Find risks.", examples=("Is it fair?",), models=("a/x", "b/y"))


def test_the_two_levels_of_an_id():
    assert (LEGAL.domain, LEGAL.action) == ("legal", None)
    assert (REVIEW.domain, REVIEW.action) == ("legal", "review")


def test_a_set_keeps_the_order_and_finds_by_id():
    policies = PolicySet([REVIEW, LEGAL])
    assert policies.ids == ("legal.review", "legal")
    assert list(policies) == [REVIEW, LEGAL]
    assert len(policies) == 2
    assert policies["legal"] is policies.get("legal") is LEGAL
    assert policies.get("nothing") is None
    assert "legal" in policies
    assert LEGAL not in policies
    with pytest.raises(KeyError):
        policies["nothing"]


def test_an_id_is_given_once():
    with pytest.raises(ValueError, match="'legal' is given twice"):
        PolicySet([LEGAL, REVIEW, LEGAL])


def test_an_empty_set():
    assert not PolicySet()
    assert PolicySet().digest == PolicySet([]).digest
    assert "empty" in repr(PolicySet())


def test_the_digest_is_over_everything_that_decides():
    variants = [
        [LEGAL, REVIEW],
        [REVIEW, LEGAL],
        [LEGAL],
        [Policy(id="law", description="The law.", models=("a/x",))],
        [Policy(id="legal", description="The law!", models=("a/x",))],
        [Policy(id="legal", description="The law.", models=("a/z",))],
        [Policy(id="legal", description="The law.", models=())],
        [Policy(id="legal", description="The law.", examples=("a/x",))],
    ]
    digests = [PolicySet(each).digest for each in variants]
    assert len(set(digests)) == len(variants)
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)
    assert PolicySet([LEGAL, REVIEW]).digest == digests[0]


def test_the_digest_stays_from_release_to_release():
    # Logged decisions name it. If this fails, say so in the changelog.
    assert PolicySet([LEGAL, REVIEW]).digest == "ceb9768c1964665c"


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_ids_come_back(ids: list[str]):
    policies = PolicySet(Policy(id=id, description="x") for id in ids)
    assert list(policies.ids) == ids
    assert [policies[id].id for id in ids] == ids
