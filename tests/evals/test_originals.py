"""Benchmark data rebuilt from their originals: small ones of our own writing, in the authors' formats."""

import csv
import functools
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman import dataset
from pointsman.dataset import Example
from pointsman.errors import DataError
from pointsman.evals.originals import ORIGINALS, Rebuilt, banking77, fetch, rebuild
from pointsman.evals.originals.original import by_action, shipped

CASES = Path(__file__).parents[1] / "cases" / "originals"
FOLDERS = {
    "clinc150": "clinc150",
    "clinc150-multi": "clinc150",
    "sgd": "sgd",
    "mantis": "mantis",
    "banking77": "banking77",
}
SETS = {"clinc150": 150, "banking77": 77, "sgd": 49, "mantis14": 14}


def built(name: str) -> Rebuilt:
    return ORIGINALS[name].build(CASES / FOLDERS[name])


def labels(example: Example) -> list[tuple[int, str | None, bool]]:
    return [(label.index, label.policy, label.closing) for label in example.turns]


def said(example: Example) -> list[object]:
    return [message["content"] for message in example.messages]


def problem(name: str, location: str | Path, out: Path) -> str:
    """What is said of the first problem. Whatever goes wrong, nothing is written, and the file and a mend are named."""
    with pytest.raises(DataError) as caught:
        rebuild(name, location, out)
    assert not out.exists()
    for each in caught.value.problems:
        assert each.file
        assert each.message
        assert each.mend or each.message.startswith("and ")
    return caught.value.problems[0].located()


