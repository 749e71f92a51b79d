"""Every file of tests/cases/config: a policy file, a line of dashes, and what is said of it."""

from pathlib import Path

import pytest

from pointsman import config
from pointsman.errors import ConfigError

CASES = sorted((Path(__file__).parents[1] / "cases" / "config").glob("*.case"))
ENV = {
    "OPENAI_API_KEY": "sk-test",
    "CALLER_KEY": "ck-test",
    "EMPTY": "",
    "MULTILINE": "one\ntwo",
    "ADDRESS": "http://localhost:8000",
}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path):
    content, line, expected = path.read_bytes().partition(b"-" * 20 + b"\n")
    assert line, "the case has no line of 20 dashes"
    try:
        config.loads(content, env=ENV)
        said = "ok"
    except ConfigError as error:
        said = str(error)
    assert said == expected.decode().rstrip("\n")


def test_there_are_cases():
    assert len(CASES) > 45
    assert sum(path.read_bytes().endswith(b"\nok\n") for path in CASES) >= 5


def test_problems_are_in_file_order_and_name_the_file():
    with pytest.raises(ConfigError) as caught:
        config.loads("wat: 1\nversion: 7\nproviders: {openai: {key: x, hm: 1}}\n", env={}, file="policies.yaml")
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(lines)
    assert "policies.yaml:1: wat: unknown key; known here: version," in str(caught.value)
    assert str(caught.value).splitlines()[-1] == (
        "policies.yaml:3: providers.openai.hm: unknown key; known here: key, dialect, base_url, headers"
    )
