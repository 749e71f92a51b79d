"""Each check finds what it is for, and leaves what looks like it alone."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pointsman.cli import main
from pointsman.synth import verify
from pointsman.synth.verify import Finding, Text
from tests.synth.folder import make

LONG = "the tide table for the small harbour is wrong on every second Sunday of the month since March"


def text(
    said: str,
    *,
    item: str = "a",
    line: int = 1,
    first: bool = True,
    language: str = "en",
    work: str = "legal.contract_review",
) -> Text:
    return Text(file="written/legal.txt", line=line, item=item, text=said, work=work, language=language, first=first)


def of(found: Iterable[Finding], severity: str = "error") -> list[str]:
    return [each.check for each in found if each.severity == severity]


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (LONG, LONG.upper() + "!", ["duplicate"]),
        (LONG, f"hello, {LONG}", ["near-duplicate"]),
        (LONG, "the tide table for the large harbour is right on most Sundays, so who wrote it in March?", []),
        ("Freeze it", "freeze it!", ["duplicate"]),
    ],
)
def test_duplicates(one: str, other: str, found: list[str]) -> None:
    assert of(verify.duplicates([text(one), text(other, item="b", line=9)])) == found


def test_short_follow_ups_may_be_said_twice() -> None:
    assert (
        of(verify.duplicates([text("and in Spanish?", first=False), text("and in Spanish?", item="b", first=False)]))
        == []
    )


def test_one_conversation_may_repeat_itself() -> None:
    assert of(verify.duplicates([text(LONG), text(f"again: {LONG}", first=False)])) == []


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (f"My boss says {LONG}, is he right?", ["contamination"]),
        (LONG, ["contamination"]),
        ("the tide table for the small pond is wrong", []),
        ("freeze my card", []),
        ("please freeze my card", ["contamination"]),
    ],
)
def test_contamination(said: str, found: list[str]) -> None:
    foreign = {"bench.jsonl": [LONG, "freeze my card", "Please, freeze my card!"]}
    assert of(verify.contamination([text(said)], foreign)) == found


def test_numbers_in_a_row_are_no_text() -> None:
    row = "1 2 3 4 5 6 7 8 9 10 11 12 13"
    assert of(verify.contamination([text(f"add up {row}")], {"bench": [f"sort {row}"]})) == []


def test_vectors_tell_what_means_the_same() -> None:
    said = [text(f"{LONG} {at}", item=str(at), line=at + 1) for at in range(3)]
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0]]
    found = list(verify.near_in_meaning(said, vectors, {"bench": np.eye(4, dtype=np.float32)[[1]]}))
    assert [(each.check, each.line) for each in found] == [("near-duplicate", 3), ("near-contamination", 2)]
    assert of(found) == [], "a person decides"


@pytest.mark.parametrize(
    ("said", "language", "severity"),
    [
        (
            "Ich möchte wissen, warum die Fähre nach Amrum am Sonntag nicht fährt und wer das entschieden hat.",
            "de",
            None,
        ),
        (
            "Ich möchte wissen, warum die Fähre nach Amrum am Sonntag nicht fährt und wer das entschieden hat.",
            "en",
            "note",
        ),
        ("Почему паром не ходит по воскресеньям?", "ru", None),
        ("Why does the ferry not sail?", "ru", "error"),
        ("print('hola')", "es", None),
    ],
)
def test_languages(said: str, language: str, severity: str | None) -> None:
    found = list(verify.languages([text(said, language=language)]))
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_lengths() -> None:
    assert of(verify.lengths([text("word " * 2000)])) == ["length"]
    assert of(verify.lengths([text("ok"), text("?!"), text("मदद")])) == []


@pytest.mark.parametrize(
    ("said", "severity"),
    [
        ("send this to legal.contract_review", "error"),
        ("route: contract_review", "error"),
        ("can you do a contract review?", "note"),
        ("review this contract", None),
    ],
)
def test_names_in_text(said: str, severity: str | None) -> None:
    assert [each.severity for each in verify.names_in_text([text(said)])] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("said", "check"),
    [
        ("write to anna@harbour.io", "personal-data"),
        ("write to anna@mail.example.com or root@db.internal", None),
        ("call +49 30 901820 now", "personal-data"),
        ("call +1 202 555 0143 now", None),
        ("my SSN is 078-05-1120", "personal-data"),
        ("pay to DE89 3704 0044 0532 0130 00", "personal-data"),
        ("pay to DE00 1234 5678 9012 3456 78", None),
        ("card 4111 1111 1111 1111", None),
        ("card 4539 5787 6362 1486", "personal-data"),
        ("order 4539 5787 6362 1487", None),
        ("-----BEGIN RSA PRIVATE KEY-----", "key"),
        ("key sk-" + "proj-a8Jd93kLmN20pQrStUvWx", "key"),
        ("key AKIA" + "IOSFODNN7EXAMPLE", "key"),
        ("sk-learn is a library", None),
        ("10.0.0.7 and 1.2.3.4-5, build 20240611123456", None),
    ],
)
def test_personal_data_and_keys(said: str, check: str | None) -> None:
    assert [each.check for each in verify.personal_data([text(said)])] == ([check] if check else [])


def test_licences() -> None:
    found = list(verify.licences({"written": "CC0-1.0", "sets": "CC BY 4.0"}, ["written/a.txt", "web/b.txt"]))
    assert [(each.file, each.check) for each in found] == [("sets", "licence"), ("web/b.txt", "licence")]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "corpus")


def _edit(folder: Path, edit: Callable[[str], str]) -> None:
    file = folder / "written" / "cooking.txt"
    file.write_text(edit(file.read_text()))


def test_the_command_finds_and_says_where(folder: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl.gz"
    bench.write_bytes(gzip.compress(json.dumps({"messages": [{"role": "user", "content": LONG}]}).encode()))
    _edit(folder, lambda said: f"{said}%% request plan en mail\nDear all,\n{LONG}. Tell olaf@sea.no.\n")
    line = (folder / "written" / "cooking.txt").read_text().split("\n").index("%% request plan en mail") + 1
    done = CliRunner().invoke(main, ["corpus", "check", str(folder), "--against", str(bench), "--no-vectors"])
    assert done.exit_code == 1
    assert f"written/cooking.txt:{line}: error: contamination" in done.stderr
    assert "a mail address at sea.no" in done.stderr


def test_vectors_are_compared_by_the_command(folder: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    (bench / "dev").mkdir(parents=True)
    row = {"messages": [{"role": "user", "content": "When will the ferry to the island leave on Sunday morning?"}]}
    (bench / "dev" / "ferry.jsonl").write_text(json.dumps(row))
    _edit(
        folder,
        lambda said: f"{said}%% request plan en question\nOn Sunday morning, when will the island ferry leave?\n",
    )
    done = CliRunner().invoke(main, ["corpus", "check", str(folder), "--against", str(bench), "--notes"])
    assert "near-contamination: means nearly the same" in done.stderr
    assert "ferry.jsonl" in done.stderr


def test_build_and_report(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text(
        "# Card\n<!-- counts -->\n<!-- /counts -->\n<!-- nearness -->\n<!-- /nearness -->\n"
    )
    run = CliRunner()
    out = tmp_path / "built"
    done = run.invoke(main, ["corpus", "build", str(folder), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "labelled turns" in done.stdout
    assert (out / "train" / "teams.jsonl.gz").exists()
    done = run.invoke(main, ["corpus", "build", str(folder), "--out", str(out), "--written-only"])
    assert done.exit_code == 0
    assert not (out / "train" / "teams.jsonl.gz").exists()
    done = run.invoke(main, ["corpus", "report", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    card = (folder / "README.md").read_text()
    assert "| **user turns** | **99**, " in card
    assert "| of the same action |" in card
    assert (folder / "plots" / "lengths.svg").read_bytes().startswith(b"<?xml")
    again = run.invoke(main, ["corpus", "report", str(folder), "--no-vectors"])
    assert again.exit_code == 0
    assert (folder / "README.md").read_text() == card
    (folder / "README.md").write_text("# Card")
    done = run.invoke(main, ["corpus", "report", str(folder), "--no-vectors"])
    assert done.exit_code == 2
    assert "has no <!-- counts -->" in done.stderr


def test_a_sample_is_the_same_for_a_seed(folder: Path) -> None:
    one, again, other = (
        CliRunner().invoke(main, ["corpus", "sample", str(folder), "--count", "5", "--seed", seed]).stdout
        for seed in ("1", "1", "2")
    )
    assert one == again != other
    assert one.count("written/") == 5
    assert "user " in one


def test_blind_labels_are_drawn_without_the_label_and_compared(folder: Path, tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(main, ["corpus", "blind", str(folder), "--count", "12", "--seed", "3"])
    sheets = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({sheet["item"] for sheet in sheets}) == 12
    assert all(sheet["messages"][-1]["role"] == "user" for sheet in sheets)
    assert all(sheet["item"].isalnum() for sheet in sheets), "no domain's name"
    assert all(len({policy["name"].partition(".")[0] for policy in sheet["policies"]}) == 4 for sheet in sheets)
    answers = tmp_path / "answers.jsonl"
    said = [{"item": sheet["item"], "index": sheet["index"], "label": None} for sheet in sheets]
    answers.write_text("".join(json.dumps(each) + "\n" for each in [*said, {**said[0], "item": "gone"}]))
    done = run.invoke(main, ["corpus", "blind", str(folder), "--labels", str(answers)])
    assert "of 12 alike; 1 labels are of turns that are gone" in done.stdout
    lines = [json.loads(line) for line in (folder / "review" / "blind.jsonl").read_text().splitlines()]
    assert all(line["again"] is None and "-" in line["item"] for line in lines)
    assert any(line["label"] for line in lines)
    answers.write_text("no json")
    assert run.invoke(main, ["corpus", "blind", str(folder), "--labels", str(answers)]).exit_code == 2