# Each original --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORIGINALS)
def test_what_is_rebuilt_loads_without_a_problem(name: str, tmp_path: Path) -> None:
    written = rebuild(name, CASES / FOLDERS[name], tmp_path)
    assert all(path.is_file() for path in written)
    splits = [path.parent.name for path in written[:-1]]
    assert splits == list(built(name).splits)
    for split in splits:
        loaded = dataset.load(tmp_path, split=split)
        (source,) = loaded.sources
        assert source.name == name
        assert source.examples == built(name).splits[split]


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_same_original_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first = rebuild(name, CASES / FOLDERS[name], tmp_path / "a")
    second = rebuild(name, CASES / FOLDERS[name], tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_clinc150() -> None:
    made = built("clinc150")
    assert {split: len(examples) for split, examples in made.splits.items()} == {"train": 4, "dev": 10, "test": 3}
    first, *_, last = made.splits["train"]
    assert first.id == "clinc150-train-00000"
    assert said(first) == ["is there snow coming on friday"]
    assert labels(first) == [(0, "utility.weather", False)]
    assert labels(last) == [(0, None, False)]
    assert labels(made.splits["test"][1]) == [(0, "meta.yes", False)]


def test_clinc150_composed() -> None:
    made = built("clinc150-multi")
    single = built("clinc150")
    assert list(made.splits) == ["train", "dev", "test"]
    for split, examples in made.splits.items():
        assert len(examples) == 600
        gold = {said(each)[0]: each.turns[0].policy for each in single.splits[split]}
        for example in examples:
            assert [message["role"] for message in example.messages] == ["user", "assistant"] * (
                len(example.turns) - 1
            ) + ["user"]
            assert all(gold[said(example)[label.index]] == label.policy for label in example.turns)
            assert not any(label.closing for label in example.turns)


def test_composed_conversations_are_as_the_recipe_says(tmp_path: Path) -> None:
    """Measured on 15 policies in 3 domains, with enough texts that no span runs out."""
    taxonomy = shipped("clinc150")
    names = [entry.name for entry in taxonomy.policies if entry.name.split(".")[0] in ("banking", "home", "work")]
    pairs = [[f"{name} {at}", name.split(".")[1]] for name in names[::3] for at in range(9)]
    outside = [[f"outside {at}", "oos"] for at in range(9)]
    keys = {"train": pairs, "val": [], "test": [], "oos_train": outside, "oos_val": [], "oos_test": []}
    file = tmp_path / "data.json"
    file.write_text(json.dumps(keys))
    examples = ORIGINALS["clinc150-multi"].build(file).splits["train"]
    runs: list[list[tuple[str | None, int]]] = []
    for example in examples:
        run: list[tuple[str | None, int]] = []
        for label in example.turns:
            if run and run[-1][0] == label.policy:
                run[-1] = (label.policy, run[-1][1] + 1)
            else:
                run.append((label.policy, 1))
        runs.append(run)
    assert {len(run) for run in runs} == {1, 2, 3, 4}
    assert {turns for run in runs for _, turns in run} == {1, 2, 3}
    assert all(run[0][0] is not None for run in runs)
    later = [policy for run in runs for policy, _ in run[1:]]
    assert later.count(None) / len(later) == pytest.approx(1 / 8, abs=0.04)
    inside = [[policy for policy, _ in run if policy is not None] for run in runs]
    shifts = [(a, b) for run in inside for a, b in pairwise(run)]
    assert all(a != b for a, b in shifts)
    within = sum(a.split(".")[0] == b.split(".")[0] for a, b in shifts)
    assert within / len(shifts) == pytest.approx(1 / 2, abs=0.06)
    assert all(len(set(said(each)[::2])) == len(each.turns) for each in examples)
    replies = {reply for each in examples for reply in said(each)[1::2]}
    assert len(replies) == 5


def test_sgd() -> None:
    made = built("sgd")
    assert list(made.splits) == ["dev", "test"]
    mixed, film, boat = made.splits["dev"]
    assert mixed.id == "sgd-dev-1_00000"
    assert said(mixed)[0] == "A room in Oslo, please"
    assert labels(mixed) == [
        (0, "hotels.search", False),
        (2, "hotels.reserve", False),
        (4, "movies.find", False),  # thanks for the room, but what it announces counts
        (6, None, True),  # declines, though the state still says FindMovies
        (8, "movies.find", False),  # no active intent: what was asked before goes on
        (10, None, True),
    ]
    assert labels(film) == [(0, "movies.find", False)]
    assert labels(boat) == [(0, "ferries.find_a_boat", False), (2, "buses.buy_ticket", False)]
    assert labels(made.splits["test"][0]) == [(0, "salon.book", False)]


def test_sgd_describes_unknown_services_by_their_schema() -> None:
    taxonomy = built("sgd").taxonomy
    known = shipped("sgd")
    assert taxonomy.policies[:-1] == known.policies
    assert (taxonomy.policies[-1].name, taxonomy.policies[-1].description) == (
        "ferries.find_a_boat",
        "Look up when boats sail",
    )
    assert (taxonomy.domains[-1].name, taxonomy.domains[-1].description) == ("ferries", "Boats across the bay")


def test_mantis() -> None:
    made = built("mantis")
    assert list(made.splits) == ["dev", "test"]
    apple, scifi = made.splits["dev"]  # the third has no user turn
    assert apple.id == "mantis-dev-0"
    assert [message["role"] for message in apple.messages] == ["user", "assistant", "user"]
    assert said(apple) == [
        "The screen of my laptop stays dark & silent.",
        "Did you press <power> ? See here .",
        "Yes, with <ctrl> held.\n\nIt works on mains only, I should add.\n\nSo is it the battery?",
    ]
    assert labels(apple) == [(0, "tech.apple", False), (2, "tech.apple", False)]
    assert labels(scifi) == [(0, "leisure.scifi_fantasy", False), (2, "leisure.scifi_fantasy", False)]
    assert labels(made.splits["test"][0])[0] == (0, "leisure.worldbuilding", False)


def test_mantis_as_one_complete_file(tmp_path: Path) -> None:
    shutil.copy(CASES / "mantis" / "merged_dev.json", tmp_path / "complete.json")
    assert list(ORIGINALS["mantis"].build(tmp_path).splits) == ["all"]
    assert list(ORIGINALS["mantis"].build(tmp_path / "complete.json").splits) == ["all"]


def test_banking77() -> None:
    made = built("banking77")
    assert list(made.splits) == ["train", "test"]
    policies = [label.policy for each in made.splits["train"] for label in each.turns]
    assert policies == [
        "cards.card_arrival",
        "card_payments.reverted_card_payment",
        "card_payments.refund_not_showing_up",
    ]
    assert said(made.splits["train"][1]) == ['It said "undone", but why?']
    assert made.splits["test"][0].id == "banking77-test-00000"


# Bad originals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_wrong_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("sun")
    assert problem(name, tmp_path, tmp_path / "out").startswith(str(tmp_path))
    assert "is not there" in problem(name, tmp_path / "nowhere", tmp_path / "out")
    assert "is not there" in problem(name, "x" * 5000, tmp_path / "out")


@pytest.mark.parametrize("name", ["clinc150", "clinc150-multi", "mantis"])
@pytest.mark.parametrize("text", [b"", b"{", b"<!doctype html>", b"\xff\xfe", b'{"x": {"y": ' + b"[" * 100_000])
def test_a_file_that_is_no_json(name: str, text: bytes, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_bytes(text)
    assert "page.json: is no JSON: " in problem(name, tmp_path / "page.json", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data.pop("oos_val"), "is not as expected: object missing required field `oos_val`; get "),
        (lambda data: data["val"].append(["x"]), "val[8]: is not as expected: expected `array` of length 2"),
        (
            lambda data: data["test"][1].__setitem__(1, "wether"),
            "test[1][1]: there is no intent 'wether' in CLINC150; get ",
        ),
        (lambda data: data.clear(), "is not as expected: "),
    ],
)
def test_bad_clinc150(change: Any, expected: str, tmp_path: Path) -> None:
    data = json.loads((CASES / "clinc150" / "data_full.json").read_text())
    change(data)
    (tmp_path / "data_full.json").write_text(json.dumps(data))
    for name in ("clinc150", "clinc150-multi"):
        assert expected in problem(name, tmp_path, tmp_path / "out")


