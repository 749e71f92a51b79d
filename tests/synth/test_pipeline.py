"""`pointsman synth` as a process against a scripted endpoint that misbehaves: killed, out of money, without a model."""

import asyncio
import gzip
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pointsman import dataset
from pointsman.policy import Policy
from pointsman.synth.pipeline import prompts
from pointsman.synth.pipeline.prompts import Unusable
from pointsman.testing import Behaviour, Body, Bytes, FakeUpstream, Status, Text
from tests.synth.scripted import Model

ROOT = Path(__file__).parents[2]
KEY = "sk-test-0123456789abcdef"


class Bench:
    """A fake provider, a policy file that names it, and runs of the command against them."""

    def __init__(self, folder: Path, upstream: FakeUpstream) -> None:
        self.folder, self.upstream = folder, upstream
        text = (ROOT / "examples" / "coding.yaml").read_text()
        entry = f'openai: {{key: "${{OPENAI_API_KEY}}", base_url: "{upstream.url}"}}'
        self.policy_file = folder / "coding.yaml"
        self.policy_file.write_text(text.replace('openai: {key: "${OPENAI_API_KEY}"}', entry))

    async def start(self, out: str, *options: str, writers: str = "openai/a openai/b") -> asyncio.subprocess.Process:
        named = [word for writer in writers.split() for word in ("--writer", writer)]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman", "synth", "-c", str(self.policy_file), "--out", str(self.folder / out)),
            *(*named, "--checker", "openai/c", *options),
            env={**os.environ, "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": "unused"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, out: str, *options: str, writers: str = "openai/a openai/b") -> tuple[int, str, str]:
        process = await self.start(out, *options, writers=writers)
        async with asyncio.timeout(60):
            stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return process.returncode, stdout.decode(), stderr.decode()

    def script(self, behaviour: Behaviour) -> None:
        for model in "abc":
            self.upstream.script(model, behaviour)

    def rows(self, out: str) -> list[dict[str, Any]]:
        files = [self.folder / out / split / "synth.jsonl.gz" for split in ("train", "dev")]
        return [json.loads(line) for file in files if file.exists() for line in gzip.open(file)]

    def answers(self, out: str) -> int:
        """How many are in the journal."""
        file = self.folder / out / "journal.sqlite"
        if not file.exists():
            return 0
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=0.01)) as db:
                return db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # in use
            return 0


@pytest.fixture
async def bench(tmp_path: Path):
    async with FakeUpstream() as upstream:
        yield Bench(tmp_path, upstream)


async def test_killed_twice_it_makes_what_an_undisturbed_run_makes(bench: Bench) -> None:
    """Nothing is lost, nothing doubled, and no answer that was journalled is asked for again."""
    bench.script(Model(trouble=0.15))
    assert (await bench.run("whole", "--examples", "200"))[0] == 0
    model = Model(trouble=0.15, slow=0.01)
    bench.script(model)
    bench.upstream.calls.clear()
    for calls in (150, 350):
        process = await bench.start("killed", "--examples", "200")
        while len(bench.upstream.calls) < calls:
            assert process.returncode is None
            await asyncio.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        assert 0 < bench.answers("killed") <= calls
    code, stdout, stderr = await bench.run("killed", "--examples", "200")
    assert code == 0, stderr
    assert "200 conversations" in stdout
    rows = bench.rows("killed")
    assert len({row["id"] for row in rows}) == len(rows) == 200
    assert rows == bench.rows("whole")
    for part in ("policies/coding.json", "train/perturbed.jsonl.gz", "summary.json", "rejects.jsonl"):
        assert (bench.folder / "killed" / part).read_bytes() == (bench.folder / "whole" / part).read_bytes()
    # Calls that were in flight at a kill may have been answered and lost; eight a model, two kills.
    twice = sum(count - 1 for key, count in model.asked.items() if key.startswith("answered "))
    assert twice <= 2 * 3 * 8
    # Spread evenly, checked, and with its provenance.
    assert set(Counter(row["meta"]["parent"] for row in rows).values()) <= set(range(1, 60))
    assert all({"model", "checker", "prompts", "seed", "parent", "intent"} <= row["meta"].keys() for row in rows)
    assert all(row["meta"]["model"] in ("openai/a", "openai/b") for row in rows)


