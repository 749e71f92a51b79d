"""What a sound policy file comes out as."""

import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman import config
from pointsman.config import Config, Secret
from pointsman.errors import ConfigError

HEAD = 'version: 1\nproviders: {openai: {key: "${KEY}"}, anthropic: {key: "${KEY}"}}\ndefault: openai/gpt-5-mini\n'
ENV = {"KEY": "sk-test"}


def loads(text: str) -> Config:
    return config.loads(HEAD + text, env=ENV)


def test_actions_inherit_their_domains_models_unless_they_have_their_own():
    made = loads("""
policies:
  legal:
    description: The law.
    models: [openai/gpt-5, anthropic/claude]
    actions:
      review: {description: Find risks.}
      summary: {description: Shorten., models: anthropic/claude}
  chat: {description: Idle talk.}
""")
    assert {policy.id: policy.models for policy in made.policies} == {
        "legal": ("openai/gpt-5", "anthropic/claude"),
        "legal.review": ("openai/gpt-5", "anthropic/claude"),
        "legal.summary": ("anthropic/claude",),
        "chat": (),
    }


def test_a_domain_without_a_description_only_groups_and_hands_on_its_models():
    made = loads("""
policies:
  code:
    models: openai/gpt-5
    actions:
      write: {description: Write programs.}
""")
    assert made.policies.ids == ("code.write",)
    assert made.policies["code.write"].models == ("openai/gpt-5",)


def test_values_arrive_in_the_units_of_the_tree():
    made = loads("""
routing: {deadline_ms: 100, min_confidence: 0.25}
gateway: {max_body_mb: 0.5, keys: ["${KEY}"], timeouts: {connect: 2, idle: 3.5}}
aliases: {fast: anthropic/claude}
""")
    assert made.routing == config.Routing(deadline=0.1, min_confidence=0.25)
    assert made.gateway.max_body == 512 * 1024
    assert made.gateway.keys == (Secret("sk-test"),)
    assert (made.gateway.timeouts.connect, made.gateway.timeouts.idle) == (2.0, 3.5)
    assert made.aliases == {"fast": "anthropic/claude"}
    assert made.models == ("openai/gpt-5-mini", "anthropic/claude")


def test_weights_and_calibration_are_looked_for_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "desk" / "weights").mkdir(parents=True)
    (tmp_path / "desk" / "own.json").write_text("{}")
    file = tmp_path / "desk" / "policies.yaml"
    file.write_text(HEAD + "routing: {weights: weights, calibration: ./own.json}")
    made = config.load(file, env=ENV).routing
    assert (made.weights, made.calibration) == (tmp_path / "desk" / "weights", tmp_path / "desk" / "own.json")
    # Wherever one stands, and however the file is named.
    monkeypatch.chdir(tmp_path)
    made = config.load("desk/policies.yaml", env=ENV).routing
    assert (made.weights, made.calibration) == (Path("desk/weights"), Path("desk/own.json"))
    # A text that is no file is read as if it stood here.
    assert loads("routing: {weights: desk/weights}").routing.weights == Path("desk/weights")


def test_weights_and_calibration_may_stand_elsewhere_or_be_left_out(tmp_path: Path):
    (tmp_path / "own.json").write_text("{}")
    (tmp_path / "desk").mkdir()
    file = tmp_path / "desk" / "policies.yaml"
    for written in (tmp_path / "own.json", "../own.json"):
        file.write_text(HEAD + f"routing: {{calibration: {written}}}")
        made = config.load(file, env=ENV).routing
        assert made.weights is None
        assert made.calibration is not None
        assert made.calibration.samefile(tmp_path / "own.json")
    for text in ("routing: {}", "routing: {weights: , calibration: null}"):
        assert (loads(text).routing.weights, loads(text).routing.calibration) == (None, None)


