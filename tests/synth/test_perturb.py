"""Phase 2: what each perturbation does and leaves alone, by properties over any conversation and any draw."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.synth import perturb
from pointsman.synth.offers import UNSURE, Offer
from pointsman.synth.perturb import STYLES, Talk
from pointsman.synth.written import Item, Turn
from tests.synth.test_offers import catalogue

WORKS = catalogue()

_texts = st.text("abc é\n.,;{", min_size=1, max_size=30).filter(str.strip)


@st.composite
def talks(draw: st.DrawFn, *, answered: bool = False, mark: str = "") -> Talk:
    """User and assistant by turns, a few calls of tools among them."""
    messages: list[dict[str, object]] = []
    turns: list[Turn] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": "be kind"})
    for number in range(draw(st.integers(1, 4))):
        work = draw(st.sampled_from([*WORKS.actions, None])) if number else draw(st.sampled_from(WORKS.actions))
        flags = ["closing"] if work is None else []
        flags += ["history"] if number and draw(st.booleans()) else []
        turns.append(Turn(index=len(messages), work=work, flags=frozenset(flags)))  # type: ignore[arg-type]
        messages.append({"role": "user", "content": mark + draw(_texts)})
        if draw(st.booleans()):
            messages += [{"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "42"}]
        messages.append({"role": "assistant", "content": draw(_texts)})
    if not answered and draw(st.booleans()):
        messages.pop()
    return Talk(messages=tuple(messages), turns=tuple(turns), items=(f"i{draw(st.integers(0, 99))}",))


def _said(one: Talk) -> list[tuple[object, str | None]]:
    """Each user turn's text with its label."""
    return [(one.messages[turn.index]["content"], turn.work) for turn in one.turns]


def _is_whole(one: Talk) -> bool:
    users = [at for at, message in enumerate(one.messages) if message["role"] == "user"]
    return users == [turn.index for turn in one.turns]


@given(talks(), talks(), st.randoms(use_true_random=False))
def test_mixing_keeps_every_turn_with_its_label_and_order(one: Talk, other: Talk, rng: random.Random) -> None:
    mixed = perturb.mixed(one, other, rng)
    if mixed is None:
        return
    assert _is_whole(mixed)
    assert mixed.items == (*one.items, *other.items)
    assert mixed.done == ("mixed",)
    # Either may have lost a last turn that was not answered.
    wanted = [(_said(one)[:a], _said(other)[:b]) for a in _lengths(one) for b in _lengths(other)]
    assert any(
        _said(mixed) == [*first[:at], *second, *first[at:]] for first, second in wanted for at in range(len(first) + 1)
    )


def _lengths(one: Talk) -> list[int]:
    return [len(one.turns), len(one.turns) - 1] if one.messages[-1]["role"] != "assistant" else [len(one.turns)]


@given(talks(), talks(mark="§"), st.randoms(use_true_random=False))
def test_what_follows_a_splice_stands_alone_and_what_precedes_it_was_answered(
    one: Talk, other: Talk, rng: random.Random
) -> None:
    for told in filter(None, (perturb.mixed(one, other, rng), perturb.injected(one, other, rng))):
        marked = [str(text).startswith("§") for text, _ in _said(told)]
        first, after = marked.index(True), len(marked) - marked[::-1].index(True)
        assert all(marked[first:after]), "in one piece"
        assert after == len(marked) or "history" not in told.turns[after].flags
        for before, message in zip(told.messages, told.messages[1:], strict=False):
            assert message["role"] != "user" or before["role"] in ("assistant", "system")


@given(talks(answered=True), talks(), st.randoms(use_true_random=False))
def test_an_aside_is_one_exchange(one: Talk, other: Talk, rng: random.Random) -> None:
    told = perturb.injected(one, other, rng)
    if told is None:
        assert len(other.turns) == 1 or other.messages[0]["role"] == "system"
        return
    assert len(told.turns) == len(one.turns) + 1
    assert _is_whole(told)
    assert sum(message["role"] == "system" for message in told.messages) == sum(
        message["role"] == "system" for message in one.messages
    )


def test_an_aside_goes_where_the_talk_can_bear_it() -> None:
    def told(*turns: tuple[str, str | None, bool]) -> Talk:
        messages = tuple(
            {"role": role, "content": f"{text} {role}"} for text, _, _ in turns for role in ("user", "assistant")
        )
        made = tuple(
            Turn(index=2 * at, work=work, flags=frozenset(["history"] if history else []))
            for at, (_, work, history) in enumerate(turns)
        )
        return Talk(messages=messages, turns=made, items=("x",))

    one = told(("a", "legal.review", False), ("b", "legal.review", True), ("c", "legal.draft", False))
    aside = told(("d", "cooking.plan", False), ("e", "cooking.plan", True))
    places = set()
    for seed in range(40):
        made = perturb.injected(one, aside, random.Random(seed))
        assert made
        places.add([text for text, _ in _said(made)].index("d user"))
    assert places == {2, 3}, "never before a turn that needs what came before"