async def test_what_it_writes_is_data_that_the_benchmark_reads(bench: Bench) -> None:
    bench.script(Model())
    code, _, stderr = await bench.run("out", "--examples", "60")
    assert code == 0, stderr
    data = dataset.load(bench.folder / "out", split="train")
    assert {source.name for source in data.sources} == {"synth", "perturbed"}
    perturbed = next(source for source in data.sources if source.name == "perturbed")
    assert any(label.policy is None and not label.closing for each in perturbed.examples for label in each.turns)
    rejects = [json.loads(line) for line in (bench.folder / "out" / "rejects.jsonl").read_text().splitlines()]
    assert all(reject["reason"] and "answer" in reject for reject in rejects)


async def test_every_reject_is_kept_with_its_reason(bench: Bench) -> None:
    bench.script(Model(trouble=0.5))
    await bench.run("out", "--examples", "40")
    summary = json.loads((bench.folder / "out" / "summary.json").read_text())
    assert {"check disagrees", "refusal", "no JSON", "empty", "wrong form"} <= summary["rejects"].keys()
    lines = (bench.folder / "out" / "rejects.jsonl").read_text().splitlines()
    assert sum(summary["rejects"].values()) == len(lines)


async def test_topics_become_policies_that_another_model_checked(bench: Bench) -> None:
    bench.script(Model())
    topics = bench.folder / "topics.txt"
    topics.write_text("keeping bees\n\nrepairing bicycles\n")
    code, _, stderr = await bench.run("out", "--examples", "30", "--topics", str(topics))
    assert code == 0, stderr
    sets = {row["policies"] for row in bench.rows("out")}
    assert len(sets) == 3
    checked = [call for call in bench.upstream.calls if b"candidates for routing policies" in call.body]
    assert {call.model for call in checked} == {"c"}


async def test_a_budget_is_not_overrun_and_what_it_bought_is_kept(bench: Bench) -> None:
    bench.script(Model())
    prices = [word for model in "abc" for word in ("--price", f"openai/{model}=1,2")]
    code, _, stderr = await bench.run("out", "--examples", "200", "--budget", "0.15", *prices)
    assert code == 1
    assert "budget of 0.15 is spent" in stderr
    summary = json.loads((bench.folder / "out" / "summary.json").read_text())
    assert 0.05 < summary["cost"] <= 0.15
    assert 0 < summary["conversations"] < 200
    bought = {row["id"] for row in bench.rows("out")}
    code, _, stderr = await bench.run("out", "--examples", "200", "--budget", "9", *prices)
    assert code == 0, stderr
    assert bought <= {row["id"] for row in bench.rows("out")}


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (Status(401), "refuses with status 401"),
        (Status(429, {"retry-after": "3600"}), "asks to wait 3600 s"),
        (Status(503, {"retry-after": "0"}), "status 503, 2 times"),
        (Body(b"<html>gateway</html>", "text/html"), "no chat completion"),
        (Text(delay=30.0), "no answer within 0.5 s"),
        (Bytes(), "broke off"),
    ],
    ids=["refused", "come back tomorrow", "down", "a web page", "slow", "hangs up"],
)
async def test_a_model_that_does_not_work_ends_the_run_with_its_name(
    bench: Bench, behaviour: Behaviour, said: str
) -> None:
    bench.script(behaviour)
    code, _, stderr = await bench.run("out", "--examples", "10", "--tries", "2", "--timeout", "0.5")
    assert code == 1
    assert "openai/" in stderr
    assert said in stderr
    assert KEY not in stderr
    assert json.loads((bench.folder / "out" / "summary.json").read_text())["conversations"] == 0


