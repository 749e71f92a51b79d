"""Writes docs/reference/ from the code: `python docs/generate.py`. A test checks that they agree."""

from __future__ import annotations

import ast
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import msgspec

from pointsman import config
from pointsman.cli import main
from pointsman.decision import Reason
from pointsman.evals.report import Report

HERE = Path(__file__).parent / "reference"
SOURCE = Path(__file__).parents[1] / "src" / "pointsman"
_NOTE = "<!-- Written by docs/generate.py from the code. -->\n\n"


def pages() -> dict[str, str]:
    """Every page of the reference by its file name."""
    return {
        "cli.md": _cli(),
        "policy-file.md": _policy_file(),
        "reasons.md": _reasons(),
        "eval-report.md": _report(),
    }


def _cli() -> str:
    text = (
        _NOTE + "# Command line\n\nExit codes: 0 fine, 1 the work found a failure, 2 bad usage or a bad policy file.\n"
    )
    return text + _commands(main, click.Context(main, info_name="pointsman", **main.context_settings))


def _commands(group: click.Group, above: click.Context) -> str:
    text = ""
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=name, parent=above, max_content_width=100)
        text += f"\n## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            text += _commands(command, context)
    return text


def _policy_file() -> str:
    schema: dict[str, Any] = config.schema()
    definitions = schema["$defs"]
    text = _NOTE + "# Policy file\n\n`pointsman schema` prints the same as a JSON Schema, for editors.\n"
    for name in (
        "PolicyFile",
        "ProviderEntry",
        "DomainEntry",
        "ActionEntry",
        "RoutingEntry",
        "GatewayEntry",
        "TimeoutsEntry",
    ):
        entry = definitions[name]
        text += f"\n## {name}\n\n{entry['description'].strip()}\n\n| key | type | default | |\n|---|---|---|---|\n"
        for key, value in entry["properties"].items():
            default = "required" if key in entry.get("required", ()) else f"`{_default(value)}`"
            text += f"| `{key}` | {_type(value)} | {default} | {value.get('description', '')} |\n"
    return text


_REPORT = """# The report of `pointsman eval`

A JSON document. Nothing in it but `times` depends on the machine or the hour: the same data, plan, routers and version
give the same bytes. Shares are between 0 and 1, rounded to six digits. What the figures mean and how the scenarios are
drawn is in [how the benchmark is made](../explanation/benchmark.md).

Beside a report `r.json` lies `r.decisions.jsonl.gz`: every decision it is made of, a line an example, without any text
of a conversation. `--resume` and `--baseline` read it.
"""


def _report() -> str:
    """The report of `pointsman eval`, struct by struct, from Report down."""
    (_, definitions) = msgspec.json.schema_components([Report], ref_template="#/$defs/{name}")
    text = _NOTE + _REPORT
    for name in ["Report", *sorted(set(definitions) - {"Report"})]:
        entry: dict[str, Any] = definitions[name]
        if "properties" not in entry:
            text += f"\n## {name}\n\n{entry.get('description', '')}\n\n{_type(entry)}\n"
            continue
        said = _fields(name)
        text += f"\n## {name}\n\n{cleandoc(entry['description'])}\n\n| key | type | |\n|---|---|---|\n"
        for key, value in entry["properties"].items():
            text += f"| `{key}` | {_type(value)} | {said.get(key, '')} |\n"
    return text


def _fields(struct: str) -> dict[str, str]:
    """What stands under each field of a struct of `pointsman.evals`."""
    said: dict[str, str] = {}
    for file in sorted((SOURCE / "evals").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name == struct:
                for field, below in pairwise(node.body):
                    if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                        said[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return said


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in value:
        return " or ".join(f"`{each}`" for each in value["enum"])
    if "anyOf" in value:
        return " or ".join(_type(each) for each in value["anyOf"])
    if value["type"] == "array":
        return f"list of {_type(value['items'])}" if "items" in value else "list"
    if value["type"] == "object":
        return f"mapping of name to {_type(value['additionalProperties'])}"
    return {"string": "text", "null": "nothing"}.get(value["type"], value["type"])


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return "" if default is None else "{}" if isinstance(default, dict) else str(default)


def _reasons() -> str:
    text = (
        _NOTE
        + "# Reasons\n\nThe `reason` of a decision and of the header `x-pointsman-reason`. The list is closed.\n\n"
    )
    source = (SOURCE / "decision.py").read_text()
    for reason in Reason:
        said = source.partition(f"{reason.name} = ")[2].split('"""')[1]
        text += f"- `{reason.value}`: {said}\n"
    return text


if __name__ == "__main__":
    for name, page in pages().items():
        (HERE / name).write_text(page)
