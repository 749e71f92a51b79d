"""A written corpus to a data folder that training and `pointsman eval` read.

    OUT/train/corpus.jsonl.gz      the items as written, all of the taxonomy on offer
    OUT/train/teams.jsonl.gz       items in the policy sets that teams would write, perturbed
    OUT/train/drawn.jsonl.gz       items in policy sets drawn from the taxonomy, perturbed
    OUT/heldout/...                the same three of what training never sees, with nothing perturbed
    OUT/policies/<set>.json

`packed` is what is written, `built` all that is made of it (the paper's phase 2). The same corpus, plan and version
give the same bytes. Knows no model.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import msgspec

from pointsman import dataset
from pointsman.dataset import Example, Label, PolicyEntry, PolicySetFile
from pointsman.errors import DataError, Problem
from pointsman.synth import perturb
from pointsman.synth.catalogue import HANDS, Catalogue, Hand
from pointsman.synth.corpus import Corpus
from pointsman.synth.offers import UNSURE, Offer, Offered
from pointsman.synth.perturb import Talk
from pointsman.synth.written import Item

LARGEST = 40
"""Policies on offer at most, but for the whole taxonomy."""

ENOUGH_MISSES = 6
"""Draws of a policy for which no item is left, until a policy set is done with."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what is built, but for the corpus. Shares are of all examples or offers."""

    seed: int = 1
    drawn: int = 800
    """Policy sets drawn from the taxonomy."""
    versions: int = 4
    """Each team's set comes in so many versions."""
    turns: int = 40
    """User turns judged in each policy set, or a few more,"""
    each: float = 0.6
    """and this many for each action that its policies cover, if that is more: a set for everything is asked most."""
    irrelevant: float = 0.05
    """Items of far-off work, right nowhere in the set,"""
    withheld: float = 0.1
    """and items whose policy is not on offer while its siblings are."""
    injected: float = 0.1
    mixed: float = 0.12
    careless: float = 0.12
    reworded: float = 0.5
    """Of the offers, not the examples; so the following."""
    shortened: float = 0.08
    distracted: float = 0.25
    look_alike: float = 0.3
    taken_out: float = 0.2
    """One of its policies is withheld, so that what it covers is right nowhere."""


HELD_OUT = Plan(
    seed=2,
    drawn=60,
    versions=1,
    injected=0.0,
    mixed=0.0,
    careless=0.0,
    reworded=0.0,
    shortened=0.0,
    distracted=0.0,
    look_alike=0.0,
    taken_out=0.0,
)
"""The part that is evaluated: nothing in it is perturbed."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One source's file: its examples, and the policy sets that they name."""

    name: str
    examples: tuple[Example, ...]
    sets: tuple[PolicySetFile, ...]

    @property
    def turns(self) -> int:
        return sum(len(example.turns) for example in self.examples)


Parts = Mapping[str, Sequence[Part]]
"""Parts by split."""


def packed(corpus: Corpus) -> Parts:
    """The items as they are, train and held out, and the held-out ones in the held-out teams' sets."""
    return {
        "train": [_plain(corpus, corpus.train)],
        "heldout": [_plain(corpus, corpus.heldout), _teams(corpus, corpus.heldout, HELD_OUT, held=True)],
    }


def built(corpus: Corpus, plan: Plan) -> Parts:
    """All that is made of a corpus."""
    return {
        "train": [
            _plain(corpus, corpus.train),
            _teams(corpus, corpus.train, plan, held=False),
            _drawn(corpus, corpus.train, plan, held=False),
        ],
        "heldout": [
            _plain(corpus, corpus.heldout),
            _teams(corpus, corpus.heldout, HELD_OUT, held=True),
            _drawn(corpus, corpus.heldout, HELD_OUT, held=True),
        ],
    }


MANIFEST = "MADE"
"""The file that lists what was written beside it, so that the next run replaces that and nothing else."""