async def test_a_dead_endpoint_is_told_apart(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        bench = Bench(tmp_path, upstream)
    code, _, stderr = await bench.run("out", "--examples", "10", "--tries", "1")
    assert code == 1
    assert "no connection" in stderr


async def test_two_runs_in_one_folder_are_one_too_many(bench: Bench) -> None:
    bench.script(Model(slow=0.4))
    first = await bench.start("out", "--examples", "8")
    while not bench.upstream.calls:  # noqa: ASYNC110 - the fake has no event to wait for
        await asyncio.sleep(0.005)
    code, _, stderr = await bench.run("out", "--examples", "40")
    assert code == 2
    assert "another run is at work in this folder" in stderr
    await first.communicate()
    assert first.returncode == 0


async def test_no_more_than_so_many_calls_at_a_time(bench: Bench) -> None:
    class Counting(Model):
        async def answer(self, call: Any, wire: Any) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            try:
                await super().answer(call, wire)
            finally:
                now -= 1

    now = most = 0
    model = Counting(slow=0.01)
    bench.script(model)
    code, _, stderr = await bench.run("out", "--examples", "40", "--concurrency", "2", writers="openai/a")
    assert code == 0, stderr
    assert 2 <= most <= 4  # two models


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--price", "openai/a=cheap"], "is not MODEL=IN,OUT"),
        (["--budget", "1"], "a budget needs the price of openai/a"),
        (["--writer", "nobody/x"], "is no model of"),
        (["--topics", "none.txt"], "none.txt"),
    ],
    ids=["price", "budget", "model", "topics"],
)
async def test_bad_usage_says_what_to_write(bench: Bench, options: list[str], said: str) -> None:
    code, _, stderr = await bench.run("out", *options)
    assert code in (1, 2)
    assert said in stderr
    assert not bench.upstream.calls


async def test_a_file_that_is_no_journal_is_left_alone(bench: Bench) -> None:
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "journal.sqlite").write_bytes(b"letters of my grandmother" * 100)
    code, _, stderr = await bench.run("out")
    assert code == 2
    assert "is it from another program?" in stderr
    assert (bench.folder / "out" / "journal.sqlite").read_bytes().startswith(b"letters")


# Reading what models write --------------------------------------------------------------------------------------------

OFFERED = (Policy(id="code.design", description="Plan"), Policy(id="chat", description="Talk"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["a"]', ["a"]),
        ('Of course!\n```json\n["a"]\n```\nEnjoy', ["a"]),
        ('```\n["a"]\n```', ["a"]),
        ('<think>should I? ["no"]</think>["a"]', ["a"]),
        ('Here: ["a"] as you wished', ["a"]),
        ('{"a": ["```"]}', {"a": ["```"]}),
    ],
)
def test_json_is_found_in_what_surrounds_it(text: str, value: object) -> None:
    assert prompts.value(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>hm</think>", "empty"),
        ("I'm sorry, I cannot do that.", "refusal"),
        ("I can’t help with this", "refusal"),
        ("Certainly.", "no JSON"),
        ('["cut', "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_cannot_be_used_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(Unusable) as raised:
        prompts.value(text)
    assert raised.value.reason == reason


def _talk(*roles: str, labels: object) -> str:
    return json.dumps({"messages": [{"role": role, "content": role} for role in roles], "labels": labels})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_talk("assistant", "user", labels=["chat"]), "wrong form"),
        (_talk("user", "user", labels=["chat", "chat"]), "wrong form"),
        (_talk("user", labels=["chat", "chat"]), "wrong form"),
        (_talk("user", labels="chat"), "wrong form"),
        (_talk("user", labels=["talk"]), "wrong label"),
        (_talk("user", labels=[None]), "wrong label"),
        (_talk("tool", labels=["chat"]), "wrong form"),
        ('{"messages": [{"role": "user", "content": " "}], "labels": ["chat"]}', "wrong form"),
        ("[]", "wrong form"),
    ],
)
def test_a_dialogue_that_is_none_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Unusable) as raised:
        prompts.read_dialogue(text, OFFERED)
    assert raised.value.reason == reason


def test_labels_are_read_as_they_are_meant() -> None:
    read = prompts.read_dialogue(_talk("user", "assistant", "user", labels=[" Code.Design", "none"]), OFFERED)
    assert read.labels == ("code.design", None)