def test_many_problems_are_not_all_listed(tmp_path: Path) -> None:
    keys = {key: [] for key in ("val", "test", "oos_train", "oos_val", "oos_test")}
    file = tmp_path / "data_full.json"
    file.write_text(json.dumps({"train": [["hm", "what"]] * 500, **keys}))
    with pytest.raises(DataError) as caught:
        rebuild("clinc150", file, tmp_path / "out")
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1].message == "and 480 more like these"


def test_an_original_without_a_conversation(tmp_path: Path) -> None:
    keys = {key: [] for key in ("train", "val", "test", "oos_train", "oos_val", "oos_test")}
    (tmp_path / "data_full.json").write_text(json.dumps(keys))
    for name in ("clinc150", "clinc150-multi"):
        assert "holds no conversation" in problem(name, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("dialogues_001.json", lambda data: data[0].pop("dialogue_id"), "[0]: is not as expected: object missing"),
        ("dialogues_001.json", lambda data: data[1].update(dialogue_id="1_00000"), "[1].dialogue_id: '1_00000' is an"),
        ("dialogues_001.json", lambda data: data[0]["turns"][0].update(speaker="DOG"), "invalid enum value 'DOG'"),
        (
            "dialogues_001.json",
            lambda data: data[0]["turns"][0]["frames"][0].pop("actions"),
            "[0].turns[0].frames: have no actions, as in the data's first releases; get the present state of",
        ),
        (
            "dialogues_001.json",
            lambda data: data[0]["turns"][0]["frames"][0]["state"].update(active_intent="Sleep"),
            "[0].turns[0]: 'Sleep' of 'Hotels_4' is in no schema.json; get",
        ),
        ("schema.json", lambda data: data[0].pop("service_name"), "object missing required field `service_name`"),
        ("schema.json", lambda data: data[0]["intents"][0].update(name="?"), "'FindABoat' of 'Ferries_1' is in no sch"),
    ],
)
def test_bad_sgd(name: str, change: Any, expected: str, tmp_path: Path) -> None:
    shutil.copytree(CASES / "sgd", tmp_path / "sgd")
    file = tmp_path / "sgd" / "dev" / name
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    assert expected in problem("sgd", tmp_path, tmp_path / "out")


