"""No key, header or address shows in a message, a warning or a repr."""

import msgspec
import pytest

from pointsman import config
from pointsman.config import Config, Secret
from pointsman.errors import ConfigError

CANARY = "canary-7f3a"
SOUND = """
version: 1
providers:
  openai: {key: "${KEY}"}
  anthropic: {key: canary-7f3a-literal}
  local:
    base_url: "https://user:${KEY}-password@host/v1?sig=${KEY}-query"
    headers: {X-Token: "${KEY}-header", X-Literal: canary-7f3a-literal}
default: openai/gpt-5
gateway: {keys: ["${KEY}", canary-7f3a-caller]}
"""


def loads(text: str) -> Config:
    return config.loads(text, env={"KEY": CANARY, "BROKEN": f"{CANARY}\n{CANARY}", "URL": f"nowhere:{CANARY}"})


def test_a_sound_tree_shows_none():
    made = loads(SOUND)
    shown = [repr(made), str(made), f"{made.providers}", *(warning.located("f") for warning in made.warnings)]
    assert CANARY not in "".join(shown)
    assert len(made.warnings) == 2


def test_the_list_of_secrets_has_them_all():
    made = loads(SOUND)
    assert set(made.secrets) >= {
        CANARY,
        "canary-7f3a-literal",
        "canary-7f3a-caller",
        "canary-7f3a-header",
        "canary-7f3a-password",
        "canary-7f3a-query",
    }
    assert [len(secret) for secret in made.secrets] == sorted(map(len, made.secrets), reverse=True)


def test_a_tree_cannot_be_encoded_by_mistake():
    with pytest.raises(TypeError):
        msgspec.json.encode(loads(SOUND))


def test_a_secret_is_equal_to_itself_and_masked():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert f"{Secret('a')}" == repr(Secret("a")) == "Secret(***)"
    assert Secret("a").reveal() == "a"


@pytest.mark.parametrize(
    "line",
    [
        "  openai: {key: [canary-7f3a]}",
        "  openai: canary-7f3a",
        '  openai: {key: "${BROKEN}"}',
        '  openai: {key: "canary-7f3a\\n"}',
        "  openai: {key: *canary-7f3a}",
        "  openai: {key: !canary-7f3a! x}",
        '  openai: {key: "canary-7f3a',
        "  openai: {key: canary-7f3a: canary-7f3a}",
        "  openai: {key: \tcanary-7f3a, %}",
        "  local: {base_url: canary-7f3a}",
        '  local: {base_url: "${URL}"}',
        "  local: {base_url: http://canary-7f3a@:x}",
        "  local: {base_url: http://host/v1, headers: {X: [canary-7f3a]}}",
        "  local: {base_url: http://host/v1, headers: canary-7f3a}",
        '  local: {base_url: http://host/v1, headers: {X: "${BROKEN}"}}',
        "  local: {base_url: http://host/v1, dialect: canary-7f3a}",
        "  local: {base_url: http://host/v1, key: 1, key: canary-7f3a}",
        "  openai: {key: k}\ngateway: {keys: canary-7f3a}",
        "  openai: {key: k}\ngateway: {keys: {canary: canary-7f3a}}",
        '  openai: {key: k}\ngateway: {keys: ["${BROKEN}"]}',
    ],
)
def test_no_problem_shows_one(line: str):
    with pytest.raises(ConfigError) as caught:
        loads(f"version: 1\nproviders:\n{line}\ndefault: [openai/x, local/x]\n")
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value.problems)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_reference_is_a_secret_wherever_it_stands():
    made = loads(
        "version: 1\n"
        "providers: {a: {base_url: 'http://host/${KEY}/v1', headers: {authorization: 'Bearer sk-literal-1'}}}\n"
        "default: a/x\n"
    )
    assert {CANARY, "sk-literal-1"} <= set(made.secrets)
    assert CANARY not in repr(made)