def write(parts: Parts, out: Path) -> None:
    """Write parts by split, and their policy sets. What `out` held of a former run is replaced.

    Raises DataError, with nothing changed, if a file stands in the way that no such run has made.
    """
    wanted: dict[Path, Sequence[Example] | PolicySetFile] = {}
    for split, made in parts.items():
        for part in made:
            wanted[out / split / f"{part.name}.jsonl.gz"] = part.examples
            wanted |= {out / "policies" / f"{each.name}.json": each for each in part.sets}
    manifest = out / MANIFEST
    before = {out / line for line in manifest.read_text().splitlines()} if manifest.exists() else set[Path]()
    foreign = sorted(file for file in wanted if file.exists() and file not in before)
    if foreign:
        said = "is there, and was not made by this command"
        raise DataError([Problem(path="", message=said, mend="give another --out", file=str(foreign[0]))])
    out.mkdir(parents=True, exist_ok=True)
    # Before the files themselves: what a killed run leaves half done is the next one's to replace.
    names = sorted(file.relative_to(out).as_posix() for file in wanted.keys() | before)
    manifest.write_text("".join(f"{name}\n" for name in names))
    for file in before - wanted.keys():
        file.unlink(missing_ok=True)
    for file, content in wanted.items():
        if isinstance(content, PolicySetFile):
            dataset.dump_policies(file.parent, content)
        else:
            dataset.dump(file, content)
    manifest.write_text("".join(f"{file.relative_to(out).as_posix()}\n" for file in sorted(wanted)))


def _rng(*key: object) -> random.Random:
    return random.Random("/".join(map(str, key)))  # noqa: S311 - the same bytes each time are the point


# Parts ----------------------------------------------------------------------------------------------------------------

SHOWN: Hand = "imperative"
"""The hand in which the whole taxonomy is offered."""

WHOLE = "corpus"
"""The name of the policy set that is the whole taxonomy."""


def whole(catalogue: Catalogue) -> PolicySetFile:
    """The taxonomy as one policy set, with its domains as the coarse policies."""

    def entry(id: str) -> PolicyEntry:
        return PolicyEntry(name=id, description=catalogue[id].descriptions[SHOWN])

    return PolicySetFile(
        name=WHOLE, policies=tuple(map(entry, catalogue.actions)), domains=tuple(map(entry, catalogue.domains))
    )


def _plain(corpus: Corpus, items: Iterable[Item]) -> Part:
    examples = [
        Example(
            id=item.id,
            source="corpus",
            policies=WHOLE,
            messages=item.messages,
            turns=tuple(
                Label(index=turn.index, policy=turn.work, closing="closing" in turn.flags) for turn in item.turns
            ),
            meta=_meta(item),
        )
        for item in items
    ]
    return Part(name="corpus", examples=tuple(examples), sets=(whole(corpus.catalogue),))


def _meta(item: Item) -> dict[str, object]:
    needs = [turn.index for turn in item.turns if "history" in turn.flags]
    dropped = [turn.index for turn in item.turns if "abandons" in turn.flags]
    told: dict[str, object] = {"language": item.language}
    told |= {"form": item.form} if item.form else {}
    told |= {"needs_history": needs} if needs else {}
    return told | ({"abandons": dropped} if dropped else {})


def _teams(corpus: Corpus, items: Sequence[Item], plan: Plan, *, held: bool) -> Part:
    """Items in the sets that teams would write, each in several versions."""
    sets = [offer for offer in corpus.sets if (offer.name in corpus.split.sets) == held]
    offers: list[Offer] = []
    for offer in sets:
        for version in range(plan.versions):
            rng = _rng(plan.seed, offer.name, version)
            changed = _modified(offer, corpus, plan, rng) if version else offer
            offers.append(
                msgspec.structs.replace(changed, name=f"team-{offer.name}" + (f"-{version}" if version else ""))
            )
    return asked("teams", corpus.catalogue, items, offers, plan)


def _drawn(corpus: Corpus, items: Sequence[Item], plan: Plan, *, held: bool) -> Part:
    """Items in sets drawn from the taxonomy."""
    allowed = frozenset(corpus.catalogue.actions) - (frozenset() if held else corpus.held_out)
    wanted = sorted(corpus.held_out) if held else None
    offers: list[Offer] = []
    for number in range(plan.drawn):
        rng = _rng(plan.seed, "drawn", number)
        offer = _draw(corpus.catalogue, allowed, wanted, rng)
        changed = _modified(offer, corpus, plan, rng)
        style = rng.choices(perturb.STYLES, (6, 4, 3, 3, 1, 2, 1))[0]
        named = perturb.renamed(changed, style, corpus.catalogue, rng)
        offers.append(msgspec.structs.replace(named, name=f"drawn-{plan.seed}-{number:04}"))
    return asked("drawn", corpus.catalogue, items, offers, plan)


