"""`pointsman eval` and `pointsman dataset` as a user meets them: real files in, tables and reports out."""

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from pointsman.cli import main
from pointsman.dataset import PolicyEntry, PolicySetFile, dump
from pointsman.evals import evaluate
from tests.evals.worked import DOMAINS, EXAMPLES, POLICIES, example

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


def run(*arguments: object) -> Result:
    """Exceptions come out as they are: a traceback is a failure of ours."""
    return CliRunner().invoke(main, ["eval", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    def entries(these):  # type: ignore[no-untyped-def]
        return tuple(PolicyEntry(name=each.id, description=each.description) for each in these)

    folder = tmp_path / "data"
    (folder / "policies").mkdir(parents=True)
    written = PolicySetFile(name="worked", policies=entries(POLICIES), domains=entries(DOMAINS))
    (folder / "policies" / "worked.json").write_bytes(msgspec.json.encode(written))
    dump(folder / "dev" / "worked.jsonl.gz", EXAMPLES)
    return folder


def test_a_run_prints_a_table_and_writes_a_report_and_its_decisions(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.json"
    done = run("--data", data, "--router", "most-frequent", "--router", "word-overlap", "--size", "all", "--out", out)
    assert done.exit_code == 0, done.output
    assert "most-frequent: turns right, in percent" in done.stdout
    assert "word-overlap (bm25): turns right, in percent" in done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("worked")] == [
        ["worked", "27"]
    ] * 2
    report = evaluate.read(out)
    assert [each.name for each in report.routers] == ["most-frequent", "word-overlap"]
    cell = report.cells[0]
    assert (cell.metrics.turn.value, cell.metrics.turn.count) == (0.25, 20)
    assert evaluate.journal_path(out).exists()
    assert sorted(each.name for each in out.parent.iterdir()) == ["report.decisions.jsonl.gz", "report.json"]


def test_the_same_command_gives_the_same_report_but_for_times(data: Path, tmp_path: Path) -> None:
    made: list[object] = []
    for name in ("a.json", "b.json"):
        done = run("--data", data, "--robustness", "3", "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        found = json.loads((tmp_path / name).read_bytes())
        del found["times"]
        made.append(found)
    assert made[0] == made[1]
    assert made[0]["routers"][0]["id"].startswith("encoder/minilm")  # type: ignore[index]


def test_the_table_by_policy_and_the_perturbed_are_shown(data: Path) -> None:
    done = run("--data", data, "--router", "word-overlap", "--robustness", "--size", "all")
    assert "word-overlap by policy" in done.stdout
    assert "(none of them)" in done.stdout
    assert "word-overlap, perturbed" in done.stdout
    assert "imitates-router" in done.stdout


def test_ones_own_conversations_and_policy_file(tmp_path: Path) -> None:
    """What most people come for: the share of turns, and of models, and what is taken for what."""
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"messages": [{"role": "user", "content": "Shorten this contract"}], "policy": "documents.summarize"}\n'
        '{"messages": [{"role": "user", "content": "Thank you!"}], "policy": null}\n'
    )
    policies = tmp_path / "mine.yaml"
    policies.write_text(
        "version: 1\nproviders: {openai: {key: '${NOT_SET_ANYWHERE}'}}\ndefault: openai/small\npolicies:\n"
        "  documents:\n    description: Work on documents\n    models: [openai/large]\n    actions:\n"
        "      summarize: {description: Shorten a document or contract}\n"
    )
    out = tmp_path / "r.json"
    done = run("-c", policies, "--data", log, "--out", out)
    assert done.exit_code == 0, done.output
    report = evaluate.read(out)
    assert report.routers[0].name == "configured"
    whole = report.cells[0].metrics
    assert (whole.every_turn.value, whole.every_turn.count) == (1.0, 2)
    assert whole.model is not None
    assert whole.model.value == 1.0
    assert "model" in done.stdout
    assert {cell.size for cell in report.cells} == {0}, "one's own policies are what is on offer"


def test_evaluation_decides_as_serving_does(tmp_path: Path) -> None:
    """The same turns through `pointsman route`, which serves the same Router.decide, get the same policies."""
    policies = ROOT / "examples" / "assistant.yaml"
    talks = ROOT / "examples" / "conversations" / "assistant.jsonl"
    routed: dict[tuple[str, int], str | None] = {}
    for line in talks.read_text().splitlines():
        talk = json.loads(line)
        for turn in talk["turns"]:
            messages = json.dumps({"messages": talk["messages"][: turn["index"] + 1]})
            done = CliRunner().invoke(main, ["route", "-c", str(policies)], input=messages + "\n")
            routed[talk["id"], turn["index"]] = json.loads(done.stdout)["policy"]
    out = tmp_path / "report.json"
    done = run("-c", policies, "--data", talks, "--out", out, "--scenario", "fqfa")
    assert done.exit_code == 0, done.output
    lines = gzip.decompress(evaluate.journal_path(out).read_bytes()).splitlines()[1:]
    chosen = [answer[3] for line in map(json.loads, lines) for answer in line["answers"]["fqfa/all"]]
    assert chosen == list(routed.values())


def test_against_a_baseline(data: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    run("--data", data, "--router", "most-frequent", "--size", "all", "--out", before)
    done = run("--data", data, "--router", "word-overlap", "--size", "all", "--out", after, "--baseline", before)
    assert done.exit_code == 0, done.output
    assert "Against before.json" in done.stdout
    compared = evaluate.read(after).comparison
    assert compared is not None
    assert compared.flips
    turns = {(flip.example, flip.turn) for flip in compared.flips}
    assert f"{len(turns)} turns are answered otherwise than in before.json" in done.stdout


def test_a_report_that_is_made_anew_is_compared_with_what_it_was(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    run("--data", data, "--router", "most-frequent", "--size", "all", "--out", out)
    done = run("--data", data, "--router", "word-overlap", "--size", "all", "--out", out, "--baseline", out)
    assert done.exit_code == 0, done.output
    compared = evaluate.read(out).comparison
    assert compared is not None
    assert compared.changes[0].before == 0.25
    assert compared.flips


def test_a_comparison_is_of_the_reports_own_routers_though_the_journal_holds_more(data: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    command = ["--data", data, "--size", "all", "--router", "word-overlap"]
    run(*command, "--router", "most-frequent", "--out", before)
    run(*command, "--out", before, "--resume")
    done = run(*command, "--baseline", before)
    assert done.exit_code == 0, done.output
    assert "0 turns are answered otherwise than in before.json" in done.stdout


def test_decisions_that_are_not_the_baselines_are_refused(data: Path, tmp_path: Path) -> None:
    before, other = tmp_path / "before.json", tmp_path / "other.json"
    command = ["--data", data, "--size", "all", "--router"]
    run(*command, "word-overlap", "--out", before)
    run(*command, "most-frequent", "--out", other)
    evaluate.journal_path(before).write_bytes(evaluate.journal_path(other).read_bytes())
    done = run(*command, "word-overlap", "--baseline", before)
    assert done.exit_code == 2
    assert "before.json: the decisions beside it are not those that it is made of" in done.stderr
    evaluate.journal_path(before).unlink()
    done = run(*command, "word-overlap", "--baseline", before, "--out", tmp_path / "never.json")
    assert done.exit_code == 2
    assert "before.decisions.jsonl.gz: cannot be read" in done.stderr
    assert not (tmp_path / "never.json").exists(), "said before anything is measured"


def test_a_router_that_cannot_be_loaded_costs_no_earlier_decision(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    command = ["--data", data, "--size", "all", "--out", out, "--router"]
    run(*command, "word-overlap")
    kept = evaluate.journal_path(out).read_bytes()
    done = run(*command, f"encoder@{tmp_path}")
    assert done.exit_code == 2
    assert f"the router 'encoder@{tmp_path}' cannot be loaded: " in done.stderr
    assert evaluate.journal_path(out).read_bytes() == kept
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["r.decisions.jsonl.gz", "r.json"]


def test_another_threshold_is_another_router(tmp_path: Path) -> None:
    """Its answers are not taken over from the file as it was."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"messages": [{"role": "user", "content": "Shorten this contract"}], "policy": "documents"}\n')
    policies, out = tmp_path / "mine.yaml", tmp_path / "r.json"
    written = "version: 1\nproviders: {openai: {key: k}}\ndefault: openai/a\nrouting: {min_confidence: %s}\npolicies:\n"
    written += "  documents: {description: Work on documents, models: [openai/b]}\n"
    policies.write_text(written % 0)
    run("-c", policies, "--data", log, "--out", out)
    before = evaluate.read(out)
    policies.write_text(written % 0.999)
    done = run("-c", policies, "--data", log, "--out", out, "--resume")
    assert done.exit_code == 0, done.output
    after = evaluate.read(out)
    assert (before.cells[0].metrics.turn.value, after.cells[0].metrics.turn.value) == (1.0, 0.0)
    assert after.routers[0].id == f"{before.routers[0].id} from 0.999"


def test_offers_that_were_drawn_otherwise_are_not_compared(data: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    command = ["--data", data, "--router", "word-overlap", "--size", "all", "--size", "5"]
    run(*command, "--out", before)
    done = run(*command, "--seed", "1", "--baseline", before, "--out", tmp_path / "after.json")
    assert "turns had other policies on offer and are not compared" in done.stderr
    compared = evaluate.read(tmp_path / "after.json").comparison
    assert compared is not None
    assert compared.otherwise > 10
    assert {("fqfa", 0), ("fqca", 0)} <= {(each.scenario.value, each.size) for each in compared.changes}
    assert not compared.flips, "the same router answers the same questions alike"


def test_a_run_goes_on_after_it_was_stopped(data: Path, tmp_path: Path) -> None:
    """A real process, stopped by a real signal in the middle of its work."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import asyncio\nfrom pointsman.evals.baselines import WordOverlap\n\n\n"
        "class Slow(WordOverlap):\n    async def score(self, conversation, policies):\n"
        "        await asyncio.sleep(0.3)\n        return await super().score(conversation, policies)\n"
    )
    out = tmp_path / "r.json"
    command = ["--data", data, "--router", f"{slow}:Slow", "--size", "all", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "pointsman", "eval", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background has SIGINT ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )
    kept = evaluate.journal_path(out)
    deadline = time.monotonic() + 30
    while not (kept.exists() and kept.stat().st_size > 300):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--resume goes on from there" in said
    assert not out.exists()
    slow.write_text(slow.read_text().replace("0.3", "0"))
    done = run(*command, "--resume")
    assert done.exit_code == 0, done.output
    whole = tmp_path / "whole.json"
    run(*command[:-1], whole)
    resumed, fresh = (json.loads(each.read_bytes()) | {"times": None} for each in (out, whole))
    assert resumed == fresh


def test_bad_data_is_named_and_left_out_only_if_asked(data: Path) -> None:
    (data / "dev" / "worked.jsonl.gz").unlink()
    wrong = [example("a", "food.order"), example("a", "food.recipe"), example("b", "food.eat")]
    dump(data / "dev" / "worked.jsonl", wrong)
    file = data / "dev" / "worked.jsonl"
    done = run("--data", data, "--router", "word-overlap")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{file}:2: id: 'a' is line 1's too; give every example its own id",
        f"{file}:3: turns[0].policy: 'food.eat' is not in the set 'worked'; null says that none fits",
    ]
    done = run("--data", data, "--router", "word-overlap", "--skip-bad")
    assert done.exit_code == 0
    assert done.stderr.count("left out: ") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--router", "nobody"], "there is no router 'nobody'; there are encoder, "),
        (["--size", "0"], "'0' is neither a number of policies nor 'all'"),
        (["--resume"], "give the same --out"),
        (["--only", "nope"], "has no source nope; there are worked"),
        (["--baseline", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--shots", "3"], "holds none of these sources"),
        (["--texts"], "--html"),
        (["--out", "."], "is a folder; name a file in it"),
        (["--out", ""], "is a folder; name a file in it"),
        (["--router", "os:sep"], "is nothing that can be called"),
        (["--router", "json:nothing"], "cannot be imported: AttributeError"),
    ],
)
def test_bad_usage_ends_with_2_and_what_to_do(data: Path, arguments: list[str], said: str) -> None:
    done = run("--data", data, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_rebuilding_a_benchmark_and_measuring_it(tmp_path: Path) -> None:
    original = tmp_path / "data_full.json"
    part = [["move money to my mother", "transfer"], ["will it rain", "weather"]]
    strange = [["who made you up", "oos"]]
    parts = dict.fromkeys(("train", "val", "test"), part) | {f"oos_{key}": strange for key in ("train", "val", "test")}
    original.write_text(json.dumps(parts))
    out = tmp_path / "data"
    done = CliRunner().invoke(main, ["dataset", "clinc150", str(original), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert str(out / "test" / "clinc150.jsonl.gz") in done.stdout
    assert "please cite" in done.stderr
    done = run("--data", out, "--split", "test", "--router", "word-overlap", "--size", "all")
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["dataset", "nothing", "x", "--out", str(out)])
    assert done.exit_code == 2
    assert "there are clinc150, " in done.stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data are not part of the project")
def test_the_development_data_can_be_measured_with_every_kind_of_router(tmp_path: Path) -> None:
    routers = ("encoder", "most-frequent", "word-overlap", "cosine-last", "cosine-all", "nearest-example")
    named = [argument for router in routers for argument in ("--router", router)]
    out = tmp_path / "r.json"
    done = run(
        "--data", SHARED, "--only", "clinc150,sgd,mantis14", "--limit", 6, "--robustness", 1, "--out", out, *named
    )
    assert done.exit_code == 0, done.output
    report = evaluate.read(out)
    ours = [row for row in report.paper if not row.published]
    assert [row.model for row in ours] == list(routers)
    assert all(row.shared is not None and row.all is None for row in ours)
    assert "paraphrased" in {row.perturbation for row in report.robustness}
    turn = {each.router: each.turn for each in report.means if (each.scenario.value, each.size) == ("fqfa", 0)}
    assert turn["encoder"] > turn["word-overlap"], "meaning beats words"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data are not part of the project")
def test_paraphrases_are_of_the_development_sets_and_say_otherwise() -> None:
    from pointsman.evals.robustness import paraphrases

    for name, words in paraphrases().items():
        written = json.loads((SHARED / "policies" / f"{name}.json").read_text())
        policies = {each["name"]: each["description"] for each in (*written["policies"], *written.get("domains", ()))}
        assert set(words) == set(policies), name
        assert all(words[id] != policies[id] and 5 <= len(words[id].split()) <= 25 for id in words)
        assert len(set(words.values())) == len(words)
