"""Phase 2 of the paper's pipeline (arXiv 2506.16655, section 4.1): clean conversations and policy sets made harder.

*Irrelevance injection* (`injected`, `withheld`), *policy modification* (`distracted`, `look_alike`, `renamed`,
`reworded`, `shortened`, `reordered`), *scenario mixing* (`mixed`), and careless typing (`careless`). Pure: randomness
is handed in, and the same randomness gives the same value. The slips made here are not those that
`pointsman.evals.robustness` measures with, on purpose.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from pointsman.policy import Policy
from pointsman.synth.catalogue import HANDS, Catalogue, Hand
from pointsman.synth.offers import Offer, Offered
from pointsman.synth.written import Item, Turn

# Conversations --------------------------------------------------------------------------------------------------------


class Talk(msgspec.Struct, frozen=True, kw_only=True):
    """Messages and their user turns' labels, and the ids of the items that they were made of."""

    messages: tuple[dict[str, object], ...]
    turns: tuple[Turn, ...]
    items: tuple[str, ...]
    done: tuple[str, ...] = ()
    """What was done to them, in order."""


def talk(item: Item) -> Talk:
    """An item as it was written."""
    return Talk(messages=item.messages, turns=item.turns, items=(item.id,))


def injected(one: Talk, aside: Talk, rng: random.Random) -> Talk | None:
    """`one` with the first exchange of `aside` in the middle of it, or behind it.

    None if there is no place: what follows must not refer to what came before, or the aside has no answer.
    """
    head = _first_exchange(aside)
    if not head:
        return None
    places = [(turn.index, one) for turn in one.turns[1:] if "history" not in turn.flags]
    if answered := _answered(one):
        places.append((len(answered.messages), answered))
    if not places:
        return None
    at, told = rng.choice(places)
    return _spliced(told, at, head, "injected")


def mixed(one: Talk, other: Talk, rng: random.Random) -> Talk | None:
    """`one` up to some turn, then `other`, and then, if it can stand alone, the rest of `one`.

    Whichever is followed by something loses a last turn that nobody answered. None if nothing answered is left of it.
    """
    places: list[tuple[int, Talk, Talk]] = []
    if answered := _answered(other):
        places += [(turn.index, one, answered) for turn in one.turns[1:] if "history" not in turn.flags]
    if answered := _answered(one):
        places.append((len(answered.messages), answered, other))
    if not places:
        return None
    at, first, second = rng.choice(places)
    return _spliced(first, at, second, "mixed")


def _first_exchange(one: Talk) -> Talk | None:
    """Up to the second user turn."""
    if len(one.turns) < 2 or not one.turns[0].work:
        return None
    end = one.turns[1].index
    answered = one.messages[end - 1].get("role") == "assistant" and one.messages[0].get("role") == "user"
    if not answered:
        return None
    return Talk(messages=one.messages[:end], turns=one.turns[:1], items=one.items, done=one.done)


def _answered(one: Talk) -> Talk | None:
    """`one` up to its last answer, so that a user turn may follow."""

    def ends(messages: Sequence[Mapping[str, object]]) -> bool:
        return bool(messages) and messages[-1].get("role") == "assistant" and "tool_calls" not in messages[-1]

    if ends(one.messages):
        return one
    last = one.turns[-1].index
    if not ends(one.messages[:last]) or len(one.turns) == 1:
        return None
    return msgspec.structs.replace(one, messages=one.messages[:last], turns=one.turns[:-1])


def _spliced(one: Talk, at: int, part: Talk, how: str) -> Talk:
    """`part` put before the message `at` of `one`."""
    # A second system prompt in the middle would be odd.
    body = tuple(message for message in part.messages if message.get("role") != "system")
    dropped = len(part.messages) - len(body)
    inside = (msgspec.structs.replace(turn, index=turn.index - dropped + at) for turn in part.turns)
    after = (msgspec.structs.replace(turn, index=turn.index + len(body)) for turn in one.turns if turn.index >= at)
    return Talk(
        messages=(*one.messages[:at], *body, *one.messages[at:]),
        turns=(*(turn for turn in one.turns if turn.index < at), *inside, *after),
        items=(*one.items, *part.items),
        done=(*one.done, *part.done, how),
    )


