"""What is learned from: nothing that is kept apart, dealt by number into batches that are what they say.

Needs no torch.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from pointsman.errors import DataError
from pointsman.training.mixture import READ_BACK, Mixture, Step, deal, gather
from pointsman.training.settings import Data, Plan
from tests.training.conftest import IDS, asked, put, put_set, row

LONG = "please find me one train for a hotel table it"


def told(data: Data) -> list[str]:
    with pytest.raises(DataError) as caught:
        gather(data)
    return [problem.located() for problem in caught.value.problems]


def folders(*paths: Path) -> tuple[str, ...]:
    return tuple(map(str, paths))


def steps(mixture: Mixture, plan: Plan, count: int = 200) -> list[Step]:
    return [deal(mixture, at, plan) for at in range(count)]


@pytest.fixture
def mixture(data: Path) -> Mixture:
    return gather(Data(folders=folders(data)))


# --- what is in it


def test_every_labelled_turn_is_an_example_with_what_was_said_before(mixture: Mixture) -> None:
    (talks,) = mixture.sources["talk"]
    assert {len(each.turns) for each in talks.examples[None]} == {3}
    assert {each.turns[-1].text for each in talks.examples[None]} == {"thanks"}
    assert [len(talks.examples[id]) for id in IDS] == [1] * len(IDS)
    assert {len(each.turns) for id in IDS for each in talks.examples[id]} == {1}


def test_no_more_is_read_back_than_a_network_can_use(data: Path) -> None:
    put(data / "train" / "talk.jsonl", [row("hotel.book", *["book hotel", "yes"] * 20, "thanks")])
    (talks,) = gather(Data(folders=folders(data))).sources["talk"]
    assert max(len(each.turns) for each in talks.examples[None]) == READ_BACK


def test_a_source_is_counted_for_the_card(mixture: Mixture) -> None:
    single, talk = mixture.figures
    assert (single.name, single.weight, single.conversations, single.turns, single.none) == ("single", 1.0, 63, 63, 3)
    assert (talk.name, talk.conversations, talk.turns, talk.none, talk.sets) == ("talk", 12, 24, 12, 1)
    assert single.sets == len(mixture.sources["single"]) == 3


def test_a_set_all_of_whose_turns_are_none_teaches_nothing(data: Path) -> None:
    put(data / "train" / "idle.jsonl", [row(None, "bye", policies="desk")] * 3)
    assert set(gather(Data(folders=folders(data))).sources) == {"single", "talk"}


def test_no_folder_and_a_folder_without_data_are_told(tmp_path: Path) -> None:
    assert told(Data()) == ["data.folders: names no folder; name one, or give --data"]
    (missing,) = told(Data(folders=folders(tmp_path / "nowhere")))
    assert missing.startswith(f"{tmp_path / 'nowhere'}: is not there")
    (empty,) = told(Data(folders=folders(tmp_path)))
    assert empty.startswith(f"{tmp_path / 'train'}: holds no .jsonl.gz or .jsonl file")


def test_bad_rows_are_told_all_at_once_with_file_and_line_or_left_out_and_counted(data: Path) -> None:
    good = row("hotel.book", "book hotel")
    unknown, unlabelled = row("hotel.paint", "book hotel"), {"policies": "all", "messages": good["messages"]}
    file = put(data / "train" / "bad.jsonl", [good, "{", unknown, row("hotel.find", "find hotel", policies="no")])
    other = put(data / "train" / "worse.jsonl.gz", [unlabelled, row("table.book", "book table")])
    found = told(Data(folders=folders(data)))
    assert [said.partition(": ")[0] for said in found] == [f"{file}:2", f"{file}:3", f"{file}:4", f"{other}:1"]
    assert "'hotel.paint' is not in the set 'all'" in found[1]
    assert "there is no policy set 'no'" in found[2]

    mixture = gather(Data(folders=folders(data), skip_bad=True))
    assert [(problem.file, problem.line) for problem in mixture.skipped] == [
        (str(file), 2),
        (str(file), 3),
        (str(file), 4),
        (str(other), 1),
    ]
    counted = {each.name: each.conversations for each in mixture.figures}
    assert (counted["bad"], counted["worse"]) == (1, 1)


def test_a_broken_policy_set_is_never_skipped(data: Path) -> None:
    (data / "policies" / "desk.json").write_text("{")
    found = told(Data(folders=folders(data), skip_bad=True))
    assert found[0].startswith(f"{data / 'policies' / 'desk.json'}: is not a policy set")


# --- folders, names and weights


def test_folders_are_learned_from_together_each_with_sets_of_its_own(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    put_set(other, "all", ["hotel.book", "bakery"])
    put(other / "train" / "more.jsonl", [row("bakery", "find me a table")])
    mixture = gather(Data(folders=folders(data, other)))
    assert set(mixture.sources) == {"single", "talk", "more"}
    (more,) = mixture.sources["more"]
    assert more.policies.ids == ("hotel.book", "bakery")
    assert len(mixture.sources["talk"][0].policies) == len(IDS)


@pytest.mark.parametrize("weights", [{}, {"talk": 0.0}])
def test_two_folders_with_a_source_of_one_name_are_refused(
    data: Path, tmp_path: Path, weights: dict[str, float]
) -> None:
    other = tmp_path / "other"
    put_set(other, "all", IDS)
    put(other / "train" / "talk.jsonl", [row("hotel.book", "book hotel")])
    (said,) = told(Data(folders=folders(data, other), weights=weights))
    assert said == f"{other}: there is talk already; rename one of the files, or merge them"


def test_weight_0_leaves_a_source_out(data: Path) -> None:
    mixture = gather(Data(folders=folders(data), weights={"talk": 0.0}))
    assert set(mixture.sources) == {each.name for each in mixture.figures} == {"single"}
    assert {step.source for step in steps(mixture, Plan())} == {"single"}


def test_weights_say_how_often_a_source_comes(data: Path) -> None:
    mixture = gather(Data(folders=folders(data), weights={"single": 3.0}))
    counted = Counter(step.source for step in steps(mixture, Plan(batch=1), 800))
    assert counted["single"] / 800 == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_for_a_source_that_is_not_there_is_refused(data: Path, weight: float) -> None:
    (said,) = told(Data(folders=folders(data), weights={"single": 2.0, "tlak": weight}))
    assert said == "data.weights: there is no source tlak; there are single, talk"


def test_a_source_that_is_left_out_whole_is_still_known(data: Path) -> None:
    apart = put(data / "held" / "held.jsonl", [row("hotel.book", LONG)])
    put(data / "train" / "copied.jsonl", [row("hotel.book", LONG)])
    mixture = gather(Data(folders=folders(data), apart=folders(apart), weights={"copied": 2.0}))
    assert set(mixture.sources) == {"single", "talk"}


def test_nothing_left_is_refused(data: Path) -> None:
    (said,) = told(Data(folders=folders(data), weights={"talk": 0.0, "single": 0.0}))
    assert said == "data: leaves nothing to learn from; look at weights and apart"


# --- what is kept apart


def learned(mixture: Mixture, source: str) -> set[str]:
    return {
        turn.text
        for each in mixture.sources[source]
        for examples in each.examples.values()
        for example in examples
        for turn in example.turns
    }


def test_a_conversation_that_shares_a_turn_or_eight_words_with_data_kept_apart_is_left_out(data: Path) -> None:
    apart = put(
        data / "held" / "bench.jsonl.gz",
        [row("hotel.book", "Please book a HOTEL!"), row("train.find", LONG), row("train.find", "thanks for it")],
    )
    eight = f"yes yes {' '.join(LONG.split()[1:9])} bye"
    seven = f"yes yes {' '.join(LONG.split()[1:8])} bye"
    rows = [
        row("hotel.book", "please, book a hotel"),
        row("hotel.book", "book table", "which one", "please book a hotel"),
        row("hotel.find", eight),
        row("hotel.find", seven),
        row("hotel.find", "thanks for it"),
        row("hotel.cancel", "cancel hotel", "please book a hotel", "bye bye"),
    ]
    put(data / "train" / "mine.jsonl", rows)
    mixture = gather(Data(folders=folders(data), apart=folders(apart)))
    assert mixture.overlapping == {"bench.jsonl.gz": 3}
    assert learned(mixture, "mine") == {
        seven,
        "thanks for it",
        "cancel hotel",
        "please book a hotel",  # said by an assistant
        "bye bye",
    }
    assert next(each for each in mixture.figures if each.name == "mine").conversations == 3


def test_folders_kept_apart_may_have_files_of_one_name(data: Path, tmp_path: Path) -> None:
    said = {"one": "find me one hotel please", "two": "find me one table please"}
    for name, text in said.items():
        put(tmp_path / "apart" / name / "held.jsonl", [row("hotel.find", text)])
    put(data / "train" / "mine.jsonl", [row("hotel.find", text) for text in (*said.values(), "find it for me please")])
    for apart in (folders(tmp_path / "apart"), folders(tmp_path / "apart" / "one", tmp_path / "apart" / "two")):
        mixture = gather(Data(folders=folders(data), apart=apart))
        assert mixture.overlapping == {"held.jsonl": 2}
        assert learned(mixture, "mine") == {"find it for me please"}


def test_data_kept_apart_that_are_not_there_are_refused(data: Path, tmp_path: Path) -> None:
    (said,) = told(Data(folders=folders(data), apart=folders(tmp_path / "gone")))
    assert said == f"{tmp_path / 'gone'}: holds no .jsonl.gz or .jsonl file"


# --- steps


def test_a_step_depends_on_its_number_and_the_seed_alone(data: Path, mixture: Mixture) -> None:
    plan = Plan(seed=3)
    first = steps(mixture, plan, 20)
    random.seed(17)
    backwards = [deal(gather(Data(folders=folders(data))), at, plan) for at in reversed(range(20))]
    assert list(reversed(backwards)) == first
    assert all(step != other for step, other in itertools.pairwise(first))
    assert all(step != other for step, other in zip(first, steps(mixture, Plan(seed=4), 20), strict=True))


def test_a_label_is_the_place_of_the_examples_policy_or_one_past_the_last(mixture: Mixture) -> None:
    nobodys = 0
    for step in steps(mixture, Plan(laid=6)):
        ids = [policy.id for policy in step.policies]
        assert len(set(ids)) == len(ids)
        assert len(step.labels) == len(step.examples) == 32
        for each, label in zip(step.examples, step.labels, strict=True):
            assert (ids[label] == each.policy) if label < len(ids) else (each.policy not in ids)
            nobodys += label == len(ids) and each.policy is not None
    assert nobodys  # a policy that is not laid out is none of those that are


def test_a_set_of_a_source_with_several_is_laid_out_whole_in_any_order(mixture: Mixture) -> None:
    sets = {each.policies.ids for each in mixture.sources["single"]}
    found = [tuple(policy.id for policy in step.policies) for step in steps(mixture, Plan()) if step.source == "single"]
    assert {tuple(sorted(ids)) for ids in found} == {tuple(sorted(ids)) for ids in sets}
    assert len({ids for ids in found if len(ids) == 4}) > 24  # each of two sets in more than half of its orders


def domains(step: Step) -> Counter[str]:
    return Counter(policy.domain for policy in step.policies)


def test_of_a_set_for_everything_a_part_is_laid_out_half_of_it_alike(mixture: Mixture) -> None:
    sizes: set[int] = set()
    for step in steps(mixture, Plan(laid=8)):
        if step.source == "talk":
            sizes.add(len(step.policies))
            assert max(domains(step).values()) >= (len(step.policies) + 1) // 2
    assert sizes == {6, 7, 8}


def test_policies_that_nobody_asks_for_are_laid_out_only_in_a_whole_set(data: Path) -> None:
    put_set(data, "all", [*IDS, "bakery"])
    mixture = gather(Data(folders=folders(data)))
    laid = {step.source: set[str]() for step in steps(mixture, Plan())}
    for step in steps(mixture, Plan()):
        laid[step.source] |= {policy.id for policy in step.policies}
    assert "bakery" in laid["single"]
    assert laid["talk"] == set(IDS)


def nones(found: Iterable[Step]) -> float:
    labels = [label == len(step.policies) for step in found for label in step.labels]
    return sum(labels) / len(labels)


@pytest.mark.parametrize("share", [0.0, 0.12, 0.5, 1.0])
def test_the_plan_says_how_much_of_a_batch_is_for_none_of_the_policies(mixture: Mixture, share: float) -> None:
    assert nones(steps(mixture, Plan(strangers=share))) == pytest.approx(share, abs=0.02 if 0 < share < 1 else 0)


def test_where_every_policy_is_laid_out_and_every_turn_has_one_there_is_no_none(data: Path) -> None:
    put(data / "train" / "single.jsonl.gz", [row(id, asked(id), policies="desk") for id in IDS[:4]])
    put(data / "train" / "talk.jsonl", [row(id, asked(id)) for id in IDS])
    mixture = gather(Data(folders=folders(data)))
    assert nones(steps(mixture, Plan(strangers=1.0, laid=12))) > 0
    only = gather(Data(folders=folders(data), weights={"talk": 0.0}))
    assert nones(steps(only, Plan(strangers=1.0))) == 0


# --- its digest


def test_the_digest_changes_with_data_policies_and_weights_and_with_nothing_else(data: Path) -> None:
    def digest(weights: dict[str, float] | None = None, apart: tuple[str, ...] = ()) -> str:
        return gather(Data(folders=folders(data), weights=weights or {}, apart=apart)).digest

    first = digest()
    assert len(first) == 16
    assert digest() == digest({"talk": 1.0}) == first
    apart = put(data / "held" / "held.jsonl", [row("hotel.book", f"{asked(IDS[0])} for me")])
    changed = [
        digest({"talk": 2.0}),
        digest({"talk": 0.0}),
        digest(apart=folders(apart)),
    ]
    file = data / "policies" / "desk.json"
    written = file.read_text()
    file.write_text(json.dumps(json.loads(written.replace("hotel book", "book me a hotel"))))
    changed.append(digest())
    file.write_text(written)
    assert digest() == first
    put(data / "train" / "talk.jsonl", [row(IDS[0], "find me a table")] * 12)
    changed.append(digest())
    assert len({first, *changed}) == 6