def test_weights_and_calibration_that_are_not_there_are_named_with_line_and_mend(tmp_path: Path):
    file = tmp_path / "policies.yaml"
    file.write_text(HEAD + "routing:\n  weights: gone\n  calibration: gone.json\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file, env=ENV)
    assert str(caught.value).splitlines() == [
        f"{file}:5: routing.weights: '{tmp_path / 'gone'}' is not there; `pointsman train encoder` makes one",
        f"{file}:6: routing.calibration: '{tmp_path / 'gone.json'}' is not there; "
        "leave it out, and `pointsman calibrate` makes one",
    ]


@pytest.mark.parametrize("given", ["x" * 5000, "a/" * 3000, '"a\\0b"', '"a\\nb"'])
def test_paths_that_no_file_can_have_are_not_there(given: str):
    with pytest.raises(ConfigError, match="is not there") as caught:
        loads(f"routing: {{weights: {given}}}")
    assert str(caught.value).isprintable()


def test_descriptions_lose_line_breaks():
    made = loads("policies:\n  legal:\n    description: >\n      The law,\n\n      all of it.\n")
    assert made.policies["legal"].description == "The law, all of it."


def test_addresses():
    made = config.loads(
        'version: 1\nproviders: {openai: {key: "${KEY}"}, local: {base_url: "http://${HOST}:8000/v1/"}, ollama: }\n'
        "default: local/model",
        env={"KEY": "k", "HOST": "models.lan"},
    )
    addresses = {name: provider.base_url.reveal() for name, provider in made.providers.items()}
    assert addresses == {
        "openai": "https://api.openai.com/v1",
        "local": "http://models.lan:8000/v1",
        "ollama": "http://localhost:11434/v1",
    }
    assert made.providers["local"].key is None


def test_without_an_environment_references_stay():
    made = config.loads(HEAD + 'policies: {legal: {description: The law.}}\ngateway: {keys: ["${UNSET}"]}', env=None)
    assert made.providers["openai"].key == Secret("${KEY}")
    assert made.policies.ids == ("legal",)


def test_a_literal_key_is_a_warning():
    made = config.loads("version: 1\nproviders:\n  openai: {key: sk-1234567890}\ndefault: openai/x", env={})
    (warning,) = made.warnings
    assert (warning.path, warning.line) == ("providers.openai.key", 3)
    assert "sk-" not in warning.located()


def test_the_digests():
    legal = "policies: {legal: {description: The law., models: %s}}\n"
    one, same, swapped = loads(legal % "openai/gpt-5"), loads(legal % "openai/gpt-5"), loads(legal % "openai/gpt-6")
    spaced = loads("\n# nothing more\n" + legal % "openai/gpt-5")
    assert one.digest == same.digest
    assert one.policies.digest == same.policies.digest == spaced.policies.digest
    assert len({one.digest, swapped.digest, spaced.digest}) == 3
    assert one.policies.digest != swapped.policies.digest


def test_text_and_bytes_are_one():
    text = HEAD + "policies: {legal: {description: Größe}}"
    one, other = config.loads(text, env=ENV), config.loads(text.encode(), env=ENV)
    assert one.digest == other.digest
    assert one.policies["legal"].description == other.policies["legal"].description == "Größe"


def test_half_a_character_in_the_text_is_a_config_error():
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.loads(HEAD + "aliases: {\ud83d: openai/x}", env=ENV)


# Whatever comes in, a Config or a ConfigError comes out, soon.

_SECTIONS = ("version", "providers", "default", "policies", "aliases", "routing", "gateway", "timeouts", "keys", "key")
_SECTIONS += ("weights", "calibration")
_WORDS = st.sampled_from((*_SECTIONS, "legal", "description", "actions", "models", "openai", "openai/gpt-5", "${KEY}"))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=3), inner, max_size=5),
    max_leaves=20,
)
_TOKENS = (": ", "- ", "? ", "<<", "!!int ", "!!bool ", "!!float ", "!!set ", "!!binary ", "&a ", "*a ", "%YAML 1.1\n")
_TOKENS += (
    "%TAG ! x\n",
    "---\n",
    "...\n",
    '"\\u',
    '"\\U',
    '"\\x',
    "FFFFFFFF",
    "1:1",
    "\ufeff",
    "\u2028",
    "\x85",
    ".nan",
)
_YAMLISH = st.lists(st.sampled_from([*"[]{}:,-?&*!|>%@`\"'#\\ \n\t~.0x", *_TOKENS]), max_size=25).map("".join)


def _load(data: bytes | str) -> Config | ConfigError:
    try:
        return config.loads(data, env=ENV)
    except ConfigError as error:
        return error


def _total(data: bytes | str) -> None:
    made = _load(data)
    if isinstance(made, Config):
        assert made.default
        assert made.policies.digest
    else:
        assert made.problems
        assert all(problem.located("f").isprintable() for problem in made.problems)


@given(st.binary(max_size=200))
@settings(deadline=1000)
def test_any_bytes(data: bytes):
    _total(data)


@given(_YAMLISH)
@settings(deadline=1000, max_examples=500)
def test_any_yaml_like_text(text: str):
    _total(text)


@given(st.dictionaries(_WORDS, _VALUES, max_size=6))
@settings(deadline=1000, max_examples=200)
def test_any_nested_value(value: dict[str, object]):
    _total(msgspec.json.encode(value))


@given(st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64), st.text(min_size=1))
@settings(deadline=1000)
def test_any_name_and_description_arrive_as_written(name: str, description: str):
    policies = {name: {"description": description}}
    value = {"version": 1, "providers": {"ollama": None}, "default": "ollama/x", "policies": policies}
    made = _load(msgspec.json.encode(value))
    if isinstance(made, ConfigError):
        assert name.lower() in ("other", "auto") or not description.isprintable(), made
    else:
        assert made.policies[name].description == " ".join(description.split())