def test_sgd_as_a_single_file_or_its_inner_folder(tmp_path: Path) -> None:
    assert "is no folder" in problem("sgd", CASES / "sgd" / "dev" / "dialogues_001.json", tmp_path / "out")
    assert "holds no train, dev or test" in problem("sgd", CASES / "sgd" / "dev", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data["1"].update(category="cooking"), "1.category: there is no site 'cooking' among the 14"),
        (lambda data: data["0"].pop("utterances"), "0: is not as expected: object missing required field `utterances`"),
        (lambda data: data["0"]["utterances"][0].update(actor_type="owner"), "invalid enum value 'owner'"),
        (
            lambda data: data["0"]["utterances"][0].update(utterance=None),
            "0.utterances[0].utterance: is not as expected: expected `str`, got `null`",
        ),
    ],
)
def test_bad_mantis(change: Any, expected: str, tmp_path: Path) -> None:
    data = json.loads((CASES / "mantis" / "merged_dev.json").read_text())
    change(data)
    (tmp_path / "mantis_dev.json").write_text(json.dumps(data))
    assert expected in problem("mantis", tmp_path, tmp_path / "out")


def test_mantis_files_that_cannot_be_told_apart(tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        shutil.copy(CASES / "mantis" / "merged_dev.json", tmp_path / name)
    assert "none named after a split" in problem("mantis", tmp_path, tmp_path / "out")
    for name in ("a_dev.json", "b_valid.json"):
        shutil.copy(CASES / "mantis" / "merged_dev.json", tmp_path / name)
    assert "b_valid.json: is a second file for dev" in problem("mantis", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "train.csv: does not begin with the line text,category"),
        (b"label,text\n", "train.csv: does not begin with the line text,category"),
        (b"text,category\nhello,greeting\n", "train.csv:2: there is no category 'greeting' in BANKING77"),
        (b"text,category\nhello\n", "train.csv:2: has 1 columns, not 2"),
        (b'text,category\n"hello,age_limit\n', "train.csv: cannot be read as CSV: unexpected end of data"),
        (b"text,category\n\xff,age_limit\n", "train.csv: cannot be read as CSV: "),
    ],
)
def test_bad_banking77(text: bytes, expected: str, tmp_path: Path) -> None:
    shutil.copytree(CASES / "banking77", tmp_path / "banking_data")
    (tmp_path / "banking_data" / "train.csv").write_bytes(text)
    assert expected in problem("banking77", tmp_path, tmp_path / "out")


def test_banking77_needs_both_files(tmp_path: Path) -> None:
    shutil.copy(CASES / "banking77" / "train.csv", tmp_path)
    assert "no train.csv with a test.csv beside it" in problem("banking77", tmp_path, tmp_path / "out")
    assert "is not a folder" in problem("banking77", tmp_path / "train.csv", tmp_path / "out")


