"""Policies that come with one request: the file's rules, and limits, for anyone may send them."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman import config
from pointsman.config import inline_policies
from pointsman.errors import ConfigError

CONFIG = config.loads(
    "version: 1\nproviders: {ollama: , local: {base_url: http://localhost/v1}}\ndefault: ollama/x", env={}
)


def refused(value: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        inline_policies(value, CONFIG)
    assert all(problem.line is None for problem in caught.value.problems)
    return [problem.located() for problem in caught.value.problems]


def test_written_like_the_files():
    policies = inline_policies(
        {
            "legal": {
                "description": "The law.",
                "models": ["local/big", "ollama/small"],
                "actions": {"review": {"description": "Find risks.", "examples": ["Is this NDA fair?"]}},
            }
        },
        CONFIG,
    )
    assert policies.ids == ("legal", "legal.review")
    assert policies["legal.review"].models == ("local/big", "ollama/small")
    assert policies["legal.review"].examples == ("Is this NDA fair?",)


def test_none_are_none():
    assert len(inline_policies({}, CONFIG)) == len(inline_policies(None, CONFIG)) == 0


def test_problems_have_paths():
    assert refused(
        {
            "legal": {"descripton": "The law.", "models": ["openai/x"]},
            "code": {"description": "Programs.", "actions": {"a b": {"description": 5}}},
        }
    ) == [
        "policies.legal.descripton: unknown key; did you mean `description`?",
        "policies.code.actions.a b.description: should be text, but is a number; put it in quotes",
        "policies.legal.models[0]: unknown provider `openai`; known here: ollama, local",
        "policies.legal.description: is empty; say in a few words what work belongs here",
        "policies.code.actions.a b: `a b` cannot name an action; use up to 64 letters, digits, `_` and `-`",
    ]
    assert refused([]) == ["policies: should be a mapping, but is a list"]
    assert refused("legal") == ["policies: should be a mapping, but is text"]


def test_references_are_not_expanded():
    policies = inline_policies({"legal": {"description": "${KEY}"}}, CONFIG)
    assert policies["legal"].description == "${KEY}"


@pytest.mark.parametrize(
    "value",
    [
        {"legal": {"description": "x", "models": ["ollama/x"] * 100_000}},
        {f"k{i}": 1 for i in range(100_000)},
        {"legal": {f"k{i}": 1 for i in range(1_900)}},
        {f"d{i}": {"description": "x", "models": f"olama{i}/x"} for i in range(600)},
        {"legal": {"description": "x" * 1_000_000, "models": "y" * 1_000_000, "z" * 1_000_000: 1}},
    ],
    ids=["models", "policies", "unknown keys", "unknown providers", "long texts"],
)
def test_nobody_can_keep_the_gateway_busy(value: object):
    start = time.perf_counter()
    problems = refused(value)
    assert time.perf_counter() - start < 1
    assert max(map(len, problems)) < 1000


def test_deep_values_are_refused_and_do_not_overflow():
    deep: object = "x"
    for _ in range(1_000_000):
        deep = [deep]
    assert refused({"legal": {"description": deep}}) == [
        f"policies: hold more than {config.MAX_INLINE} values or 256 KiB of text; "
        "move policies that do not change with the request to the policy file"
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["legal", "description", "models", "actions", "examples"]) | st.text(max_size=5),
                inner,
                max_size=4,
            )
        ),
        max_leaves=15,
    )
)
@settings(deadline=1000, max_examples=200)
def test_any_value_gives_policies_or_a_config_error(value: object):
    with contextlib.suppress(ConfigError):
        assert inline_policies(value, CONFIG).digest


@pytest.mark.parametrize("value", [{"x" * 300_000: {"description": "d"}}, {"legal": {"description": "d" * 300_000}}])
def test_much_text_is_refused(value: object):
    assert "256 KiB of text" in refused(value)[0]