def _draw(catalogue: Catalogue, allowed: frozenset[str], wanted: Sequence[str] | None, rng: random.Random) -> Offer:
    """A policy set of 3 to 40 policies: a few domains with their actions, many single actions, domains, or a mixture.

    Its first domain is that of an action out of `wanted`, if given.
    """
    size = round(math.exp(rng.uniform(math.log(3), math.log(LARGEST))))
    domains = [each for each in catalogue.domains if not allowed.isdisjoint(catalogue.domains[each])]
    rng.shuffle(domains)
    if wanted:
        first = catalogue[rng.choice(wanted)].domain
        domains = [first, *(each for each in domains if each != first)]
    actions = {domain: [each for each in catalogue.domains[domain] if each in allowed] for domain in domains}
    for listed in actions.values():
        rng.shuffle(listed)
    shape = rng.choices(("tree", "flat", "coarse", "mixed"), (0.4, 0.2, 0.12, 0.28))[0]
    works: list[str] = []
    if shape == "coarse":
        works = domains[:size]
    elif shape == "flat":
        works = [listed[0] for listed in actions.values()][:size]
    else:
        for domain in domains:
            if len(works) >= size:
                break
            if shape == "mixed" and rng.random() < 0.6:
                works.append(domain)
            works += actions[domain][: rng.randint(1, 6)]
        works = works[: max(3, size)]
    own = rng.choice(HANDS)
    steady = rng.random() < 0.7
    entries = [perturb.described(each, catalogue, own if steady else rng.choice(HANDS)) for each in works]
    rng.shuffle(entries)
    return Offer(name="", entries=tuple(entries))


def _modified(offer: Offer, corpus: Corpus, plan: Plan, rng: random.Random) -> Offer:
    """An offer after some of the paper's policy modifications."""
    allowed = frozenset(corpus.catalogue.actions) - corpus.held_out
    if rng.random() < plan.taken_out and len(offer.entries) > 3:
        offer = perturb.withheld(offer, [rng.choice(offer.entries).policy.id])
    if not offer.strict and rng.random() < plan.look_alike:
        offer = perturb.look_alike(offer, corpus.catalogue, allowed, rng)
    if not offer.strict and rng.random() < plan.reworded:
        offer = perturb.reworded(offer, corpus.catalogue, rng)
    room = LARGEST - len(offer.entries)
    if room > 0 and rng.random() < plan.distracted:
        # A stranger must be surely none of what the set has already, and what it takes must not be argued about.
        known = {id.partition(".")[0] for each in offer.entries for id in each.covers}
        known |= {id.partition(".")[0] for id in offer.unsure}
        far = sorted(each for each in allowed if corpus.catalogue[each].domain not in known)
        count = min(room, rng.randint(1, 12), len(far))
        strangers = [perturb.described(each, corpus.catalogue, rng.choice(HANDS)) for each in rng.sample(far, count)]
        offer = perturb.distracted(offer, strangers, rng)
    if rng.random() < plan.shortened:
        offer = perturb.shortened(offer, rng)
    return perturb.reordered(offer, rng)


def asked(name: str, catalogue: Catalogue, items: Sequence[Item], offers: Sequence[Offer], plan: Plan) -> Part:
    """Items handed out to offers and perturbed by the plan, as one source."""
    return _Desk(catalogue, items, plan).part(name, offers)


# Items into offers ----------------------------------------------------------------------------------------------------