@given(talks(), st.randoms(use_true_random=False))
def test_careless_typing_leaves_labels_answers_and_code_alone(one: Talk, rng: random.Random) -> None:
    told = perturb.careless(one, rng)
    assert told.turns == one.turns
    for before, after in zip(one.messages, told.messages, strict=True):
        if before["role"] != "user":
            assert after == before
            continue
        lines = str(before["content"]).split("\n")
        for line, made in zip(lines, str(after["content"]).split("\n"), strict=True):
            if "{" in line:
                assert made == line


def test_careless_typing_changes_prose() -> None:
    text = "Could you please explain to me what happened to the people on the bridge because I missed it?"
    one = Talk(messages=({"role": "user", "content": text},), turns=(Turn(index=0, work="legal.review"),), items=("x",))
    told = {str(perturb.careless(one, random.Random(seed)).messages[0]["content"]) for seed in range(30)}
    assert len(told) > 20
    assert any("pls" in each for each in told)
    assert any(each == each.lower() for each in told)


# Policy sets ----------------------------------------------------------------------------------------------------------

_ids = st.lists(st.sampled_from(list(WORKS.works)), min_size=1, max_size=6, unique=True)
_hands = st.sampled_from(perturb.HANDS)


@st.composite
def offered(draw: st.DrawFn) -> Offer:
    hand = draw(_hands)
    return Offer(name="set", entries=tuple(perturb.described(id, WORKS, hand) for id in draw(_ids)))


def _golds(offer: Offer) -> dict[str, object]:
    """What is right for each action, as the catalogue's ids that the policy covers."""
    covers = {each.policy.id: sorted(each.covers) for each in offer.entries}
    found: dict[str, object] = {}
    for work in WORKS.actions:
        gold = offer.gold(work, WORKS)
        found[work] = covers[gold] if isinstance(gold, str) else gold
    return found


@given(offered(), st.sampled_from(STYLES), st.randoms(use_true_random=False))
def test_policies_told_otherwise_are_the_same_policies(offer: Offer, style: str, rng: random.Random) -> None:
    for told in (
        perturb.renamed(offer, style, WORKS, rng),  # type: ignore[arg-type]
        perturb.reworded(offer, WORKS, rng),
        perturb.shortened(offer, rng),
        perturb.reordered(offer, rng),
    ):
        assert len(told.policies) == len(offer.entries), "ids stay distinct"
        assert _golds(told) == _golds(offer)
        assert all(policy.description.strip() for policy in told.policies)


@given(offered(), st.randoms(use_true_random=False))
def test_what_is_withheld_is_right_nowhere(offer: Offer, rng: random.Random) -> None:
    gone = rng.choice(offer.entries)
    left = perturb.withheld(offer, [gone.policy.id])
    assert gone.policy.id not in left.policies
    (work,) = gone.covers
    if "." in work:
        domain = work.partition(".")[0]
        coarse = domain if domain in left.policies else None
        assert left.gold(work, WORKS) == coarse


@given(offered(), _ids, st.randoms(use_true_random=False))
def test_distractors_take_nothing_from_anybody(offer: Offer, ids: list[str], rng: random.Random) -> None:
    others = [perturb.described(id, WORKS, "noun") for id in ids]
    told = perturb.distracted(offer, others, rng)
    assert [each for each in told.entries if each in offer.entries] == list(offer.entries)
    known = {id for each in offer.entries for id in each.covers}
    for work in known & set(WORKS.actions):
        assert told.gold(work, WORKS) == offer.gold(work, WORKS)


@given(offered(), st.randoms(use_true_random=False))
def test_a_look_alike_is_a_sibling_or_near(offer: Offer, rng: random.Random) -> None:
    told = perturb.look_alike(offer, WORKS, frozenset(WORKS.actions), rng)
    new = [each for each in told.entries if each not in offer.entries]
    actions = [id for each in offer.entries for id in each.covers if "." in id]
    assert len(new) <= 1
    if new:
        (work,) = new[0].covers
        assert work.partition(".")[0] in {id.partition(".")[0] for id in actions}


@pytest.mark.parametrize(
    ("style", "id"),
    [
        ("dotted", "legal.review"),
        ("alias", "legal_alias.review_alias"),
        ("flat", "review"),
        ("flat-alias", "review_alias"),
        ("camel", "Legal.Review"),
        ("kebab", "legal.review"),
        ("opaque", "route_1"),
    ],
)
def test_a_style_of_naming(style: perturb.Style, id: str) -> None:
    offer = Offer(name="set", entries=(perturb.described("legal.review", WORKS, "noun"),))
    told = perturb.renamed(offer, style, WORKS, random.Random(0))
    assert told.policies.ids == (id,)
    assert told.gold("legal.review", WORKS) == id
    assert told.gold("legal.draft", WORKS) is not UNSURE


def test_an_item_as_it_was_written_is_a_talk() -> None:
    item = Item(
        id="i", domain="legal", line=1, language="en", form=None,
        messages=({"role": "user", "content": "x"},), turns=(Turn(index=0, work="legal.review"),),
    )  # fmt: skip
    assert perturb.talk(item) == Talk(messages=item.messages, turns=item.turns, items=("i",))
