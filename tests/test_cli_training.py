"""`pointsman calibrate`: from conversations to a calibration file that a policy file then uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from pointsman import config
from pointsman.cli import main
from pointsman.conversation import read
from pointsman.routers.encoder import CalibrationFile, Encoder

POLICIES = """
version: 1
providers: {ollama: }
default: ollama/small
policies:
  cooking: {description: "Recipes, ingredients and how to prepare a meal."}
  travel: {description: "Book flights, trains and hotels."}
"""
DISHES = ("lentil soup", "roast chicken", "a cheese omelette", "rice pudding", "tomato salad", "fish pie", "pancakes")
CITIES = ("Lisbon", "Rome", "Oslo", "Vienna", "Porto", "Prague", "Ghent")
OTHERS = (
    "my tax return",
    "this poem",
    "the French Revolution",
    "a broken printer",
    "my football team",
    "prime numbers",
)

Line = dict[str, object]


def asked(text: str, **label: object) -> Line:
    return {"messages": [{"role": "user", "content": text}], **label}


def labelled() -> list[Line]:
    """35 requests about each policy and 36 about neither."""
    forms = ("How do I make {}?", "A recipe for {}, please", "What goes into {}?", "Cook {} with me", "Is {} hard?")
    lines = [asked(form.format(dish), policy="cooking") for form in forms for dish in DISHES]
    forms = (
        "Find me a flight to {}",
        "A hotel in {}",
        "Trains to {} on Friday",
        "I must get to {}",
        "Two nights in {}",
    )
    lines += [asked(form.format(city), policy="travel") for form in forms for city in CITIES]
    forms = (
        "Tell me about {}",
        "Help me with {}",
        "What is the matter with {}?",
        "Who knows about {}?",
        "Write on {}",
        "{}",
    )
    return lines + [asked(form.format(other), policy=None) for form in forms for other in OTHERS]


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    file = tmp_path / "desk.yaml"
    file.write_text(POLICIES)
    return file


def written(folder: Path, lines: Iterable[Line | str]) -> Path:
    file = folder / "log.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def calibrate(policies: Path, data: Path, *more: str) -> Result:
    out = policies.with_name("own.json")
    given = ["calibrate", "-c", str(policies), "--data", str(data), "--out", str(out), *more]
    return CliRunner().invoke(main, given)


def refused(result: Result, said: str) -> None:
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_calibration_is_fitted_shown_written_and_used(policies: Path, tmp_path: Path) -> None:
    done = calibrate(policies, written(tmp_path, labelled()))
    assert done.exit_code == 0, done.stderr
    heading, *rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    assert heading == ["106 turns", "before", "after"]
    assert [row[0] for row in rows] == [
        "decided rightly",
        "error of confidence (ECE)",
        "none found where none fits",
        "none where a policy fits",
    ]
    assert all(re.fullmatch(r"\d+\.\d%", cell) for row in rows for cell in row[1:])
    assert done.stderr.splitlines() == [
        f"{tmp_path / 'own.json'} is written; `routing: {{calibration: own.json}}` in desk.yaml uses it"
    ]
    content = msgspec.json.decode((tmp_path / "own.json").read_bytes(), type=CalibrationFile)
    shipped = Encoder.load()
    assert content.weights == shipped.card.sha256["encoder.onnx"]
    assert content.calibration != shipped.calibration
    policies.write_text(f"{POLICIES}routing: {{calibration: own.json}}\n")
    done = CliRunner().invoke(main, ["explain", "-c", str(policies), "--json", "A recipe for fish pie, please"])
    decision = json.loads(done.stdout)
    assert decision["policy"] == "cooking"
    assert decision["router"].startswith(f"{shipped.id}+")


def test_the_same_data_give_the_same_file(policies: Path, tmp_path: Path) -> None:
    data = written(tmp_path, labelled())
    first = calibrate(policies, data).stdout, (tmp_path / "own.json").read_bytes()
    assert (calibrate(policies, data).stdout, (tmp_path / "own.json").read_bytes()) == first


def test_where_no_turn_is_without_a_policy_nothing_is_said_of_none(policies: Path, tmp_path: Path) -> None:
    lines = [line for line in labelled() if line["policy"]]
    done = calibrate(policies, written(tmp_path, lines))
    assert done.exit_code == 0, done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if "none fits" in line]
    assert row[-2:] == ["–", "–"]
    content = msgspec.json.decode((tmp_path / "own.json").read_bytes(), type=CalibrationFile)
    before = Encoder.load().calibration
    assert content.calibration == msgspec.structs.replace(before, temperature=content.calibration.temperature)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_share_of_none_is_set_without_labels(policies: Path, tmp_path: Path, share: float) -> None:
    messages = [line["messages"] for line in labelled()]
    data = written(tmp_path, ({"messages": each} for each in [*messages, []]))
    done = calibrate(policies, data, "--none-share", str(share))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"106 turns; {share:.0%}".replace("%", ".0%") + " of them are none of the policies' now\n"
    own = Encoder.load(calibration=tmp_path / "own.json")
    offered = config.load(policies, env=None).policies
    none = [own.scores(read(each), offered).other > 0.5 for each in messages]
    assert abs(sum(none) - share * len(none)) <= 1
    before = Encoder.load().calibration
    assert own.calibration == msgspec.structs.replace(before, bias=own.calibration.bias)


def test_a_share_reads_no_labels(policies: Path, tmp_path: Path) -> None:
    odd = [line | {"policy": "nobody's", "turns": 5} for line in labelled()]
    assert calibrate(policies, written(tmp_path, odd), "--none-share", "0.2").exit_code == 0


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "2", "some"])
def test_a_share_is_between_nothing_and_all(policies: Path, tmp_path: Path, share: str) -> None:
    refused(calibrate(policies, written(tmp_path, labelled()), "--none-share", share), "--none-share")


def test_a_policy_file_without_policies_is_refused(policies: Path, tmp_path: Path) -> None:
    policies.write_text(POLICIES.partition("policies:")[0])
    refused(calibrate(policies, written(tmp_path, labelled())), f"{policies} has no policies to decide between")


@pytest.mark.parametrize("more", [(), ("--none-share", "0.2")])
def test_bad_lines_are_named_and_nothing_is_written_unless_they_may_be_skipped(
    policies: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    lines: list[Line | str] = [*labelled(), "{", "5"]
    data = written(tmp_path, lines)
    done = calibrate(policies, data, *more)
    refused(done, f"{data}:{len(lines)}: is no ")
    assert len(done.stderr.splitlines()) == 2
    assert not (tmp_path / "own.json").exists()
    done = calibrate(policies, data, "--skip-bad", *more)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip().startswith("106 turns")
    assert "2 bad lines were left out" in done.stderr


def test_a_label_that_the_policy_file_does_not_have_is_named(policies: Path, tmp_path: Path) -> None:
    data = written(tmp_path, [*labelled(), asked("Sue them", policy="legal")])
    refused(calibrate(policies, data), f"{data}:107: turns[0].policy: 'legal' is not in the set 'desk'")


def test_too_few_turns_are_refused(policies: Path, tmp_path: Path) -> None:
    few = labelled()[:29]
    refused(
        calibrate(policies, written(tmp_path, few)), "29 turns with a policy are too few; 30 are needed; label more"
    )
    silent = [asked(" ", policy="cooking")] * 40
    refused(calibrate(policies, written(tmp_path, silent)), "0 turns with a policy are too few")
    together = [{"messages": [{"role": "user", "content": "Fish pie?"}] * 30}]
    together[0]["turns"] = [{"index": at, "policy": "cooking"} for at in range(30)]
    said = "1 conversations are too few to hold a part out; 5 are needed; label more of them"
    refused(calibrate(policies, written(tmp_path, together)), said)
    assert not (tmp_path / "own.json").exists()


def test_data_that_are_not_there_are_named(policies: Path, tmp_path: Path) -> None:
    refused(calibrate(policies, tmp_path / "gone.jsonl"), f"{tmp_path / 'gone.jsonl'}: is not there")
    refused(calibrate(policies, tmp_path / "gone.jsonl", "--none-share", "0.2"), "No such file")
    refused(calibrate(policies, written(tmp_path, []), "--none-share", "0.2"), "holds no user turn")


def test_a_calibration_of_other_weights_says_how_to_get_on(policies: Path, tmp_path: Path) -> None:
    content = CalibrationFile(weights="0" * 64, calibration=Encoder.load().calibration)
    (tmp_path / "own.json").write_bytes(msgspec.json.encode(content))
    policies.write_text(f"{POLICIES}routing: {{calibration: own.json}}\n")
    said = "leave it out, and run `pointsman calibrate` again"
    refused(calibrate(policies, written(tmp_path, labelled())), said)
    (tmp_path / "own.json").unlink()
    refused(calibrate(policies, written(tmp_path, labelled())), "leave it out, and `pointsman calibrate` makes one")


def test_a_file_that_cannot_be_written_is_named(policies: Path, tmp_path: Path) -> None:
    (tmp_path / "own.json").mkdir()
    done = calibrate(policies, written(tmp_path, labelled()), "--none-share", "0.2")
    assert done.exit_code == 1
    assert "cannot read or write" in done.stderr
