"""What is built of a corpus: the same bytes, a split that holds, labels that are right in every set."""

import random
from pathlib import Path

import msgspec
import pytest

from pointsman import dataset
from pointsman.dataset import Dataset
from pointsman.errors import DataError
from pointsman.synth import build, corpus
from pointsman.synth.build import Plan
from pointsman.synth.corpus import Corpus
from pointsman.synth.offers import UNSURE
from tests.synth.folder import make

PLAN = Plan(drawn=40, versions=3, turns=12)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus.load(make(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="module")
def folder(written: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build.write(build.built(written, PLAN), out)
    return out


def loaded(folder: Path, split: str) -> Dataset:
    return dataset.load(folder, split=split)


def test_the_same_bytes_each_time_whatever_was_there(written: Corpus, folder: Path, tmp_path: Path) -> None:
    build.write(build.built(written, msgspec.structs.replace(PLAN, drawn=60)), tmp_path)
    random.seed(4)
    build.write(build.built(written, PLAN), tmp_path)
    files = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
    assert {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.*")} == files
    assert len(files) > 40


def test_nothing_of_anybody_elses_is_replaced(written: Corpus, tmp_path: Path) -> None:
    mine = tmp_path / "train" / "mine.jsonl.gz"
    theirs = tmp_path / "train" / "corpus.jsonl.gz"
    mine.parent.mkdir()
    mine.write_bytes(b"a year of labels")
    theirs.write_bytes(b"another corpus")
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz: is there, and was not made by this command"):
        build.write(build.packed(written), tmp_path)
    assert {file.name for file in tmp_path.rglob("*.*")} == {"mine.jsonl.gz", "corpus.jsonl.gz"}
    theirs.unlink()
    for _ in range(2):
        build.write(build.packed(written), tmp_path)
    assert mine.read_bytes() == b"a year of labels"


def test_another_seed_builds_something_else(written: Corpus) -> None:
    (_, _, one), (_, _, other) = (
        build.built(written, msgspec.structs.replace(PLAN, seed=seed))["train"] for seed in (1, 2)
    )
    assert one.examples != other.examples


def test_training_never_sees_what_is_held_out(written: Corpus, folder: Path) -> None:
    assert written.held_out == {"travel.visa", "travel.packing", "legal.rights"}
    train = loaded(folder, "train")
    ids = {item.id for item in written.heldout}
    used = {id for source in train.sources for each in source.examples for id in each.meta.get("items", [each.id])}
    assert used.isdisjoint(ids)
    assert used == {item.id for item in written.train}, "and all the rest is used"
    offered = {
        policy.description
        for source in train.sources
        for each in source.examples
        if source.name == "drawn"
        for policy in train.taxonomies[each.policies].policies
    }
    hidden = {text for id in written.held_out for text in written.catalogue[id].descriptions.values()}
    assert hidden.isdisjoint(offered)
    assert not any("home" in each.policies for source in train.sources for each in source.examples)


def test_every_label_is_what_the_set_says(written: Corpus) -> None:
    """In the teams' own sets, unperturbed: label by label against the offer."""
    items = {item.id: item for item in written.items}
    teams = build.built(written, PLAN)["heldout"][1]
    home = next(offer for offer in written.sets if offer.name == "home")
    labelled = 0
    for example in teams.examples:
        item = items[example.meta["items"][0]]  # type: ignore[index]
        assert example.messages == item.messages
        golds = {turn.index: home.gold(turn.work, written.catalogue) for turn in item.turns}
        assert {label.index: label.policy for label in example.turns} == {
            index: gold for index, gold in golds.items() if gold is not UNSURE
        }
        labelled += len(example.turns)
    assert labelled >= 12


def test_none_of_them_is_asked_but_not_mostly(folder: Path) -> None:
    for source in loaded(folder, "train").sources:
        labels = [label for each in source.examples for label in each.turns]
        nothing = sum(label.policy is None for label in labels) / len(labels)
        assert nothing < 0.5
        if source.name != "corpus":
            assert nothing > 0.05


def test_all_that_the_paper_does_is_done(written: Corpus) -> None:
    _, teams, drawn = build.built(written, PLAN)["train"]
    done = {how for part in (teams, drawn) for each in part.examples for how in each.meta["done"]}  # type: ignore[attr-defined]
    assert done == {"injected", "mixed", "careless"}
    sizes = {len(each.policies) for each in drawn.sets}
    assert len(sizes) > 3
    names = {policy.name for each in drawn.sets for policy in each.policies}
    assert {"legal.review", "review", "route_1", "Legal.Review"} <= names


def test_items_are_used_evenly(written: Corpus) -> None:
    _, _, drawn = build.built(written, PLAN)["train"]
    used = [each.meta["items"][0] for each in drawn.examples]  # type: ignore[index]
    counts = sorted(used.count(item.id) for item in written.train)
    assert counts[0] > 0
    # A small set may have one policy that few items ask for; the middle half is what tells.
    assert counts[3 * len(counts) // 4] <= 2 * counts[len(counts) // 4]


def test_the_whole_taxonomy_has_its_domains(folder: Path) -> None:
    data = loaded(folder, "heldout")
    whole = data.taxonomies["corpus"]
    assert len(whole.policies) == 9
    assert whole.domains.ids == ("cooking", "legal", "travel", "writing")


# The folder -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("split.yaml", "domains: [travel]", "domains: [space]", "split.yaml:1: domains[0]: there is no 'space'"),
        ("split.yaml", "sets: [home]", "sets: [house]", "there is no 'house'"),
        ("written/legal.txt", "", "", "is the same as the item on line 1"),
        ("written/legal.txt", "%% request review en", "%% request sue en", "'legal.sue' is no action"),
        ("sets/firm.yaml", "legal.review", "legal.sue", "'legal.sue' is in no file"),
        ("taxonomy/legal.yaml", "    terse: Desk of legal review\n", "", "actions.review.terse: is missing"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    place = make(tmp_path / "corpus") / file
    text = place.read_text()
    place.write_text(text.replace(old, new) if old else text + text.partition("\n\n")[0])
    with pytest.raises(DataError) as raised:
        corpus.load(tmp_path / "corpus")
    assert said in str(raised.value)


def test_a_digest_changes_with_every_part(tmp_path: Path) -> None:
    place = make(tmp_path / "corpus")
    seen = {corpus.load(place).digest}
    for file, old, new in (
        ("written/legal.txt", "do review", "Do review"),
        ("taxonomy/legal.yaml", "Matters of legal", "Affairs of legal"),
        ("sets/firm.yaml", "Mails to clients", "Letters to clients"),
        ("split.yaml", "[legal.rights]", "[]"),
    ):
        text = (place / file).read_text()
        assert old in text
        (place / file).write_text(text.replace(old, new))
        seen.add(corpus.load(place).digest)
    assert len(seen) == 5
