"""`pointsman demo`: real conversations through a real gateway, with a fake provider behind it. No key, no network.

The decisions are the embedded router's; what the models say is made up, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from pointsman import config
from pointsman.config import Config, Secret
from pointsman.errors import PointsmanError
from pointsman.testing import FakeUpstream, gateway

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# (policy file, conversation, what it is), from examples/.
_SHOWN = (
    ("coding-case-study.yaml", "coding.jsonl", "Coding help: the case study of the Arch-Router paper"),
    ("assistant.yaml", "assistant.jsonl", "Documents, pictures and errands: an assistant with twelve policies"),
)


def examples() -> Path:
    """The folder of examples: inside the installed package, or beside its source in a checkout."""
    installed = Path(__file__).with_name("examples")
    return installed if installed.is_dir() else Path(__file__).parents[2] / "examples"


async def run() -> None:
    """Serve the examples' policy files, send their conversations turn by turn, print how each turn was routed.

    Raises PointsmanError if the openai package is not there.
    """
    try:
        from openai import AsyncOpenAI  # noqa: PLC0415 - an extra
    except ImportError:
        raise PointsmanError("the demo calls the gateway with openai's SDK; pip install 'pointsman[demo]'") from None
    click.echo('Each turn below is sent to a gateway on this machine by the openai SDK with model="auto".')
    click.echo("The embedded router picks the policy; the providers are fakes, so no key is needed.\n")
    right = total = 0
    for file, conversation, title in _SHOWN:
        path = examples() / file
        example = json.loads((examples() / "conversations" / conversation).read_text().splitlines()[0])
        click.echo(f"{click.style(title, bold=True)}  (examples/{file})")
        async with FakeUpstream() as upstream:
            served = diverted(config.load(path, env=None), upstream.url)
            async with gateway(served) as url, AsyncOpenAI(base_url=url, api_key="none-needed") as client:
                for turn in example["turns"]:
                    shown = await _turn(client, example["messages"][: turn["index"] + 1])
                    right += shown["policy"] == turn["policy"]
                    total += 1
                    click.echo(_line(shown, turn["policy"]))
        click.echo("")
    click.echo(f"{right} of {total} turns went where a person would send them.\n")
    click.echo(_NEXT)


async def _turn(client: AsyncOpenAI, messages: list[Any]) -> dict[str, Any]:
    """Send a conversation up to one user turn, streamed; give what was said and the gateway's own headers."""
    reply = await client.chat.completions.with_raw_response.create(model="auto", messages=messages, stream=True)
    async for _event in reply.parse():
        pass
    marks: Mapping[str, str] = reply.headers
    return {
        "said": str(messages[-1]["content"]),
        "policy": marks.get("x-pointsman-policy"),
        "model": marks["x-pointsman-model"],
        "reason": marks["x-pointsman-reason"],
        "confidence": float(marks.get("x-pointsman-confidence", "nan")),
        "ms": float(marks["x-pointsman-decision-ms"]),
    }


def _line(shown: Mapping[str, Any], expected: str | None) -> str:
    said = " ".join(shown["said"].split())
    said = said if len(said) <= 56 else said[:55] + "…"
    mark = click.style("✓", fg="green") if shown["policy"] == expected else click.style("✗", fg="red")
    policy = shown["policy"] or f"default ({shown['reason']})"
    return f"  {mark} {said:56}  {policy:26} {shown['confidence']:4.0%}  {shown['model']:28} {shown['ms']:5.1f} ms"


def diverted(loaded: Config, url: str) -> Config:
    """The same configuration, but every provider is the fake one."""
    providers = {
        name: msgspec.structs.replace(provider, base_url=Secret(url), key=None, headers={})
        for name, provider in loaded.providers.items()
    }
    return msgspec.structs.replace(loaded, providers=providers)


_NEXT = """The same with your own policies
  1. Write a policy file (examples/assistant.yaml is one to start from):  pointsman check policies.yaml
  2. See how a text or a conversation is routed, and why:                 pointsman explain -c policies.yaml "…"
  3. Serve it, and point any OpenAI client at it with model="auto":       pointsman serve -c policies.yaml"""
