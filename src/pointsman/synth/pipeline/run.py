"""The pipeline: a policy set, and topics if there are any, to checked conversations.

What is asked next depends on the answers, the plan and the seed alone, never on the order in which answers come; so a
run that goes on from its journal makes what an undisturbed one would have made. Knows no file but the journal.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

import msgspec

from pointsman.policy import Policy, PolicySet
from pointsman.synth.pipeline import prompts
from pointsman.synth.pipeline.endpoint import Asker, BudgetSpent, ModelGone
from pointsman.synth.pipeline.journal import Answer, Journal, Reject
from pointsman.synth.pipeline.prompts import Dialogue, Unusable
from pointsman.synth.verify import Text, duplicates

_T = TypeVar("_T")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what is made, but for what the models answer."""

    writers: tuple[str, ...]
    """Models that write, `provider/name`; an intent and its dialogue go to two different ones if there are two."""
    checkers: tuple[str, ...]
    """Models that check; best not those that write."""
    examples: int = 200
    """Checked conversations wanted, spread evenly over the policies."""
    languages: tuple[str, ...] = ("English",)
    policies_per_topic: int = 8
    attempts: int = 3
    """Times that a dialogue is written anew when its check fails."""
    rounds: int = 4
    """Times that a policy which is short of conversations gets more intents."""
    seed: int = 1


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A checked conversation, where it belongs, and where it comes from."""

    set: str
    policy: str
    dialogue: Dialogue
    language: str
    intent: str
    key: str
    """The journal's key of the answer that it is."""
    provenance: dict[str, object]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What there is at the end. `stopped` says why there is less than was wanted; None if there is not."""

    sets: dict[str, PolicySet]
    made: tuple[Made, ...]
    stopped: str | None = None


SHAPES: tuple[tuple[str, int], ...] = (
    ("a single request of one short sentence", 1),
    ("a single request with some background and constraints", 1),
    ("a single long request with pasted material, the ask at its end", 1),
    ("a single long request, the ask first and the material after it", 1),
    ("a request, then follow-ups that refine the answer and mean nothing alone", 3),
    ("a vague opening, then what is really wanted, then thanks", 3),
    ("a request, a shift to a neighbouring policy, and back", 3),
    ("a request, an aside that fits no policy, then the request goes on", 4),
    ("a request that is dropped for another one, and a goodbye", 4),
)
"""How a dialogue goes, and its user turns. Drawn evenly."""


async def run(
    sets: dict[str, PolicySet],
    topics: Sequence[str],
    plan: Plan,
    asker: Asker,
    journal: Journal,
    *,
    advance: Callable[[int, int], None] = lambda _done, _wanted: None,
) -> Outcome:
    """All steps. Ends early when the budget is spent or a model is gone, with what there is by then.

    `sets` are policy sets by name that are given; each topic becomes one more. `advance` hears how many conversations
    there are, and how many are wanted.
    """
    work = _Work(plan, asker, journal, advance)
    stopped: str | None = None
    try:
        made_sets = await _all([work.policies(topic) for topic in topics])
        for topic, policies in zip(topics, made_sets, strict=True):
            if policies:
                sets = {**sets, _slug(topic): policies}
        wanted = [(name, policy) for name, policies in sets.items() for policy in policies]
        if wanted:
            each = math.ceil(plan.examples / len(wanted))
            await _all([work.fill(name, policy, sets[name], each) for name, policy in wanted])
    except (BudgetSpent, ModelGone) as error:
        stopped = str(error)
        await asker.drain()
    # Policies that share a conversation word for word are seen only when all are there.
    kept = _distinct(sorted(work.made, key=lambda made: (made.set, made.policy, made.key)), journal)
    return Outcome(sets=sets, made=tuple(kept[: plan.examples]), stopped=stopped or _short(kept, plan))


async def _all(tasks: Sequence[Coroutine[object, object, _T]]) -> list[_T]:
    """The results in order; if one fails, the others are stopped before the failure goes on."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        return list(await asyncio.gather(*running))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _short(kept: Sequence[Made], plan: Plan) -> str | None:
    if len(kept) >= plan.examples:
        return None
    return f"the models' answers gave {len(kept)} usable conversations of {plan.examples}; see the rejects for why"