_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {key: row[max(0, at - 1) : at] + row[at + 1 : at + 2] for row in _KEYS for at, key in enumerate(row)}

_SHORT = {
    "you": "u", "your": "ur", "are": "r", "please": "pls", "because": "bc", "thanks": "thx", "with": "w/",
    "without": "w/o", "about": "abt", "and": "&", "to": "2", "for": "4", "people": "ppl",
    "tomorrow": "tmrw", "something": "smth", "message": "msg", "picture": "pic", "before": "b4",
}  # fmt: skip

# Code, tables, logs and addresses are not what a hasty thumb gets wrong.
_MACHINE = re.compile(r"[{}<>=|\\/_;`#$@\[\]]|\d{3}|https?:")

_WORD = re.compile(r"[^\W\d_]{2,}")


def careless(one: Talk, rng: random.Random) -> Talk:
    """The user's prose typed in a hurry: wrong keys, lost or doubled spaces, shorthand, no capitals or full stops.

    Lines that look like code, tables or logs stay as they are.
    """
    hurry = rng.choice((0.04, 0.08, 0.15))
    lower, bare, short = rng.random() < 0.5, rng.random() < 0.4, rng.random() < 0.35

    def told(line: str) -> str:
        if _MACHINE.search(line):
            return line
        if short:
            line = _WORD.sub(lambda found: _SHORT.get(found[0].lower(), found[0]), line)
        line = _WORD.sub(lambda found: _slip(found[0], rng) if rng.random() < hurry else found[0], line)
        if bare:
            line = re.sub(r"[.,;:!]+(?=\s|$)", "", line)
        return line.lower() if lower else line

    messages = tuple(
        {**message, "content": "\n".join(map(told, str(message["content"]).split("\n")))}
        if message.get("role") == "user"
        else message
        for message in one.messages
    )
    return msgspec.structs.replace(one, messages=messages, done=(*one.done, "careless"))


def _slip(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word))
    key = word[at]
    beside = _BESIDE.get(key.lower(), "")
    kind = rng.randrange(4)
    if kind == 0 and beside:
        return word[:at] + rng.choice(beside) + word[at + 1 :]
    if kind == 1 and beside:
        return word[:at] + key + rng.choice(beside) + word[at + 1 :]
    if kind == 2:
        return word[:at] + " " + word[at:] if at else word + word[-1]
    return word[:at] + word[at + 1 :] if len(word) > 2 else word


# Policy sets ----------------------------------------------------------------------------------------------------------


def withheld(offer: Offer, policies: Iterable[str]) -> Offer:
    """The offer without these policies: what only they covered is right nowhere now."""
    gone = frozenset(policies)
    return msgspec.structs.replace(offer, entries=tuple(each for each in offer.entries if each.policy.id not in gone))


def distracted(offer: Offer, others: Sequence[Offered], rng: random.Random) -> Offer:
    """The offer with `others` among its policies; those whose id or work is there already stay out."""
    ids = {each.policy.id for each in offer.entries}
    covered = {id for each in offer.entries for id in each.covers}
    entries = list(offer.entries)
    for other in others:
        if other.policy.id not in ids and covered.isdisjoint(other.covers):
            ids.add(other.policy.id)
            covered |= other.covers
            entries.insert(rng.randint(0, len(entries)), other)
    return msgspec.structs.replace(offer, entries=tuple(entries))


def look_alike(offer: Offer, catalogue: Catalogue, allowed: frozenset[str], rng: random.Random) -> Offer:
    """The offer with a neighbour of one of its actions: near it in the catalogue, or a sibling."""
    covered = sorted(id for each in offer.entries for id in each.covers if "." in id)
    rng.shuffle(covered)
    for work in covered:
        near = sorted((catalogue.neighbours[work] & allowed) - set(covered))
        siblings = [
            each for each in catalogue.domains[catalogue[work].domain] if each in allowed and each not in covered
        ]
        if choices := near or siblings:
            chosen = rng.choice(choices)
            return distracted(offer, [described(chosen, catalogue, rng.choice(HANDS))], rng)
    return offer