def test_an_unknown_name_and_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert "there are clinc150, clinc150-multi, sgd, mantis, banking77" in problem("imdb", tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        rebuild("clinc150", CASES / "clinc150", tmp_path / "file")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.text(max_size=12) | st.sampled_from(["weather", "oos", "NONE", "Hotels_1", "SearchHotel", "a\ud800b", "A_1"])
NEARLY = {
    "clinc150": st.fixed_dictionaries(
        {
            key: st.lists(st.tuples(WORDS, st.sampled_from(["weather", "alarm", "yes", "oos"]) | WORDS), max_size=3)
            for key in ("train", "val", "test", "oos_train", "oos_val", "oos_test")
        }
    ),
    "mantis": st.dictionaries(
        WORDS,
        st.fixed_dictionaries(
            {
                "category": st.sampled_from(["apple", "diy"]) | WORDS,
                "utterances": st.lists(
                    st.fixed_dictionaries({"actor_type": st.sampled_from(["user", "agent"]), "utterance": WORDS})
                ),
            }
        ),
        max_size=3,
    ),
    "sgd": st.lists(
        st.fixed_dictionaries(
            {
                "dialogue_id": WORDS,
                "turns": st.lists(
                    st.fixed_dictionaries(
                        {
                            "speaker": st.sampled_from(["USER", "SYSTEM"]),
                            "utterance": WORDS,
                            "frames": st.lists(
                                st.fixed_dictionaries(
                                    {"service": WORDS},
                                    optional={
                                        "actions": st.lists(
                                            st.fixed_dictionaries(
                                                {"act": st.sampled_from(["INFORM_INTENT", "INFORM", "GOODBYE"])}
                                            ),
                                            max_size=2,
                                        ),
                                        "state": st.fixed_dictionaries({"active_intent": WORDS}),
                                    },
                                ),
                                max_size=2,
                            ),
                        }
                    ),
                    max_size=3,
                ),
            }
        ),
        max_size=3,
    ),
}
SCHEMA = st.lists(
    st.fixed_dictionaries(
        {"service_name": WORDS, "intents": st.lists(st.fixed_dictionaries({"name": WORDS, "description": WORDS}))},
    ),
    max_size=3,
)


def anything_but_another_error(name: str, location: Path, out: Path) -> None:
    """A result that loads, or a DataError that says where."""
    try:
        written = rebuild(name, location, out)
    except DataError as error:
        assert all(each.file for each in error.problems)  # noqa: PT017 - either will do
        return
    for path in written[:-1]:
        dataset.load(out, split=path.parent.name, only=[name])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_json_gives_a_result_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(NEARLY)))
    value = json.dumps(data.draw(JSON | NEARLY[kind]))
    folder = tmp_path_factory.mktemp("any")
    if kind == "sgd":
        (folder / "dev").mkdir()
        (folder / "dev" / "dialogues_001.json").write_text(value)
        (folder / "dev" / "schema.json").write_text(json.dumps(data.draw(JSON | SCHEMA)))
        anything_but_another_error("sgd", folder, folder / "out")
        return
    (folder / "data_full.json").write_text(value)
    for name in ("clinc150", "clinc150-multi") if kind == "clinc150" else ("mantis",):
        anything_but_another_error(name, folder / "data_full.json", folder / name)


@given(st.lists(st.lists(st.text(max_size=9) | st.just("age_limit"), max_size=3), max_size=5), st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_csv_gives_a_result_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], tail: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    text = io.StringIO()
    csv.writer(text).writerows([["text", "category"], *rows])
    (folder / "train.csv").write_bytes(text.getvalue().encode("utf-8", "replace") + tail)
    shutil.copy(CASES / "banking77" / "test.csv", folder)
    anything_but_another_error("banking77", folder, folder / "out")


# Archives -------------------------------------------------------------------------------------------------------------


def zipped(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path("repository-main") / path.relative_to(folder))
    return file


def tarred(folder: Path, file: Path) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, "repository-main")
    return file


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ORIGINALS)
def test_an_archive_is_as_good_as_its_folder(name: str, pack: Any, tmp_path: Path) -> None:
    archive = pack(CASES / FOLDERS[name], tmp_path / ("a.zip" if pack is zipped else "a.tar.gz"))
    made = rebuild(name, archive, tmp_path / "packed")
    plain = rebuild(name, CASES / FOLDERS[name], tmp_path / "plain")
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in plain]


