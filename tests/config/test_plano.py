"""Plano configurations to policy files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman import config
from pointsman.config import Config
from pointsman.config.plano import Converted, convert
from pointsman.errors import ConfigError

ROOT = Path(__file__).parents[2]


def environment(text: str) -> dict[str, str]:
    """A value for every variable that a policy file refers to, fit for where it stands."""
    names = re.findall(r"\$\{(\w+)\}", text)
    return {
        name: "http://localhost:1/v1" if "URL" in name else "8000" if "PORT" in name else "sk-test" for name in names
    }


def load(made: Converted) -> Config:
    return config.loads(made.text, env=environment(made.text))


def said(made: Converted) -> list[str]:
    return [problem.located() for problem in made.dropped]


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(text.encode(), file="plano.yaml")
    return str(caught.value)


INLINE = b"""
version: v0.3.0
llm_providers:
  - model: openai/small
    access_key: $OPENAI_API_KEY
    default: true
  - model: openai/large
    access_key: ${OPENAI_API_KEY}
    routing_preferences:
      - name: code_generation
        description: write new
          programs
      - {name: code_review, description: judge programs}
  - model: anthropic/opus
    access_key: $CLAUDE_KEY
    routing_preferences:
      - {name: code_generation, description: write new programs}
"""

LISTED = b"""
version: v0.4.0
model_providers:
  - {model: openai/small, access_key: $OPENAI_API_KEY, default: true}
  - {model: openai/large, access_key: $OPENAI_API_KEY}
  - {model: anthropic/opus, access_key: $CLAUDE_KEY}
routing_preferences:
  - {name: code_generation, description: write new programs, models: [openai/large, anthropic/opus]}
  - {name: code_review, description: judge programs, models: [openai/large]}
"""

EXPECTED = """\
# Converted from a Plano configuration.
version: 1
providers:
  openai: {key: '${OPENAI_API_KEY}'}
  anthropic: {key: '${CLAUDE_KEY}'}
default: openai/small

policies:
  code_generation:
    description: write new programs
    models: [openai/large, anthropic/opus]
  code_review:
    description: judge programs
    models: [openai/large]
"""


@pytest.mark.parametrize("data", [INLINE, LISTED, INLINE.replace(b"llm_", b"model_")], ids=["v0.1", "v0.4", "v0.3"])
def test_both_shapes_come_out_alike(data: bytes):
    made = convert(data)
    assert made.text == EXPECTED
    assert said(made) == ["2: version: has no counterpart; the policy file has a `version:` of its own"]
    assert load(made).policies["code_generation"].models == ("openai/large", "anthropic/opus")


HEAD = "model_providers:\n  - {model: openai/small, access_key: $OPENAI_API_KEY, default: true}\n"


def test_what_has_no_counterpart_is_reported_with_its_line():
    made = convert(
        (
            HEAD
            + """\
  - model: openai/large
    access_key: $OPENAI_API_KEY
    http_host: example.com
    capabilities: {context_window: 5}
    surprise: 1
routing_preferences:
  - {name: code, description: Programs, models: [openai/large], selection_policy: {prefer: cheapest}}
listeners: [{type: model, name: m, port: 12000}]
prompt_targets: []
guardrails: {}
prompt_guards: {}
tracing: {random_sampling: 100}
ratelimits: []
endpoints: {}
overrides: {}
system_prompt: Be brief.
agents: []
novelty: 1
"""
        ).encode()
    )
    assert [(problem.line, problem.path) for problem in made.dropped] == [
        (5, "model_providers[1].http_host"),
        (6, "model_providers[1].capabilities"),
        (7, "model_providers[1].surprise"),
        (9, "routing_preferences[0].selection_policy"),
        (10, "listeners"),
        (11, "prompt_targets"),
        (12, "guardrails"),
        (13, "prompt_guards"),
        (14, "tracing"),
        (15, "ratelimits"),
        (16, "endpoints"),
        (17, "overrides"),
        (18, "system_prompt"),
        (19, "agents"),
        (20, "novelty"),
    ]
    assert all(problem.message == "has no counterpart" and problem.mend for problem in made.dropped)


def test_a_written_key_is_not_copied():
    made = convert(
        b"""\
