"""Reading labelled data: what is right is read, and whatever is wrong is named with file, line and mend."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import dataset
from pointsman.dataset import Dataset, Example, Label
from pointsman.errors import DataError
from pointsman.policy import Policy, PolicySet

SET = {
    "name": "desk",
    "policies": [
        {"name": "legal.summarize", "domain": "legal", "action": "summarize", "description": "Shorten a contract"},
        {"name": "code.write", "description": "Write a program", "examples": ["a script that renames files"]},
    ],
    "domains": [{"name": "legal", "description": "The law"}],
}
GOOD = {
    "id": "one",
    "source": "desk",
    "policies": "desk",
    "messages": [
        {"role": "user", "content": "Shorten this."},
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": "Thanks!"},
    ],
    "turns": [{"index": 0, "policy": "legal.summarize"}, {"index": 2, "policy": None, "closing": True}],
    "meta": {"attribution": "nobody"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "desk.json").write_text(json.dumps(SET))
    (tmp_path / "dev").mkdir()
    return tmp_path


def put(folder: Path, *lines: object, name: str = "dev/desk.jsonl.gz") -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def problems(path: Path, **options: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        dataset.load(path, **options)  # type: ignore[arg-type]
    return [problem.located() for problem in caught.value.problems]


def test_a_folder_of_splits_and_policies(folder: Path) -> None:
    put(folder, GOOD)
    found = dataset.load(folder)
    (source,) = found.sources
    assert (source.name, source.split, source.file, source.turns) == ("desk", "dev", "dev/desk.jsonl.gz", 2)
    (example,) = source.examples
    assert example.turns == (Label(index=0, policy="legal.summarize"), Label(index=2, policy=None, closing=True))
    assert [turn.text for turn in example.upto(0).turns] == ["Shorten this."]
    taxonomy = found.taxonomies["desk"]
    assert taxonomy.policies.ids == ("legal.summarize", "code.write")
    assert taxonomy.policies["code.write"].examples == ("a script that renames files",)
    assert taxonomy.domains.ids == ("legal",)


def test_a_folder_of_files_with_policies_elsewhere(folder: Path, tmp_path: Path) -> None:
    put(folder, GOOD, name="flat/desk.jsonl")
    found = dataset.load(folder / "flat", policies=folder / "policies")
    assert [(source.name, source.split) for source in found.sources] == [("desk", "")]


def test_dev_is_taken_unless_another_split_is_named(folder: Path) -> None:
    put(folder, GOOD)
    put(folder, GOOD | {"id": "two"}, name="test/desk.jsonl.gz")
    assert [source.split for source in dataset.load(folder).sources] == ["dev"]
    assert dataset.load(folder, split="test").sources[0].examples[0].id == "two"
    (said,) = problems(folder, split="train")
    assert said.startswith(f"{folder / 'train'}: holds no .jsonl.gz")


def test_several_splits_without_dev_must_be_chosen_from(folder: Path) -> None:
    put(folder, GOOD, name="a/desk.jsonl.gz")
    put(folder, GOOD, name="b/desk.jsonl.gz")
    assert problems(folder) == [f"{folder}: has the splits a, b; choose one with --split"]


def test_sources_are_chosen_by_name(folder: Path) -> None:
    put(folder, GOOD)
    put(folder, GOOD, name="dev/other.jsonl")
    assert [source.name for source in dataset.load(folder, only=["other"]).sources] == ["other"]
    assert problems(folder, only=["nope"]) == [f"{folder / 'dev'}: has no source nope; there are desk, other"]


def test_ones_own_file_is_judged_by_ones_own_policies(tmp_path: Path) -> None:
    policies = PolicySet([Policy(id="legal", description="The law"), Policy(id="legal.sue", description="Go to court")])
    own = dataset.taxonomy("mine", policies)
    file = tmp_path / "log.jsonl"
    file.write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Sue"}], "policy": "legal.sue"}\n'
        "\n"
        '{"id": 7, "messages": [{"role": "user", "content": "Hi"}], "policy": null}\n'
    )
    (source,) = dataset.load(file, own=own).sources
    assert [(each.id, each.policies, each.turns) for each in source.examples] == [
        (source.examples[0].id, "mine", (Label(index=1, policy="legal.sue"),)),
        ("7", "mine", (Label(index=0, policy=None),)),
    ]
    assert own.domains.ids == ("legal",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is no labelled conversation: "),
        ("[1]", "is no labelled conversation: Expected `object`, got `array`"),
        (GOOD | {"messages": 5}, "is no labelled conversation: Expected `array`, got `int` - at `$.messages`"),
        (GOOD | {"messages": []}, "messages: no message is a user's"),
        (GOOD | {"policies": "shop"}, "policies: there is no policy set 'shop'; the sets given are: desk"),
        (GOOD | {"policies": None}, "policies: names no policy set; name one, or give a policy file with -c"),
        (
            GOOD | {"turns": [{"index": 0, "policy": "legal.sue"}]},
            "turns[0].policy: 'legal.sue' is not in the set 'desk'; null says that none fits",
        ),
        (
            GOOD | {"turns": [{"index": 0, "policy": None}, {"index": 1, "policy": None}]},
            "turns[1].index: 1 is no user turn; user turns are 0, 2",
        ),
        (GOOD | {"turns": [{"index": 9, "policy": None}]}, "turns[0].index: 9 is no user turn; user turns are 0, 2"),
        (GOOD | {"turns": [{"index": 0, "policy": None}] * 2}, "turns[1].index: 0 is labelled twice"),
        (GOOD | {"turns": [{"index": 0}]}, "is no labelled conversation: Object missing required field `policy`"),
        ({"policies": "desk", "messages": GOOD["messages"]}, "turns: there is no label; write "),
        (GOOD | {"policy": None}, "policy: there are turns too; label turns, or the newest with policy, not both"),
        (
            GOOD | {"turns": [{"index": 0, "policy": "code.write", "closing": True}]},
            "turns[0].closing: a turn that only closes has no policy; write null for it",
        ),
        (GOOD, "id: 'one' is line 1's too; give every example its own id"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_measured_only_if_asked(folder: Path, line: object, said: str) -> None:
    file = put(folder, GOOD, line, GOOD | {"id": "three"})
    (found,) = problems(folder)
    assert found.startswith(f"{file}:2: {said}")
    kept = dataset.load(folder, skip_bad=True)
    assert [each.id for each in kept.sources[0].examples] == ["one", "three"]
    assert [problem.located() for problem in kept.skipped] == [found]


def test_all_problems_come_at_once(folder: Path) -> None:
    put(folder, "{", GOOD, "{")
    put(folder, "nonsense", name="dev/other.jsonl")
    (folder / "policies" / "bad.json").write_text("{}")
    assert [said.partition(": ")[0].rpartition("/")[2] for said in problems(folder)] == [
        "bad.json",
        "desk.jsonl.gz:1",
        "desk.jsonl.gz:3",
        "other.jsonl:1",
    ]


def test_a_truncated_gzip_stream_is_named_with_the_line_where_it_ends(folder: Path) -> None:
    file = put(folder, *(GOOD | {"id": str(number), "padding": [number] * 99} for number in range(500)))
    file.write_bytes(file.read_bytes()[:-2000])
    (said,) = problems(folder)
    number = int(said.removeprefix(f"{file}:").partition(":")[0])
    assert said.endswith("ends in the middle of its gzip stream; get the file again")
    kept = dataset.load(folder, skip_bad=True)
    assert len(kept.sources[0].examples) == number - 1 > 0


def test_what_is_no_gzip_is_named(folder: Path) -> None:
    file = put(folder, GOOD)
    file.write_bytes(b"plain text")
    (said,) = problems(folder)
    assert said.startswith(f"{file}:1: cannot be read: Not a gzipped file")


def test_a_broken_policy_set_is_not_skipped(folder: Path) -> None:
    put(folder, GOOD)
    file = folder / "policies" / "bad.json"
    file.write_text('{"name": "bad", "policies": [{"name": "a.b", "domain": "c", "description": ""}]}')
    (said,) = problems(folder, skip_bad=True)
    assert said == f"{file}: is not a policy set: the name 'a.b' is not its domain and action, 'c.b'"
    file.write_text(json.dumps(SET))
    (said,) = problems(folder)
    assert said.endswith("name: the set 'desk' is given twice")


def test_nothing_to_measure_is_an_error(folder: Path, tmp_path: Path) -> None:
    put(folder, "")
    assert problems(folder) == [f"{folder}: holds no labelled user turn"]
    assert problems(tmp_path / "nowhere")[0].endswith("is not there; give a folder of .jsonl.gz files, or one file")
    assert problems(folder, policies=tmp_path / "nowhere")[0].startswith(f"{tmp_path / 'nowhere'}: is not a folder")


def test_digests_of_the_texts_and_of_the_policies(folder: Path) -> None:
    put(folder, GOOD)
    before = dataset.load(folder)
    put(folder, GOOD | {"id": "two"})
    other = dataset.load(folder)
    assert (before.conversations != other.conversations, before.policies == other.policies) == (True, True)
    (folder / "policies" / "desk.json").write_text(json.dumps(SET).replace("Shorten a", "Cut a"))
    reworded = dataset.load(folder)
    assert (reworded.conversations == other.conversations, reworded.policies != other.policies) == (True, True)
    (folder / "policies" / "unnamed.json").write_text(json.dumps(dict(SET, name="unnamed")))
    assert dataset.load(folder).policies == reworded.policies, "a set that no line names is no part of it"


def test_an_id_that_is_not_given_follows_from_the_messages(tmp_path: Path) -> None:
    own = dataset.taxonomy("mine", PolicySet([Policy(id="a", description="A")]))
    lines = [json.dumps({"messages": [{"role": "user", "content": text}], "policy": "a"}) for text in ("x", "y", "x")]
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(lines))
    ids = [each.id for each in dataset.load(file, own=own).sources[0].examples]
    assert ids[2] == f"{ids[0]}-2"
    file.write_text("\n".join(['{"messages": [{"role": "user", "content": "new"}], "policy": null}', *lines]))
    assert [each.id for each in dataset.load(file, own=own).sources[0].examples][1:] == ids, "whatever comes before"


def test_odd_files_are_named(folder: Path) -> None:
    file = put(folder, GOOD)
    file.write_bytes(b"")
    assert problems(folder)[0].startswith(f"{file}:1: ends in the middle of its gzip stream")
    file.unlink()
    plain = folder / "dev" / "desk.jsonl"
    plain.write_text(json.dumps(GOOD), encoding="utf-16")
    assert problems(folder) == [f"{plain}:1: is UTF-16; write it as UTF-8"]
    plain.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert dataset.load(folder).sources[0].turns == 2
    assert problems(plain, only=["other"])[0].startswith(f"{plain}: is one file")
    assert problems(plain, split="dev")[0].startswith(f"{plain}: is one file")
    put(folder, GOOD)
    assert problems(folder) == [f"{file}: stands beside desk.jsonl; keep the one that is meant"]


def test_what_is_written_is_read_back(tmp_path: Path, folder: Path) -> None:
    put(folder, GOOD)
    (source,) = dataset.load(folder).sources
    dataset.dump(folder / "again" / "desk.jsonl.gz", source.examples)
    first = (folder / "again" / "desk.jsonl.gz").read_bytes()
    dataset.dump(folder / "again" / "desk.jsonl.gz", source.examples)
    assert (folder / "again" / "desk.jsonl.gz").read_bytes() == first
    assert dataset.load(folder, split="again").sources[0].examples == source.examples


def test_examples_come_from_the_training_part_of_the_same_source(folder: Path) -> None:
    put(folder, GOOD)
    asked = [GOOD | {"id": str(n), "messages": [{"role": "user", "content": f"Sum up {n}"}]} for n in range(9)]
    first = [each | {"turns": [{"index": 0, "policy": "legal.summarize"}]} for each in asked]
    put(folder, *first, name="train/desk.jsonl.gz")
    put(folder, *(GOOD | {"id": f"x{n}"} for n in range(3)), name="train/other.jsonl.gz")
    found = dataset.shown(dataset.load(folder), folder / "train", 3, seed=0)
    examples = found.taxonomies["desk"].policies["legal.summarize"].examples
    assert len(examples) == len(set(examples)) == 3
    assert all(text.startswith("Sum up ") for text in examples)
    assert found.taxonomies["desk"].policies["code.write"].examples == ()
    assert dataset.shown(dataset.load(folder), folder / "train", 3, seed=0).policies == found.policies
    with pytest.raises(DataError, match="holds none of these sources"):
        dataset.shown(dataset.load(folder), folder / "nowhere", 3, seed=0)


# Conversations that nobody needs to have labelled


def asked(text: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **more}


def unread(file: Path, **options: bool) -> list[str]:
    with pytest.raises(DataError) as caught:
        dataset.unlabelled(file, **options)
    return [problem.located() for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_labelled_and_unlabelled_lines_are_read_alike(tmp_path: Path, name: str) -> None:
    odd = asked("two", id=[], policy=5, turns="none", anything={"else": None})
    file = put(tmp_path, asked("one"), "", GOOD, odd, {"messages": []}, name=name)
    found, wrong = dataset.unlabelled(file)
    assert wrong == []
    assert [[turn.text for turn in each.readable] for each in found] == [
        ["one"],
        ["Shorten this.", "Here.", "Thanks!"],
        ["two"],
        [],
    ]


def test_lines_that_are_no_conversation_are_named_or_left_out(tmp_path: Path) -> None:
    deep = '{"messages": ' + "[" * 100_000
    file = put(
        tmp_path, asked("one"), "{", "[1]", asked("two"), {"id": 1}, {"messages": "text"}, deep, name="log.jsonl"
    )
    said = unread(file)
    assert [each.partition(": ")[0] for each in said] == [f"{file}:{line}" for line in (2, 3, 5, 6, 7)]
    assert all(": is no conversation: " in each for each in said)
    assert said[1].endswith("Expected `object`, got `array`")
    assert said[2].endswith("Object missing required field `messages`")
    found, wrong = dataset.unlabelled(file, skip_bad=True)
    assert [each.readable[0].text for each in found] == ["one", "two"]
    assert [problem.located() for problem in wrong] == said


@pytest.mark.parametrize("lines", [[], [""], [{"messages": []}], [asked(" ")]])
def test_a_file_in_which_nobody_asks_is_refused(tmp_path: Path, lines: list[object]) -> None:
    file = put(tmp_path, *lines, name="log.jsonl")
    assert unread(file) == unread(file, skip_bad=True) == [f"{file}: holds no user turn"]
    file = put(tmp_path, *lines, "{", name="log.jsonl")
    assert unread(file, skip_bad=True)[0] == f"{file}: holds no user turn"
    assert len(unread(file, skip_bad=True)) == 2


def test_a_gzip_stream_that_is_cut_short_is_named_and_what_came_before_kept(tmp_path: Path) -> None:
    file = put(tmp_path, *(asked(str(number), padding=[number] * 99) for number in range(500)), name="log.jsonl.gz")
    file.write_bytes(file.read_bytes()[:-2000])
    (said,) = unread(file)
    number = int(said.removeprefix(f"{file}:").partition(":")[0])
    assert said.endswith("ends in the middle of its gzip stream; get the file again")
    found, wrong = dataset.unlabelled(file, skip_bad=True)
    assert len(found) == number - 1 > 0
    assert [problem.located() for problem in wrong] == [said]


def test_a_file_of_conversations_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "log.jsonl.gz"
    empty.write_bytes(b"")
    assert unread(empty) == [f"{empty}:1: ends in the middle of its gzip stream; get the file again"]
    assert unread(empty, skip_bad=True)[0] == f"{empty}: holds no user turn"
    empty.write_bytes(b"plain text")
    assert unread(empty)[0].startswith(f"{empty}:1: cannot be read: Not a gzipped file")
    for missing in ("gone.jsonl", "gone.jsonl.gz"):
        assert "cannot be read: " in unread(tmp_path / missing)[0]
        assert "No such file" in unread(tmp_path / missing)[0]


def test_a_byte_order_mark_is_no_part_of_a_conversation(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(asked("one")) + "\n" + json.dumps(asked("two")), encoding="utf-8-sig")
    found, _ = dataset.unlabelled(file)
    assert [each.readable[0].text for each in found] == ["one", "two"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "policy", "role"]), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from([*GOOD, "policy"]), json_values) | json_values, min_size=1, max_size=3))
def test_any_json_is_read_or_named(tmp_path_factory: pytest.TempPathFactory, values: list[object]) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = folder / "any.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in values))
    own = dataset.taxonomy("mine", PolicySet([Policy(id="a", description="A")]))
    try:
        found: Dataset | None = dataset.load(file, own=own, skip_bad=True)
        wrong = found.skipped if found else ()
    except DataError as error:
        found, wrong = None, error.problems
    assert all(problem.file and problem.message for problem in wrong)
    if found:
        assert len(found.skipped) + len(found.sources[0].examples) == len(values)
        assert all(isinstance(each, Example) for each in found.sources[0].examples)
