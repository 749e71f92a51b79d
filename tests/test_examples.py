"""Every example runs: each policy file is fine, each client does what it says against a real gateway."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from pointsman import config
from pointsman.demo import diverted
from pointsman.testing import FakeUpstream, gateway

EXAMPLES = Path(__file__).parents[1] / "examples"
KEYS = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2", "GEMINI_API_KEY": "sk-3"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_policy_file_is_fine(path: Path) -> None:
    loaded = config.load(path, env=KEYS)
    assert len(loaded.policies) >= 2
    assert loaded.warnings == ()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("conversations/*.jsonl")), ids=lambda path: path.stem)
def test_a_conversation_is_labelled_with_policies_of_its_set(path: Path) -> None:
    for line in path.read_text().splitlines():
        example = json.loads(line)
        offered = config.load(EXAMPLES / f"{example['policies']}.yaml", env=None).policies
        users = [at for at, message in enumerate(example["messages"]) if message["role"] == "user"]
        assert [turn["index"] for turn in example["turns"]] == users
        assert {turn["policy"] for turn in example["turns"]} - {None} <= set(offered.ids)


async def run(script: str, **env: str) -> str:
    """What an example prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / script), env=dict(os.environ) | env, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_the_client_asks_a_gateway() -> None:
    loaded = config.load(EXAMPLES / "assistant.yaml", env=None)
    async with FakeUpstream() as upstream, gateway(diverted(loaded, upstream.url)) as url:
        printed = (await run("client.py", POINTSMAN_URL=url)).splitlines()
    assert printed == ["questions.factoid -> google/gemini-2.5-flash", "This is gemini-2.5-flash speaking."]


async def test_the_library_routes_in_process() -> None:
    printed = await run("library.py")
    assert printed.startswith("documents.creation anthropic/claude-sonnet-4-5 matched ")