def test_a_problem_inside_an_archive_is_named_by_the_archive(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data_full.json").write_text("{}")
    archive = zipped(tmp_path / "data", tmp_path / "oos-eval.zip")
    said_of = problem("clinc150", archive, tmp_path / "out")
    assert said_of.startswith(f"{archive}/repository-main/data_full.json: is not as expected")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_cut_anywhere(pack: Any, tmp_path: Path) -> None:
    archive = pack(CASES / "clinc150", tmp_path / ("a.zip" if pack is zipped else "a.tar.gz"))
    whole = archive.read_bytes()
    for size in range(0, len(whole) - 16, 7):
        archive.write_bytes(whole[:size])
        anything_but_another_error("clinc150", archive, tmp_path / "out")
    archive.write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert "archive" in problem("clinc150", archive, tmp_path / "out")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_archive(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    pack = data.draw(st.sampled_from([zipped, tarred]))
    archive = pack(CASES / "clinc150", folder / ("a.zip" if pack is zipped else "a.tar.gz"))
    damaged = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(damaged)
    anything_but_another_error("clinc150", archive, folder / "out")


@pytest.mark.parametrize(
    "entry",
    ["../data_full.json", "a/../../data_full.json", "/data_full.json", "C:\\data_full.json", "..\\data_full.json"],
)
def test_an_archive_that_would_write_elsewhere(entry: str, tmp_path: Path) -> None:
    text = (CASES / "clinc150" / "data_full.json").read_bytes()
    bad_zip, bad_tar = tmp_path / "in" / "bad.zip", tmp_path / "in" / "bad.tar.gz"
    bad_zip.parent.mkdir()
    with zipfile.ZipFile(bad_zip, "w") as archive:
        archive.writestr(entry, text)
    with tarfile.open(bad_tar, "w:gz") as archive:
        member = tarfile.TarInfo(entry)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    for bad in (bad_zip, bad_tar):
        assert "is not unpacked, for one of its entries" in problem("clinc150", bad, tmp_path / "out")
    assert not list(tmp_path.rglob("data_full.json"))


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    bad_zip = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad_zip, "w") as archive:
        link = zipfile.ZipInfo("data_full.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "is a link" in problem("clinc150", bad_zip, tmp_path / "out")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        bad_tar = tmp_path / "bad.tar.gz"
        with tarfile.open(bad_tar, "w:gz") as archive:
            member = tarfile.TarInfo("data_full.json")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        assert "is a link or a device" in problem("clinc150", bad_tar, tmp_path / "out")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_that_swells(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "UNPACKED_LIMIT", 200)
    archive = pack(CASES / "clinc150", tmp_path / ("a.zip" if pack is zipped else "a.tar.gz"))
    assert "holds more than 200 bytes, which no original does" in problem("clinc150", archive, tmp_path / "out")


def test_what_macos_adds_to_an_archive_is_no_original(tmp_path: Path) -> None:
    archive = zipped(CASES / "mantis", tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("__MACOSX/repository-main/._merged_dev.json", b"\0")
        more.writestr("repository-main/._merged_train.json", b"\0")
    assert len(rebuild("mantis", archive, tmp_path / "out")) == 3


# Addresses ------------------------------------------------------------------------------------------------------------


class _Answers(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?to=")[2])
            self.end_headers()
        elif self.path == "/broken.json":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{")
        elif self.path == "/endless.json":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b" " * 5000)
        elif self.path == "/mute":
            self.wfile.write(b"hello\r\n\r\n")
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A loopback web site with the cases as archives and files."""
    monkeypatch.setenv("no_proxy", "*")
    root = tmp_path / "site"
    shutil.copytree(CASES, root)
    zipped(CASES / "sgd", root / "sgd.zip")
    tarred(CASES / "banking77", root / "archive")
    handler = cast("type[BaseHTTPRequestHandler]", functools.partial(_Answers, directory=str(root)))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("clinc150", "/clinc150/data_full.json"),
        ("clinc150-multi", "/moved?to=/clinc150/data_full.json"),
        ("mantis", "/mantis/merged_dev.json?download=1"),
        ("sgd", "/sgd.zip"),
        ("banking77", "/archive"),
    ],
)
def test_an_original_is_fetched_from_its_address(name: str, path: str, site: str, tmp_path: Path) -> None:
    written = rebuild(name, site + path, tmp_path / "out")
    here = CASES / FOLDERS[name] / "merged_dev.json" if name == "mantis" else CASES / FOLDERS[name]
    plain = rebuild(name, here, tmp_path / "plain")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in plain]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/nothing.zip", "/nothing.zip: was answered with 404 File not found; check the address"),
        ("/broken.json", "/broken.json: broke off after 1 of 1,000 bytes; try again"),
        ("/mute", "/mute: cannot be fetched: "),
        ("/moved?to=ftp://127.0.0.1/data", "/moved: cannot be fetched: unknown url type: ftp"),
        ("/moved?to=file:///etc/passwd", "/moved: was answered with 302"),
        ("/clinc150/?key=sk-secret", "/clinc150: is no JSON: "),
        ("/banking77/train.csv", "/banking77/train.csv: is no JSON: "),
    ],
)
def test_an_address_that_gives_no_original(path: str, expected: str, site: str, tmp_path: Path) -> None:
    said_of = problem("clinc150", site + path, tmp_path / "out")
    assert said_of.startswith(site + expected)
    assert "secret" not in said_of


def test_a_download_has_a_limit(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOAD_LIMIT", 1000)
    told = problem("clinc150", site + "/clinc150/data_full.json", tmp_path / "out")
    assert "bytes, above the limit of 1,000 bytes, which no original here comes near" in told
    assert "goes on beyond the limit of 1,000 bytes" in problem("clinc150", site + "/endless.json", tmp_path / "out")


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://127.0.0.1/data.zip", "data://text", "://", "HTTPX://host/x", "javascript://x"],
)
def test_other_schemes_are_refused(address: str, tmp_path: Path) -> None:
    assert "is not fetched: only http and https are" in problem("clinc150", address, tmp_path / "out")


@pytest.mark.parametrize(
    "address", ["http://", "http://[", "http://127.0.0.1:port/x", "https://127.0.0.1:1/x y", "http:///x"]
)
def test_addresses_that_are_none(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert problem("clinc150", address, tmp_path / "out").startswith(address)


def test_no_secret_of_an_address_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    said_of = problem("clinc150", "http://me:sk-1@127.0.0.1:1/data.zip?token=sk-2#sk-3", tmp_path / "out")
    assert said_of.startswith("http://127.0.0.1:1/data.zip: cannot be fetched")
    assert "sk-" not in said_of


# The policy sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), SETS.items())
def test_a_shipped_policy_set(name: str, size: int) -> None:
    taxonomy = shipped(name)
    assert taxonomy.name == name
    ids = [entry.name for entry in taxonomy.policies]
    assert len(ids) == len(set(ids)) == size
    assert all(len(id.split(".")) == 2 and id.replace(".", "_").isidentifier() and id == id.lower() for id in ids)
    if taxonomy.domains:
        assert [entry.name for entry in taxonomy.domains] == list(dict.fromkeys(id.split(".")[0] for id in ids))
    entries = [*taxonomy.policies, *taxonomy.domains]
    assert [each.name for each in entries if not 5 <= len(each.description.split()) <= 20] == []
    assert len({each.description.lower() for each in entries}) == len(entries)


def test_every_policy_set_is_some_originals() -> None:
    folder = Path(fetch.__file__).parent / "policies"
    assert {file.stem for file in folder.glob("*.json")} == set(SETS)
    assert {built(name).taxonomy.name for name in ORIGINALS} == set(SETS)


def test_an_original_says_where_it_comes_from() -> None:
    for name, original in ORIGINALS.items():
        assert original.name == name
        assert original.licence
        assert "20" in original.citation
        assert "repository" in original.where


# The labels as the authors write them. A name is a fact; which texts carry it is in the originals alone.
CLINC150 = """
accept_reservations account_blocked alarm application_status apr are_you_a_bot balance bill_balance bill_due
book_flight book_hotel calculator calendar calendar_update calories cancel cancel_reservation car_rental card_declined
carry_on change_accent change_ai_name change_language change_speed change_user_name change_volume confirm_reservation
cook_time credit_limit credit_limit_change credit_score current_location damaged_card date definition direct_deposit
directions distance do_you_have_pets exchange_rate expiration_date find_phone flight_status flip_coin food_last
freeze_account fun_fact gas gas_type goodbye greeting how_busy how_old_are_you improve_credit_score income
ingredient_substitution ingredients_list insurance insurance_change interest_rate international_fees
international_visa jump_start last_maintenance lost_luggage make_call maybe meal_suggestion meaning_of_life
measurement_conversion meeting_schedule min_payment mpg new_card next_holiday next_song no nutrition_info
oil_change_how oil_change_when order order_checks order_status pay_bill payday pin_change play_music plug_type
pto_balance pto_request pto_request_status pto_used recipe redeem_rewards reminder reminder_update repeat
replacement_card_duration report_fraud report_lost_card reset_settings restaurant_reservation restaurant_reviews
restaurant_suggestion rewards_balance roll_dice rollover_401k routing schedule_maintenance schedule_meeting
share_location shopping_list shopping_list_update smart_home spelling spending_history sync_device taxes tell_joke
text thank_you time timer timezone tire_change tire_pressure todo_list todo_list_update traffic transactions transfer
translate travel_alert travel_notification travel_suggestion uber update_playlist user_name vaccines w2 weather
what_are_your_hobbies what_can_i_ask_you what_is_your_name what_song where_are_you_from whisper_mode
who_do_you_work_for who_made_you yes
"""
BANKING77 = """
Refund_not_showing_up activate_my_card age_limit apple_pay_or_google_pay atm_support automatic_top_up
balance_not_updated_after_bank_transfer balance_not_updated_after_cheque_or_cash_deposit beneficiary_not_allowed
cancel_transfer card_about_to_expire card_acceptance card_arrival card_delivery_estimate card_linking card_not_working
card_payment_fee_charged card_payment_not_recognised card_payment_wrong_exchange_rate card_swallowed
cash_withdrawal_charge cash_withdrawal_not_recognised change_pin compromised_card contactless_not_working
country_support declined_card_payment declined_cash_withdrawal declined_transfer direct_debit_payment_not_recognised
disposable_card_limits edit_personal_details exchange_charge exchange_rate exchange_via_app extra_charge_on_statement
failed_transfer fiat_currency_support get_disposable_virtual_card get_physical_card getting_spare_card
getting_virtual_card lost_or_stolen_card lost_or_stolen_phone order_physical_card passcode_forgotten
pending_card_payment pending_cash_withdrawal pending_top_up pending_transfer pin_blocked receiving_money
request_refund reverted_card_payment? supported_cards_and_currencies terminate_account top_up_by_bank_transfer_charge
top_up_by_card_charge top_up_by_cash_or_cheque top_up_failed top_up_limits top_up_reverted topping_up_by_card
transaction_charged_twice transfer_fee_charged transfer_into_account transfer_not_received_by_recipient
transfer_timing unable_to_verify_identity verify_my_identity verify_source_of_funds verify_top_up
virtual_card_not_working visa_or_mastercard why_verify_identity wrong_amount_of_cash_received
wrong_exchange_rate_for_cash_withdrawal
"""


def test_every_label_has_its_policy() -> None:
    assert sorted(by_action(shipped("clinc150"))) == sorted(CLINC150.split())
    assert sorted(by_action(shipped("banking77"))) == sorted(map(banking77.action, BANKING77.split()))


def test_every_policy_that_sgd_maps_to_is_described() -> None:
    from pointsman.evals.originals import sgd

    known = {entry.name for entry in shipped("sgd").policies}
    assert set(sgd._POLICIES.values()) == known