class _Work:
    def __init__(self, plan: Plan, asker: Asker, journal: Journal, advance: Callable[[int, int], None]) -> None:
        self.plan, self.asker, self.journal, self.advance = plan, asker, journal, advance
        self.made: list[Made] = []

    def rng(self, *key: object) -> random.Random:
        return random.Random("/".join(map(str, (self.plan.seed, *key))))  # noqa: S311 - reproducible is the point

    async def policies(self, topic: str) -> PolicySet | None:
        """A topic's policies, checked; None if no attempt gave any."""
        rng = self.rng("topic", topic)
        for attempt in range(self.plan.attempts):
            writer, checker = rng.choice(self.plan.writers), rng.choice(self.plan.checkers)
            asked = prompts.policies(topic, count=self.plan.policies_per_topic)
            answer = await self.asker.ask(writer, asked, seed=attempt, parent=topic)
            try:
                candidates = prompts.read_policies(answer.text)
            except Unusable as error:
                self.reject(answer, error)
                continue
            checked = await self.asker.ask(
                checker, prompts.check_policies(topic, candidates), seed=attempt, parent=answer.key
            )
            try:
                return PolicySet(prompts.read_policies(checked.text))
            except Unusable as error:
                self.reject(checked, error)
        return None

    async def fill(self, name: str, policy: Policy, offered: PolicySet, wanted: int) -> None:
        """`wanted` conversations for a policy: intents, a dialogue for each, and more intents for those that failed."""
        known: list[str] = []
        made = 0
        for number in range(self.plan.rounds):
            missing = wanted - made
            if missing <= 0:
                return
            fresh = await self.intents(name, policy, offered, known, count=min(20, missing + 1), number=number)
            known += [intent for intent, _ in fresh]
            tasks = [self.dialogue(name, policy, offered, intent, key) for intent, key in fresh[:missing]]
            for each in await _all(tasks):
                if each:
                    made += 1
                    self.made.append(each)
                    self.advance(len(self.made), self.plan.examples)

    async def intents(
        self, name: str, policy: Policy, offered: PolicySet, known: Sequence[str], *, count: int, number: int
    ) -> list[tuple[str, str]]:
        """New intents, each with the key of its answer."""
        rng = self.rng("intents", name, policy.id, number)
        for attempt in range(self.plan.attempts):
            asked = prompts.intents(policy, tuple(offered), count=count, known=known)
            seed = number * self.plan.attempts + attempt
            answer = await self.asker.ask(rng.choice(self.plan.writers), asked, seed=seed, parent=f"{name}/{policy.id}")
            try:
                return [(intent, answer.key) for intent in prompts.read_intents(answer.text) if intent not in known]
            except Unusable as error:
                self.reject(answer, error)
        return []

    async def dialogue(self, name: str, policy: Policy, offered: PolicySet, intent: str, parent: str) -> Made | None:
        """A dialogue that realises the intent and passed its check; None if no attempt did."""
        rng = self.rng("dialogue", name, policy.id, intent)
        shape, turns = rng.choice(SHAPES)
        language = rng.choice(self.plan.languages)
        author = next((answer.model for answer in [self.journal.get(parent)] if answer), None)
        writers = [model for model in self.plan.writers if model != author] or list(self.plan.writers)
        complaint = ""
        for attempt in range(self.plan.attempts):
            asked = prompts.dialogue(
                policy, tuple(offered), intent, shape=shape, turns=turns, language=language, complaint=complaint
            )
            answer = await self.asker.ask(rng.choice(writers), asked, seed=attempt, parent=parent)
            try:
                dialogue = prompts.read_dialogue(answer.text, tuple(offered))
                checker = await self.check(dialogue, policy, offered, answer, rng)
            except Unusable as error:
                self.reject(answer, error)
                complaint = str(error)
                continue
            provenance: dict[str, object] = {
                "model": answer.model,
                "checker": checker.model,
                "prompts": [answer.version, checker.version],
                "seed": answer.seed,
                "parent": parent,
                "shape": shape,
            }
            return Made(
                set=name,
                policy=policy.id,
                dialogue=dialogue,
                language=language,
                intent=intent,
                key=answer.key,
                provenance=provenance,
            )
        return None

    async def check(
        self,
        dialogue: Dialogue,
        policy: Policy,
        offered: PolicySet,
        answer: Answer,
        rng: random.Random,
    ) -> Answer:
        """The answer of a checker that agrees. Raises Unusable if the dialogue does not pass."""
        if policy.id not in dialogue.labels:
            raise Unusable("off policy", f"no user turn belongs to {policy.id!r}")
        named = next(
            (each.id for each in offered for text in _said(dialogue) if "_" in each.id and each.id in text), None
        )
        if named:
            raise Unusable("names a policy", f"a user says {named!r}")
        asked = prompts.check_dialogue(dialogue.messages, tuple(offered))
        checked = await self.asker.ask(rng.choice(self.plan.checkers), asked, seed=answer.seed, parent=answer.key)
        try:
            verdict = prompts.read_verdict(checked.text, len(dialogue.labels), tuple(offered))
        except Unusable as error:
            self.reject(checked, error)
            raise Unusable("unchecked", "its check could not be read") from None
        if verdict.labels != dialogue.labels:
            at = next(
                at for at, pair in enumerate(zip(verdict.labels, dialogue.labels, strict=True)) if pair[0] != pair[1]
            )
            said = f"user turn {at + 1} is labelled {dialogue.labels[at]!r} and read as {verdict.labels[at]!r}"
            raise Unusable("check disagrees", said)
        if not verdict.natural:
            raise Unusable("unnatural", "a person would not write this")
        return checked

    def reject(self, answer: Answer, error: Unusable) -> None:
        self.journal.reject(Reject(key=answer.key, step=answer.step, reason=error.reason, said=str(error)))


def _said(dialogue: Dialogue) -> list[str]:
    return [str(message["content"]) for message in dialogue.messages if message["role"] == "user"]


def _distinct(made: Sequence[Made], journal: Journal) -> list[Made]:
    """Without those that say what an earlier one says."""
    texts = [
        Text(file=each.set, line=at, item=each.key, text=text, work=each.policy, language="en", first=not number)
        for at, each in enumerate(made)
        for number, text in enumerate(_said(each.dialogue))
    ]
    repeated = {found.line: found.message for found in duplicates(texts)}
    for at, message in repeated.items():
        journal.reject(Reject(key=made[at].key, step="dialogue", reason="duplicate", said=message))
    kept = [each for at, each in enumerate(made) if at not in repeated]
    # An even spread when more were made than are wanted: one of each policy in turn.
    place: Counter[tuple[str, str]] = Counter()
    order: list[tuple[int, int]] = []
    for at, each in enumerate(kept):
        order.append((place[each.set, each.policy], at))
        place[each.set, each.policy] += 1
    return [kept[at] for _, at in sorted(order)]


def _slug(topic: str) -> str:
    letters = "".join(letter if letter.isalnum() else "-" for letter in topic.lower())
    name = "-".join(filter(None, letters.split("-")))[:40]
    return f"{name or 'topic'}-{hashlib.sha256(topic.encode()).hexdigest()[:6]}"