class _Desk:
    """Hands items out to offers, the least used first, so that all of them come about equally often."""

    def __init__(self, catalogue: Catalogue, items: Sequence[Item], plan: Plan) -> None:
        self.catalogue, self.plan = catalogue, plan
        self.used: Counter[str] = Counter()
        self.asking: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            for work in sorted(item.works):
                self.asking[work].append(item)
        self.openers = [item for item in items if len(item.turns) > 1]

    def part(self, name: str, offers: Sequence[Offer]) -> Part:
        examples: list[Example] = []
        sets: list[PolicySetFile] = []
        for offer in offers:
            made = list(self.examples(offer))
            if made:
                examples += made
                sets.append(_file(offer))
        return Part(name=name, examples=tuple(examples), sets=tuple(sets))

    def examples(self, offer: Offer) -> Iterator[Example]:
        """Examples of the offer, until enough turns are judged or nothing is left that can be asked."""
        rng = _rng(self.plan.seed, "examples", offer.name)
        by_policy: dict[str, list[str]] = defaultdict(list)
        nothing: dict[str, list[str]] = {"near": [], "far": []}
        known = {self.catalogue[id].domain for each in offer.entries for id in each.covers}
        for work in self.asking:
            gold = offer.gold(work, self.catalogue)
            if gold is None:
                nothing["near" if self.catalogue[work].domain in known else "far"].append(work)
            elif gold is not UNSURE:
                by_policy[gold].append(work)
        asked = {work for works in by_policy.values() for work in works}
        # A conversation is mostly joined with one that the set has policies for, too.
        partners = [item for item in self.openers if item.works <= asked] or self.openers
        wanted = max(self.plan.turns, self.plan.each * len(asked))
        judged, missed, seen = 0, 0, set[str]()
        # Once little is left that a policy takes, going on would only fill up with what none does.
        while by_policy and judged < wanted and missed < ENOUGH_MISSES:
            item = self.pick(by_policy, nothing, asked, seen, rng)
            if item is None:
                missed += 1
                continue
            seen.add(item.id)
            told = self.perturbed(item, partners if rng.random() < 0.7 else self.openers, rng)
            turns = tuple(self.labels(told, offer))
            if not turns:
                continue
            self.used[item.id] += 1
            judged += len(turns)
            yield Example(
                id=f"{offer.name}-{item.id}",
                source=offer.name,
                policies=offer.name,
                messages=told.messages,
                turns=turns,
                meta={"language": item.language, "items": list(told.items), "done": list(told.done)},
            )

    def pick(
        self,
        by_policy: Mapping[str, Sequence[str]],
        nothing: Mapping[str, Sequence[str]],
        asked: Set[str],
        seen: Set[str],
        rng: random.Random,
    ) -> Item | None:
        """An item for a policy drawn evenly, or for none of them; not one of `seen`.

        Of those used equally often, one whose turns stay within `asked`, the works that some policy takes.
        """
        chance = rng.random()
        pools: list[Sequence[str]] = [nothing["near"]] if chance < self.plan.withheld else []
        if chance < self.plan.withheld + self.plan.irrelevant:
            pools.append(nothing["far"])
        if by_policy:
            pools.append(by_policy[rng.choice(sorted(by_policy))])
        for works in pools:
            if works:
                left = [item for item in self.asking[rng.choice(works)] if item.id not in seen]
                if left:
                    return min(left, key=lambda item: (self.used[item.id], len(item.works - asked), rng.random()))
        return None

    def perturbed(self, item: Item, partners: Sequence[Item], rng: random.Random) -> Talk:
        plan, told = self.plan, perturb.talk(item)
        if self.openers and len(item.turns) > 1 and rng.random() < plan.injected:
            told = perturb.injected(told, perturb.talk(rng.choice(self.openers)), rng) or told
        if self.openers and rng.random() < plan.mixed:
            other = perturb.talk(rng.choice(partners))
            # A request alone has no answer, so that it goes behind another's conversation and not before it.
            pair = (told, other) if len(item.turns) > 1 else (other, told)
            told = perturb.mixed(*pair, rng) or told
        if item.language == "en" and item.form != "code" and rng.random() < plan.careless:
            told = perturb.careless(told, rng)
        return told

    def labels(self, told: Talk, offer: Offer) -> Iterator[Label]:
        for turn in told.turns:
            gold = offer.gold(turn.work, self.catalogue)
            if gold is not UNSURE:
                yield Label(index=turn.index, policy=gold, closing=gold is None and "closing" in turn.flags)


def _file(offer: Offer) -> PolicySetFile:
    def entry(each: Offered) -> PolicyEntry:
        return PolicyEntry(name=each.policy.id, description=each.policy.description)

    return PolicySetFile(name=offer.name, policies=tuple(map(entry, offer.entries)))