def reordered(offer: Offer, rng: random.Random) -> Offer:
    entries = list(offer.entries)
    rng.shuffle(entries)
    return msgspec.structs.replace(offer, entries=tuple(entries))


def described(work: str, catalogue: Catalogue, hand: Hand) -> Offered:
    """A policy for one kind of work of the catalogue, under its own id."""
    return Offered(policy=Policy(id=work, description=catalogue[work].descriptions[hand]), covers=frozenset([work]))


def reworded(offer: Offer, catalogue: Catalogue, rng: random.Random) -> Offer:
    """Each description that is the catalogue's in another hand."""

    def told(entry: Offered) -> Offered:
        if len(entry.covers) != 1:
            return entry
        works = catalogue[next(iter(entry.covers))].descriptions
        if entry.policy.description not in works.values():
            return entry
        others: list[Hand] = [hand for hand in HANDS if works[hand] != entry.policy.description]
        return _with(entry, description=works[rng.choice(others)]) if others else entry

    return msgspec.structs.replace(offer, entries=tuple(map(told, offer.entries)))


def shortened(offer: Offer, rng: random.Random) -> Offer:
    """Descriptions as people in a hurry leave them: the first words, or nothing but the name's."""

    def told(entry: Offered) -> Offered:
        words = entry.policy.description.split()
        if rng.random() < 0.5:
            return _with(entry, description=_spoken(entry.policy.id))
        return _with(entry, description=" ".join(words[: rng.randint(3, 7)]).rstrip(",;:"))

    return msgspec.structs.replace(offer, entries=tuple(map(told, offer.entries)))


Style = Literal["dotted", "alias", "flat", "flat-alias", "camel", "kebab", "opaque"]
"""A team's habit of naming."""

STYLES: tuple[Style, ...] = get_args(Style)


def renamed(offer: Offer, style: Style, catalogue: Catalogue, rng: random.Random) -> Offer:
    """The policies under other names. Two that would get the same one keep what they have."""
    naming: Mapping[Style, Callable[[int, Offered], str]] = {
        "dotted": lambda _at, entry: entry.policy.id,
        "alias": lambda _at, entry: ".".join(_alias(part, catalogue, rng) for part in _levels(entry)),
        "flat": lambda _at, entry: entry.policy.id.rpartition(".")[2],
        "flat-alias": lambda _at, entry: _alias(_levels(entry)[-1], catalogue, rng),
        "camel": lambda _at, entry: ".".join(map(_camel, entry.policy.id.split("."))),
        "kebab": lambda _at, entry: entry.policy.id.replace("_", "-"),
        "opaque": lambda at, _entry: f"route_{at + 1}",
    }
    name = naming[style]
    wanted = [name(at, entry) for at, entry in enumerate(offer.entries)]
    taken = {each for each in wanted if wanted.count(each) > 1} | {entry.policy.id for entry in offer.entries}
    entries = tuple(
        entry if id in taken and id != entry.policy.id else _with(entry, id=id)
        for id, entry in zip(wanted, offer.entries, strict=True)
    )
    return msgspec.structs.replace(offer, entries=entries)


def _levels(entry: Offered) -> list[str]:
    """The catalogue's ids behind a policy's: its domain's, its action's; the policy's own if it covers several."""
    work = next(iter(entry.covers)) if len(entry.covers) == 1 else entry.policy.id
    domain = work.partition(".")[0]
    return [work] if "." not in work else [domain, work]


def _alias(id: str, catalogue: Catalogue, rng: random.Random) -> str:
    known = catalogue[id].names if id in catalogue else ()
    return rng.choice(known) if known else id.rpartition(".")[2]


def _camel(part: str) -> str:
    return re.sub(r"(?:^|[_-])([a-z0-9])", lambda found: found[1].upper(), part)


def _spoken(id: str) -> str:
    return re.sub(r"[._-]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", id)).strip().lower()


def _with(entry: Offered, *, id: str | None = None, description: str | None = None) -> Offered:
    policy = Policy(id=id or entry.policy.id, description=description or entry.policy.description)
    return msgspec.structs.replace(entry, policy=policy)
