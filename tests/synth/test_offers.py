"""What is right for a turn in a set: exact, coarse, none of them, or one could argue."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import DataError
from pointsman.policy import Policy
from pointsman.synth import catalogue as taxonomy
from pointsman.synth import offers
from pointsman.synth.catalogue import HANDS, Catalogue, Work
from pointsman.synth.offers import UNSURE, Gold, Offer, Offered


def catalogue(near: dict[str, set[str]] | None = None) -> Catalogue:
    """legal.{review,draft,rights}, writing.{mail,report}, cooking.{recipe,plan}."""
    works: dict[str, Work] = {}
    for domain, actions in {
        "legal": ("review", "draft", "rights"),
        "writing": ("mail", "report"),
        "cooking": ("recipe", "plan"),
    }.items():
        for id in (domain, *(f"{domain}.{action}" for action in actions)):
            works[id] = Work(
                id=id,
                names=(f"{id.rpartition('.')[2]}_alias",),
                descriptions={hand: f"{hand} of {id}" for hand in HANDS},
                near=frozenset((near or {}).get(id, ())),
            )
    return Catalogue(works=works)


def offer(*, strict: bool = False, unsure: tuple[str, ...] = (), outside: tuple[str, ...] = (), **covers: str) -> Offer:
    """Policies by name, each covering what is named, separated by spaces; `__` in a name is a dot."""
    entries = tuple(
        Offered(policy=Policy(id=name.replace("__", "."), description=f"About {name}"), covers=frozenset(works.split()))
        for name, works in covers.items()
    )
    return Offer(name="set", entries=entries, strict=strict, unsure=frozenset(unsure), outside=frozenset(outside))


NEAR = {"legal.draft": {"writing.mail"}}

CASES: list[tuple[str, Offer, str | None, Gold]] = [
    ("its own policy", offer(a="legal.review", b="legal.draft"), "legal.review", "a"),
    ("asks for nothing", offer(a="legal.review"), None, None),
    ("its domain's policy", offer(a="legal"), "legal.rights", "a"),
    ("the action beats the domain", offer(a="legal", b="legal.review"), "legal.review", "b"),
    ("a domain left to its other actions", offer(a="legal", b="legal.review"), "legal.draft", "a"),
    ("a sibling alone is none of them", offer(a="legal.review"), "legal.rights", None),
    ("another domain is none of them", offer(a="legal.review"), "cooking.recipe", None),
    ("near what is covered, one could argue", offer(a="legal.draft"), "writing.mail", UNSURE),
    ("near, the other way round", offer(a="writing.mail"), "legal.draft", UNSURE),
    ("near, but its own policy is there", offer(a="writing.mail", b="legal.draft"), "legal.draft", "b"),
    ("near a rival, with its domain there", offer(a="writing", b="legal.draft"), "writing.mail", UNSURE),
    ("two policies take it", offer(a="legal.review", b="legal.review"), "legal.review", UNSURE),
    ("the author is unsure", offer(a="legal.review", unsure=("legal.rights",)), "legal.rights", UNSURE),
    ("unsure of a domain", offer(a="legal.review", unsure=("cooking",)), "cooking.plan", UNSURE),
    ("unsure within a covered domain", offer(a="legal", unsure=("legal.rights",)), "legal.rights", UNSURE),
    ("strict: a sibling may be caught", offer(a="legal.review", strict=True), "legal.rights", UNSURE),
    (
        "strict: outside is surely none",
        offer(a="legal.review", strict=True, outside=("legal.rights",)),
        "legal.rights",
        None,
    ),
    ("strict: another domain is none", offer(a="legal.review", strict=True), "cooking.plan", None),
    ("strict: near what is covered", offer(a="legal.draft", strict=True), "writing.mail", UNSURE),
    ("outside within a covered domain", offer(a="legal", outside=("legal.rights",)), "legal.rights", None),
    ("outside as a domain", offer(a="legal.draft", strict=True, outside=("writing",)), "writing.mail", None),
    (
        "outside, but this action is unsure",
        offer(a="legal.draft", strict=True, outside=("cooking",), unsure=("cooking.plan",)),
        "cooking.plan",
        UNSURE,
    ),
]


@pytest.mark.parametrize(("offered", "work", "gold"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_right(offered: Offer, work: str | None, gold: Gold) -> None:
    assert offered.gold(work, catalogue(NEAR)) == gold


_WORKS = st.sampled_from(list(catalogue().works))


@given(st.lists(st.frozensets(_WORKS, max_size=3), max_size=6), st.sampled_from(catalogue().actions), st.booleans())
def test_a_gold_is_on_offer_and_covers_the_work(covers: list[frozenset[str]], work: str, strict: bool) -> None:
    entries = tuple(
        Offered(policy=Policy(id=f"p{at}", description="x"), covers=these) for at, these in enumerate(covers)
    )
    gold = Offer(name="set", entries=entries, strict=strict).gold(work, catalogue(NEAR))
    domain = work.partition(".")[0]
    if gold is not UNSURE and gold is not None:
        assert {work, domain} & entries[int(gold[1:])].covers
    if gold is None:
        assert not any({work, domain} & each.covers for each in entries)


# Files ----------------------------------------------------------------------------------------------------------------

DOMAIN = """
domain: legal
names: [law]
noun: Legal matters
terse: Law
imperative: Answer questions about the law
wordy: Anything in which the law is the point
except: The law, but not taxes
actions:
  review:
    names: [check]
    noun: Contracts read for risks
    terse: Contract risks
    imperative: Find the risks in a contract
    wordy: Somebody has a contract and wants to know
    except: Contracts, but not new ones
    near: [legal.draft]
  draft:
    names: [write]
    noun: New contracts
    terse: Drafting
    imperative: Draft a contract
    wordy: Somebody needs a new contract
    except: Drafts, but not reviews
