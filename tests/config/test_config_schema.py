"""The JSON Schema that editors use, against the files that the loader takes and refuses."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pointsman import config

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SCHEMA = config.schema()


def faults(value: Any, schema: Any = SCHEMA, path: str = "") -> list[str]:
    """What `value` has against `schema`: the keywords that ours uses, by JSON Schema 2020-12, and no others."""
    known = {"$schema", "$defs", "$ref", "title", "description", "default", "type", "properties", "required", "items"}
    known |= {"additionalProperties", "anyOf", "enum", "minimum", "maximum", "exclusiveMinimum"}
    assert set(schema) <= known, set(schema) - known
    found: list[str] = []
    if "$ref" in schema:
        target: Any = SCHEMA
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        found += faults(value, target, path)
    if "anyOf" in schema and all(faults(value, each, path) for each in schema["anyOf"]):
        found.append(f"{path}: fits no alternative")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: is not one of {schema['enum']}")
    types = {"object": dict, "array": list, "string": str, "number": (int, float), "null": type(None)}
    if "type" in schema and (not isinstance(value, types[schema["type"]]) or isinstance(value, bool)):
        return [*found, f"{path}: is no {schema['type']}"]
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{path}.{name}: is missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            inner = properties.get(name, more)
            found += (
                [f"{path}.{name}: unknown"]
                if inner is False
                else faults(item, inner, f"{path}.{name}")
                if inner is not True
                else []
            )
    if isinstance(value, list) and "items" in schema:
        found += [fault for i, item in enumerate(value) for fault in faults(item, schema["items"], f"{path}[{i}]")]
    if isinstance(value, int | float):
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            found.append(f"{path}: too small")
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            found.append(f"{path}: out of range")
    return found


def test_it_is_a_schema_of_2020_12():
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert msgspec.json.decode(msgspec.json.encode(SCHEMA)) == SCHEMA
    text = msgspec.json.encode(SCHEMA).decode()
    defined = SCHEMA["$defs"]
    assert isinstance(defined, dict)
    assert {f"#/$defs/{name}" for name in defined} >= set(re.findall(r'"\$ref":"([^"]+)"', text))


def test_every_key_of_the_file_is_described_or_refers_to_what_is():
    text = SCHEMA["$defs"]["PolicyFile"]["properties"] if "PolicyFile" in SCHEMA.get("$defs", {}) else {}  # pyright: ignore
    assert {"version", "providers", "default", "policies", "aliases", "routing", "gateway"} == set(text)
    assert all("description" in entry or "$ref" in str(entry) for entry in text.values())


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_fit_the_schema_and_load(path: Path):
    assert faults(yaml.safe_load(path.read_bytes())) == []
    assert config.load(path, env=None).default


@pytest.mark.parametrize(
    "line",
    [
        "polices: {}",
        "version: 2",
        "default: 5",
        "default: {a: b}",
        "policies: {legal: {descripton: x}}",
        "policies: {legal: {description: 5}}",
        "policies: {legal: {description: x, actions: {review: {}}}}",
        "policies: {legal: {description: x, examples: one}}",
        "routing: {deadline_ms: 0}",
        "routing: {deadline_ms: 60001}",
        "routing: {min_confidence: 1.5}",
        "routing: {weights: 5}",
        "routing: {calibration: [own.json]}",
        "gateway: {timeouts: {idle: -1}}",
        "providers: {openai: key}",
        "providers: {local: {dialect: grpc}}",
        "aliases: {fast: [a/b]}",
    ],
)
def test_bad_files_fit_neither_schema_nor_loader(line: str):
    value = {"version": 1, "providers": {"ollama": None}, "default": "ollama/x", **yaml.safe_load(line)}
    assert faults(value)
    with pytest.raises(config.ConfigError):
        config.loads(msgspec.json.encode(value), env={})


@pytest.mark.parametrize("name", ["version", "providers", "default"])
def test_required_keys(name: str):
    value = {"version": 1, "providers": {"ollama": None}, "default": "ollama/x"}
    del value[name]
    assert faults(value)


def test_the_small_checker_takes_what_it_should():
    assert faults({"version": 1, "providers": {"ollama": None, "openai": {"key": "k"}}, "default": ["a/b"]}) == []