model_providers:
  - {model: openai/small, access_key: sk-canary, default: true}
  - {model: openai/large, access_key: sk-canary}
  - {model: openai/other, access_key: $OPENAI_API_KEY}
  - {model: custom/x, base_url: "https://user:canary@host/v1?key=canary", access_key: "Bearer $TOKEN-canary"}
  - {model: custom/y, base_url: "http://host/v1", headers: {X-Api-Key: canary, X-Team: red, Authorization: $AUTH}}
"""
    )
    assert "canary" not in made.text + repr(made)
    loaded = load(made)
    assert {name: bool(provider.key) for name, provider in loaded.providers.items()} == {
        "openai": True, "openai-2": True, "custom": True, "custom-2": False
    }  # fmt: skip
    assert "openai: {key: '${OPENAI_API_KEY_2}'}" in made.text
    assert "openai-2: {key: '${OPENAI_API_KEY}', base_url: 'https://api.openai.com/v1'}" in made.text
    assert "custom: {key: '${CUSTOM_API_KEY}', base_url: '${CUSTOM_BASE_URL}'}" in made.text
    assert {name: value.reveal() for name, value in loaded.providers["custom-2"].headers.items()} == {
        "x-api-key": "sk-test", "x-team": "red", "authorization": "sk-test"
    }  # fmt: skip
    assert "2: model_providers[0].access_key: a key is written in the file, and not copied" in said(made)[0]
    assert sum("not copied" in line for line in said(made)) == 5


def providers(made: Converted) -> dict[str, str]:
    return {name: provider.base_url.reveal() for name, provider in load(made).providers.items()}


@pytest.mark.parametrize(
    ("entry", "name", "base_url"),
    [
        ("model: ollama/llama3, base_url: http://localhost:11434", "ollama", "http://localhost:11434/v1"),
        ("model: ollama/llama3, base_url: http://gpu:11434/", "ollama", "http://gpu:11434/v1"),
        ("model: gemini/pro, access_key: $K", "google", config.providers.KNOWN["google"].base_url),
        ("model: together_ai/x/y, access_key: $K", "together", config.providers.KNOWN["together"].base_url),
        ("model: groq/x, access_key: $K, base_url: http://proxy", "groq", "http://proxy/openai/v1"),
        ("model: groq/x, access_key: $K, base_url: http://proxy/openai", "groq", "https://api.groq.com/openai/v1"),
        ("model: zhipu/glm, base_url: http://proxy", "zhipu", "http://proxy/api/paas/v4"),
        ("model: moonshotai/kimi, access_key: $K", "moonshotai", "https://api.moonshot.ai/v1"),
        ("model: custom/x, base_url: http://host/deep/path/", "custom", "http://host/deep/path"),
        ("model: custom/x, base_url: http://host, provider_interface: gemini", "custom", "http://host/v1beta/openai"),
        ("model: custom/x, base_url: 'http://$HOST:$PORT'", "custom", "http://sk-test:8000/v1"),
        ("model: custom/x, base_url: $MY_URL", "custom", "http://localhost:1/v1"),
        ("model: custom/x", "custom", "http://localhost:1/v1"),
        ("model: my.own/x, base_url: http://host/v1", "my-own", "http://host/v1"),
        ("model: auto/x, base_url: http://host/v1", "auto-provider", "http://host/v1"),
        ("model: gpt-4o, provider_interface: openai, access_key: $K", "openai", "https://api.openai.com/v1"),
    ],
)
def test_providers_and_addresses(entry: str, name: str, base_url: str):
    entry = entry.replace("http://proxy/openai", "https://api.groq.com/openai") if name == "groq" else entry
    made = convert(f"model_providers:\n  - {{{entry}}}\n".encode())
    assert providers(made) == {name: base_url}
    assert load(made).default[0].startswith(f"{name}/")


def test_one_provider_with_several_keys_or_addresses_is_several_here():
    made = convert(
        b"""\