"""

SET = """
set: firm
about: Eleven lawyers
policies:
  read_it: {description: Read a contract, covers: [legal.review]}
unsure: [legal.draft]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "taxonomy").mkdir()
    (tmp_path / "sets").mkdir()
    (tmp_path / "taxonomy" / "legal.yaml").write_text(DOMAIN)
    (tmp_path / "sets" / "firm.yaml").write_text(SET)
    return tmp_path


def test_files_are_read(folder: Path) -> None:
    works = taxonomy.load(folder / "taxonomy")
    assert works.actions == ("legal.review", "legal.draft")
    assert works["legal.review"].descriptions["except"] == "Contracts, but not new ones"
    assert works.neighbours["legal.draft"] == {"legal.review"}
    (firm,) = offers.load(folder / "sets", works)
    assert firm.strict
    assert firm.gold("legal.review", works) == "read_it"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("domain: legal", "domain: law", 2, "is not the file's name"),
        ("terse: Drafting", "terse: ''", 21, "actions.draft.terse: is empty"),
        ("    wordy: Somebody needs a new contract\n", "", 18, "actions.draft.wordy: is missing"),
        ("except: Drafts", "excluding: Drafts", 24, "unknown key"),
        ("near: [legal.draft]", "near: [legal.sue]", 10, "'legal.sue', which is no action"),
        ("near: [legal.draft]", "near: [legal.review]", 17, "names the action itself"),
    ],
)
def test_a_taxonomy_that_is_wrong_says_where(folder: Path, old: str, new: str, line: int, said: str) -> None:
    file = folder / "taxonomy" / "legal.yaml"
    file.write_text(DOMAIN.replace(old, new))
    with pytest.raises(DataError) as raised:
        taxonomy.load(folder / "taxonomy")
    assert any(said in problem.located() and problem.file == str(file) for problem in raised.value.problems)
    assert line in [problem.line for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("set: firm", "set: company", "is not the file's name, firm"),
        ("covers: [legal.review]", "covers: [legal.sue]", "'legal.sue' is in no file of the taxonomy"),
        ("unsure: [legal.draft]", "unsure: [legal.review]", "legal.review is covered by read_it"),
        ("unsure: [legal.draft]", "outside: [tax]", "'tax' is in no file of the taxonomy"),
        ("read_it:", "read it:", "is no policy's id"),
        ("description: Read a contract", "description: ''", "is empty"),
        ("covers: [legal.review]", "covers: []", "cover nothing"),
        ("covers: [legal.review]", "covers: legal.review", "should be a list"),
        ("read_it:", "first: {description: x, covers: [legal.review]}\n  read_it:", "is covered by first too"),
    ],
)
def test_a_set_that_is_wrong_says_where(folder: Path, old: str, new: str, said: str) -> None:
    works = taxonomy.load(folder / "taxonomy")
    (folder / "sets" / "firm.yaml").write_text(SET.replace(old, new))
    with pytest.raises(DataError) as raised:
        offers.load(folder / "sets", works)
    assert any(said in problem.located() and problem.line for problem in raised.value.problems), raised.value


def test_an_empty_folder_is_no_taxonomy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no <domain>\.yaml"):
        taxonomy.load(tmp_path)
