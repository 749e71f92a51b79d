"""Which texts stand in other data sets, and which only look alike."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import overlap
from pointsman.errors import DataError
from pointsman.overlap import Foreign, Overlap

LONG = "the tide table for the small harbour is wrong on every second Sunday of the month"
WORDS = tuple(LONG.lower().split())


def found(said: str, *foreign: str) -> Overlap | None:
    return Foreign({"bench": foreign}).find(said)


@pytest.mark.parametrize(
    "said",
    [
        "please freeze my card",
        "Please, freeze MY card!",
        "  please\n\tfreeze   my -- card … ",
        "“Please” (freeze) *my* card?!",
    ],
)
def test_a_whole_text_is_found_whatever_its_punctuation_and_case(said: str) -> None:
    assert found(said, "Please freeze my card.") == Overlap(source="bench", words=None)


@pytest.mark.parametrize("said", ["please freeze my card now", "please freeze my cards", "freeze my card please"])
def test_a_short_text_with_another_word_is_another_text(said: str) -> None:
    assert found(said, "please freeze my card") is None


@pytest.mark.parametrize("said", ["", "?!", "Thanks!", "thanks a lot", "freeze my card"])
def test_up_to_three_words_belong_to_nobody(said: str) -> None:
    assert found(said, said) is None


def test_eight_words_in_a_row_are_found_and_seven_are_not() -> None:
    eight, seven = " ".join(WORDS[2:10]), " ".join(WORDS[2:9])
    assert found(f"my boss says {eight}, is he right?", LONG) == Overlap(source="bench", words=WORDS[2:10])
    assert found(f"my boss says {seven}, is he right?", LONG) is None


def test_the_first_words_that_are_shared_are_named_and_the_words_may_be_written_otherwise() -> None:
    shouted = "Well: " + LONG.upper().replace(" ", " - ")
    assert found(shouted, LONG) == Overlap(source="bench", words=WORDS[:8])


def test_eight_words_with_a_gap_are_not_in_a_row() -> None:
    broken = [*WORDS[:6], "really", *WORDS[6:12]]
    assert found(" ".join(broken), LONG) is None


@pytest.mark.parametrize(
    "row",
    [
        "1 2 3 4 5 6 7 8 9 10 11 12 13",
        "2024 2025 2026 2027 2028 2029 2030 2031 2032",
        "no no no no no no no no no no",
        "ha ha ha, ho ho ho, ha ha ha, ho ho ho",
        "a b c d e f g h i j k l",
        "one two three 4 5 6 7 8",
    ],
)
def test_numbers_letters_and_repeated_words_in_a_row_are_no_text(row: str) -> None:
    assert found(f"sort {row} for me", f"add up {row} now") is None


def test_four_different_words_among_numbers_are_a_text() -> None:
    row = "flight 81 from gate 12 to Lisbon 7"
    assert found(f"is {row} late", f"book {row} today") is not None


def test_the_source_that_has_a_text_is_named_and_a_whole_text_goes_before_words_in_a_row() -> None:
    foreign = Foreign({"one": [LONG], "two": [f"I say that {LONG}"], "three": ["please freeze my card"]})
    assert foreign.find(LONG) == Overlap(source="one", words=None)
    assert foreign.find(f"I say that {LONG}") == Overlap(source="two", words=None)
    assert foreign.find(f"you say that {LONG}") is not None
    assert foreign.find("please freeze my card") == Overlap(source="three", words=None)
    assert foreign.find("what a lovely day it is today") is None
    assert Foreign({}).find(LONG) is None


@given(st.text(max_size=200), st.text(max_size=50), st.text(max_size=50))
def test_any_text_is_found_again_if_it_has_four_words(said: str, before: str, after: str) -> None:
    looked = Foreign({"bench": [said]})
    whole = looked.find(said)
    assert (whole is not None) == (len(overlap.words(said)) > 3)
    around = looked.find(f"{before} {said} {after}")
    assert around is None or around.words is None or len(around.words) == overlap.GRAM


# Reading the others ---------------------------------------------------------------------------------------------------


def row(*said: str) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return json.dumps({"messages": messages}).encode() + b"\n"


def test_user_turns_are_read_from_a_folder_packed_or_not_and_each_text_once(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "a.jsonl.gz").write_bytes(gzip.compress(row("hello", "hi", "freeze it") + b"\n" + row("hello")))
    (tmp_path / "b.jsonl").write_bytes(row("", "hi", "goodbye"))
    (tmp_path / "policies.json").write_text("{}")
    assert overlap.user_turns(tmp_path) == {"a.jsonl.gz": ["hello", "freeze it"], "b.jsonl": ["goodbye"]}
    assert overlap.user_turns(tmp_path / "b.jsonl") == {"b.jsonl": ["goodbye"]}
    assert overlap.user_turns() == {}


def test_files_of_one_name_are_read_together(tmp_path: Path) -> None:
    for part, said in (("dev", "one"), ("train", "two")):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.jsonl").write_bytes(row(said) + row("both"))
    assert overlap.user_turns(tmp_path) == {"a.jsonl": ["one", "both", "two"]}
    assert overlap.user_turns(tmp_path / "train", tmp_path / "dev") == {"a.jsonl": ["two", "both", "one"]}


def test_lines_without_messages_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n{"messages": 5}\n{"messages": [1, {"role": "user"}]}\n')
    assert overlap.user_turns(tmp_path) == {"a.jsonl": []}


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(each ^ 255 for each in content[middle:-8]) + content[-8:]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", b"no gzip"),
        ("a.jsonl.gz", gzip.compress(row(LONG))[:-12]),
        ("a.jsonl.gz", flipped(gzip.compress(b"".join(row(f"{LONG} {at}") for at in range(99))))),
        ("a.jsonl", b"no json"),
        ("a.jsonl", b"[1]"),
        ("a.jsonl", b'"text"'),
        ("a.jsonl", b'{"messages": "\xff"}'),
        ("a.jsonl", b'{"messages": ' + b"[" * 100_000),
    ],
)
def test_data_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "0.jsonl").write_bytes(row("fine"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read: ") as caught:
        overlap.user_turns(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "b.jsonl").write_bytes(row("fine"))
    for empty in (tmp_path / "none", tmp_path / "card.json" / "none"):
        with pytest.raises(DataError, match=r"holds no \.jsonl\.gz or \.jsonl file") as caught:
            overlap.user_turns(tmp_path, empty)
        assert str(caught.value).startswith(str(empty))