model_providers:
  - {model: openai/llama, base_url: http://gpu, access_key: $GPU_KEY}
  - {model: openai/small, access_key: $OPENAI_API_KEY, default: true}
  - {model: openai/large, access_key: $TEAM_KEY}
  - {model: openai/phi, base_url: http://gpu, access_key: $GPU_KEY}
  - {model: openai-2/x, base_url: http://other}
model_aliases: {mine: {target: llama}}
routing_preferences:
  - {name: a, description: A, models: [openai/llama, openai/small, openai/large, phi, openai-2/x]}
"""
    )
    loaded = load(made)
    assert list(loaded.providers) == ["openai-4", "openai", "openai-3", "openai-2"]
    for name in ("openai", "openai-3"):
        assert loaded.providers[name].base_url.reveal() == "https://api.openai.com/v1"
    assert loaded.policies["a"].models == (
        "openai-4/llama", "openai/small", "openai-3/large", "openai-4/phi", "openai-2/x"
    )  # fmt: skip
    assert loaded.aliases == {"mine": "openai-4/llama"}
    assert (
        "2: model_providers[0].model: has another key, address or headers than `openai`; it is `openai-4/llama` here"
        in said(made)
    )


def test_a_model_named_twice():
    made = convert(
        b"model_providers:\n  - {model: x/m, base_url: http://a}\n  - {model: x/m, base_url: http://b, name: second}\n"
        b"routing_preferences: [{name: p, description: P, models: [x/m, second]}]"
    )
    assert load(made).policies["p"].models == ("x/m", "x-2/m")
    assert any("is named twice" in line for line in said(made))


def test_a_missing_key_of_a_known_provider_is_taken_from_its_usual_variable():
    made = convert(b"model_providers: [{model: openai/a}, {model: openai/b, access_key: $OPENAI_API_KEY}]")
    assert list(load(made).providers) == ["openai"]
    assert "1: model_providers[0].access_key: is missing; `openai` needs one: it is taken from OPENAI_API_KEY" in said(
        made
    )


def test_callers_keys_are_not_handed_on():
    made = convert(
        b"model_providers: [{model: openai/a, base_url: http://litellm, passthrough_auth: true, access_key: x}]"
    )
    assert load(made).providers["openai"].key is None
    assert any("callers' own keys are not handed on" in line for line in said(made))


def test_wildcards_are_providers_without_models():
    made = convert(
        (
            HEAD
            + "  - {model: groq/*, access_key: $K}\nrouting_preferences: [{name: a, description: A, models: [groq/x]}]"
        ).encode()
    )
    assert list(load(made).providers) == ["openai", "groq"]
    assert load(made).policies["a"].models == ("groq/x",)
    assert said(made) == []


def test_routers_of_plano_are_left_out():
    made = convert(
        (HEAD + "  - {model: plano/Router, base_url: http://localhost}\n  - {model: arch/Router}\n").encode()
    )
    assert list(load(made).providers) == ["openai"]
    assert [problem.line for problem in made.dropped] == [3, 4]


def test_the_default():
    one = convert(b"model_providers: [{model: openai/*, access_key: $K}, {model: openai/a, access_key: $K}]")
    assert load(one).default == ("openai/a",)
    assert said(one) == ["1: model_providers: marks no model as the default; the first, `openai/a`, is taken"]
    two = convert(b"model_providers: [{model: ollama/a, default: true}, {model: ollama/b, default: true}]")
    assert load(two).default == ("ollama/a",)
    assert said(two) == ["1: model_providers[1].default: cannot be the default too; the default is `ollama/a`"]


PREFERENCES = """\
routing_preferences:
  - {name: code review!, description: Judge programs., models: [openai/small]}
  - {name: code_review_, description: Judge again., models: [openai/small]}
  - {name: legal/contracts, description: Contracts., models: [openai/small]}
  - {name: legal.courts, description: Courts., models: [openai/small]}
  - {name: legal.contracts, description: Other contracts., models: [openai/small]}
  - {name: CI/CD, description: Pipelines., models: [openai/small]}
  - {name: other, description: The rest., models: [openai/small]}
  - {name: "漢字", description: Letters., models: [openai/small]}
  - {name: twice, description: pipelines., models: [nowhere/x]}
  - {name: silent_one}
"""


def test_names_descriptions_and_models_that_do_not_fit():
    made = convert((HEAD + PREFERENCES).encode())
    assert {policy.id: policy.description for policy in load(made).policies} == {
        "code_review": "Judge programs.",
        "code_review_": "Judge again.",
        "legal.contracts": "Contracts.",
        "legal.courts": "Courts.",
        "legal_contracts": "Other contracts.",
        "CI_CD": "Pipelines.",
        "other_policy": "The rest.",
        "policy": "Letters.",
        "twice": "pipelines. (twice)",
        "silent_one": "silent one",
    }
    assert {policy.models for policy in load(made).policies} == {("openai/small",)}
    notes = said(made)
    assert "4: routing_preferences[0].name: `code review!` is `code_review` here; decisions name it so" in notes
    assert "12: routing_preferences[8].models[0]: is no model of `model_providers:`; it is left out" in notes
    assert (
        "12: routing_preferences[8].description: is given twice; the name is added; say what sets the two apart"
        in notes
    )
    assert "13: routing_preferences[9].description: is empty; the name, `silent one`, is taken; say more" in notes
    assert "13: routing_preferences[9].models: names no model; the default, `openai/small`, is taken" in notes


def test_a_preference_of_its_own_makes_a_domain_for_the_others():
    made = convert(
        (
            HEAD
            + "routing_preferences:\n"
            + "  - {name: legal/contracts, description: Contracts., models: [openai/small]}\n"
            + "  - {name: legal, description: The law.}\n"
        ).encode()
    )
    assert load(made).policies.ids == ("legal", "legal.contracts")


def test_the_list_wins_over_preferences_at_a_model():
    made = convert(
        LISTED.replace(
            b"CLAUDE_KEY}", b"CLAUDE_KEY, routing_preferences: [{name: code_review}, {name: new, description: N}]}"
        )
    )
    assert load(made).policies.ids == ("code_generation", "code_review", "new")
    assert load(made).policies["code_review"].models == ("openai/large",)
    assert any("`code_review` is in `routing_preferences:` too; that one is taken" in line for line in said(made))


def test_two_descriptions_of_one_preference():
    made = convert(
        INLINE.replace(
            b"{name: code_generation, description: write new programs}", b"{name: code_generation, description: X}"
        )
    )
    assert made.text == EXPECTED
    assert any("`code_generation` is described in two ways; the first one is taken" in line for line in said(made))


def test_aliases():
    made = convert(
        b"""\
model_providers:
  - {model: ollama/a, name: first, default: true}
  - {model: ollama/b, name: ollama/b}
  - {model: ollama/c, name: with/slash}
model_aliases:
  fast: {target: a}
  slow: {target: ollama/b}
  pool: {targets: [first, b]}
  auto: {target: a}
  gone: {target: nothing}
  empty:
"""
    )
    assert load(made).aliases == {"fast": "ollama/a", "slow": "ollama/b", "pool": "ollama/a", "first": "ollama/a"}
    assert [problem.path for problem in made.dropped] == [
        "model_providers[2].name",
        "model_aliases.pool.targets",
        "model_aliases.auto",
        "model_aliases.gone",
        "model_aliases.empty",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "plano.yaml:1: is no Plano configuration: it has no `model_providers:`"),
        ("- a", "plano.yaml:1: is no Plano configuration"),
        ("version: 1\nproviders: {ollama: }\ndefault: ollama/x", "plano.yaml:1: is no Plano configuration"),
        ("model_providers: [", "plano.yaml:1: is not valid YAML"),
        ("model_providers:", "plano.yaml:1: model_providers: names no model"),
        ("model_providers: [{model: openai/*, access_key: $K}]", "plano.yaml:1: model_providers: names no model"),
        ("model_providers: {model: openai/x}", "model_providers: should be a list, but is a mapping"),
        ("model_providers: [openai/x]", "model_providers[0]: should be a mapping, but is text"),
        ("model_providers: [{access_key: $K}]", "model_providers[0].model: is missing"),
        ("model_providers: [{model: gpt-4o}]", "plano.yaml:1: model_providers[0].model: is no model"),
        ("model_providers:\n- {model: a/b c}\n- {model: /x}", "plano.yaml:3: model_providers[1].model: is no model"),
        ("model_providers: [{model: a/b, base_url: nowhere}]", "model_providers[0].base_url: is no http(s) address"),
        (
            "model_providers: [{model: a/b, base_url: 'http://${'}]",
            "model_providers[0].base_url: is no http(s) address",
        ),
        ("model_providers: [{model: a/b, default: yep}]", "default: should be true or false, but is text"),
        ("model_providers: [{model: a/b}]\nmodel_providers: []", "plano.yaml:2: model_providers: is given twice"),
        ("model_providers: [{model: a/b, access_key: 5}]", "access_key: should be text, but is a number"),
        ("model_providers: [{model: a/b}]\nmodel_aliases: {a: b}", "model_aliases.a: should be a mapping, but is text"),
    ],
)
def test_what_is_no_plano_configuration(text: str, problem: str):
    assert problem in refused(text)


def test_the_how_to_shows_what_comes_out():
    text = (ROOT / "docs" / "how-to" / "import-plano.md").read_text("utf-8")
    before, after = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (notes,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    made = convert(before.encode(), file="plano_config.yaml")
    assert made.text == after
    assert [problem.located("plano_config.yaml") for problem in made.dropped] == notes.splitlines()
    assert load(made).policies
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert compile(python, "import-plano.md", "exec")


# Whatever Plano's file says, the policy file loads.

_NAMES = st.sampled_from(
    ["openai", "groq", "gemini", "ollama", "custom", "a.b", "auto", "OTHER", "plano", "é", "x-y", "openai-2"]
)
_TEXT = st.text(max_size=8)
_KEYS = st.none() | st.sampled_from(["$OPENAI_API_KEY", "${K}", "sk-canary", "$K-canary", ""]) | _TEXT
_URLS = st.none() | st.sampled_from(
    ["http://a", "http://b/v1/", "https://canary:canary@a/v1", "http://$HOST:${PORT}", "$SOME_URL", "http://a?canary#b"]
)
_PREFERENCES = (
    st.sampled_from(["code", "legal", "legal.x", "legal/x", "legal/y", "Legal", "a b", "a_b", "auto", "", "CI/CD"])
    | _TEXT
)
_PREFERENCE = st.fixed_dictionaries(
    {"name": _PREFERENCES}, optional={"description": st.sampled_from(["One", "one"]) | _TEXT}
)
_MODELS = st.builds("{}/{}".format, _NAMES, st.sampled_from(["x", "y", "*", "meta/z"]))


def _some(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4)


@st.composite
def _plano(draw: st.DrawFn) -> dict[str, Any]:
    entry = st.fixed_dictionaries(
        {"model": _MODELS},
        optional={
            "access_key": _KEYS,
            "base_url": _URLS,
            "name": _TEXT,
            "default": st.booleans(),
            "passthrough_auth": st.booleans(),
            "provider_interface": st.sampled_from(["openai", "claude", "gemini"]),
            "headers": st.dictionaries(
                st.sampled_from(["X-A", "x-a", "X-Api-Key", "bad name"]), st.sampled_from(["$A", "b", "${"]) | _TEXT
            ),
            "routing_preferences": _some(_PREFERENCE),
        },
    )
    made = {draw(st.sampled_from(["model_providers", "llm_providers"])): draw(st.lists(entry, max_size=6))}
    if draw(st.booleans()):
        listed = st.builds(lambda base, models: base | {"models": models}, _PREFERENCE, _some(_MODELS | _TEXT))
        made["routing_preferences"] = draw(_some(listed))
    if draw(st.booleans()):
        aliases = st.dictionaries(
            _TEXT,
            st.fixed_dictionaries({}, optional={"target": _MODELS | _TEXT, "targets": _some(_MODELS)}),
            max_size=3,
        )
        made["model_aliases"] = draw(aliases)  # pyright: ignore
    return made


def names(value: dict[str, Any]) -> Iterator[str]:
    for section in ("model_providers", "llm_providers"):
        for entry in value.get(section, ()):
            if not entry["model"].startswith("plano/"):
                yield from (
                    each["name"] for each in entry.get("routing_preferences", ()) if not entry["model"].endswith("*")
                )
    yield from (each["name"] for each in value.get("routing_preferences", ()))


@given(_plano())
@settings(deadline=2000, max_examples=150)
def test_any_plano_configuration_loads_or_is_refused(value: dict[str, Any]):
    data = yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode()
    try:
        made = convert(data)
    except ConfigError as error:
        entries = [*value.get("model_providers", ()), *value.get("llm_providers", ())]
        usable = [
            each for each in entries if not each["model"].endswith("/*") and not each["model"].startswith("plano/")
        ]
        assert not usable, error  # noqa: PT017
        return
    assert made == convert(data)
    loaded = load(made)
    assert len(loaded.policies) == len(set(names(value)))
    assert "canary" not in made.text
    assert "canary" not in "".join(said(made))
