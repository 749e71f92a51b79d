"""Files that are no policy files, and what a folder or ten megabytes say."""

import re
import time
from pathlib import Path

import pytest

from pointsman import config
from pointsman.config.document import MAX_BYTES, parse
from pointsman.errors import ConfigError


def refused(data: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        config.loads(data, env={})
    return str(caught.value)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"policies\.yaml: no such file"):
        config.load(tmp_path / "policies.yaml", env={})


def test_a_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match="is a folder"):
        config.load(tmp_path, env={})


def test_a_file_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "file" / "policies.yaml", env={})


def test_a_name_that_no_file_can_have():
    with pytest.raises(ConfigError, match="cannot be the name of a file"):
        config.load("policies\0.yaml", env={})


def test_ten_megabytes(tmp_path: Path):
    path = tmp_path / "log.txt"
    path.write_bytes(b"version: 1\n" * (10 * 1024 * 1024 // 11))
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"log\.txt: is 10\.0 MB, the limit is 1 MB"):
        config.load(path, env={})
    assert time.perf_counter() - start < 1


def test_the_largest_file_is_read(tmp_path: Path):
    path = tmp_path / "policies.yaml"
    text = "version: 1\nproviders: {ollama: }\ndefault: ollama/x\n#"
    path.write_text(text + "x" * (MAX_BYTES - len(text)))
    assert config.load(path, env={}).default == ("ollama/x",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "1: is a binary file"),
        (b"version: 1\0", "is a binary file"),
        (b"version: 1\nname: caf\xe9\n", "2: is not UTF-8 text; save it as UTF-8"),
        ("version: 1".encode("utf-16"), "1: is a binary file"),
    ],
)
def test_no_text(data: bytes, said: str):
    assert refused(data).startswith(said)


@pytest.mark.parametrize("item", ["[", "{a: ", "- ", "? ", "{? ", "[\n"])
def test_nested_too_deep(item: str):
    start = time.perf_counter()
    assert re.match(r"\d+: is nested too deep; a policy file has", refused(item.encode() * 100_000))
    assert time.perf_counter() - start < 1


def test_lists_and_mappings_in_mind_of_their_lines():
    document = parse(b"a: 1\nb:\n  - x\n  - c: y\n")
    assert document.value == {"a": 1, "b": ["x", {"c": "y"}]}
    assert document.lines == {(): 1, ("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4}


def test_long_and_unprintable_names_are_shown_in_one_short_line():
    said = refused(b'version: 1\n"\\e[31m%s": 1\n' % (b"x" * 10_000))
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) < 1000
