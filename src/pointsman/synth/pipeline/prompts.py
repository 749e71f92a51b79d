"""What the models are asked, step by step, and how their answers are read. Versioned: a changed text is a new version,
and the journal's answers to the old one are not used for it. Knows no model and no journal.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec

from pointsman.policy import Policy

Step = Literal["policies", "check-policies", "intents", "dialogue", "check-dialogue"]

VERSIONS: dict[Step, int] = {
    "policies": 1,
    "check-policies": 1,
    "intents": 1,
    "dialogue": 1,
    "check-dialogue": 1,
}


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a model. `seed` makes two askings of one text two different ones."""

    step: Step
    system: str
    user: str
    temperature: float
    max_tokens: int

    @property
    def version(self) -> str:
        return f"{self.step}/{VERSIONS[self.step]}"


class Unusable(Exception):
    """An answer that cannot be used. `reason` is one or two words for counting, the text what was wrong."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {message}")


# Asking ---------------------------------------------------------------------------------------------------------------

_JSON_ONLY = "Answer with one JSON value and nothing else: no prose, no code fence."


def policies(topic: str, *, count: int) -> Prompt:
    """Candidate policies for a topic: step (b) of phase 1."""
    user = f"""Topic: {topic}

A team uses several language models and wants to say which one does which kind of work within this topic. Write {count}
routing policies that such a team would write. A policy is a kind of request, not a product or a person. They are on one
level, do not overlap, and together cover what people really ask within the topic.

{_JSON_ONLY} Form: [{{"name": "snake_case_name", "description": "a noun phrase or a command of 6 to 20 words"}}, ...]"""
    return Prompt(step="policies", system=_author(), user=user, temperature=0.9, max_tokens=2000)


def check_policies(topic: str, candidates: Sequence[Policy]) -> Prompt:
    """Another model's look at them, for clarity, granularity and overlap: step (c)."""
    user = f"""Topic: {topic}

{_listed(candidates)}

These are candidates for routing policies. Check each: is it clear to a stranger; is it neither as broad as the topic nor
a single case; does it overlap another one? Reword what is unclear, drop what is too broad, too narrow or overlaps.

{_JSON_ONLY} Form: {{"keep": [{{"name": "...", "description": "..."}}, ...], "drop": [{{"name": "...", "why": "..."}}, ...]}}"""
    return Prompt(step="check-policies", system=_reviewer(), user=user, temperature=0.0, max_tokens=2000)


def intents(policy: Policy, offered: Sequence[Policy], *, count: int, known: Sequence[str]) -> Prompt:
    """Situations in which somebody needs the policy: the first half of step (d)."""
    used = "\n".join(f"- {each}" for each in known)
    avoid = f"\nAlready written; yours are to be of other people, subjects and lengths:\n{used}\n" if known else ""
    user = f"""{_listed(offered)}

Write {count} intents for the policy {policy.id!r}: each one sentence that says who wants what from an assistant, in which
situation, with what at hand. As different from each other as can be: trades, subjects, expertise, mood, length of what they
paste. Each belongs to {policy.id!r} beyond doubt and to no other policy of the list.
{avoid}
{_JSON_ONLY} Form: ["intent", ...]"""
    return Prompt(step="intents", system=_author(), user=user, temperature=1.0, max_tokens=2500)


def dialogue(
    policy: Policy, offered: Sequence[Policy], intent: str, *, shape: str, turns: int, language: str, complaint: str
) -> Prompt:
    """A whole dialogue that realises an intent: the second half of step (d). `complaint` is why the last one failed."""
    again = f"\nAn earlier version failed its check: {complaint}\nWrite another that does not.\n" if complaint else ""
    user = f"""{_listed(offered)}

Write a conversation with an assistant in which a user has this intent, under the policy {policy.id!r}:
{intent}

Shape: {shape}
User turns: {turns}. Language: {language}. The first user turn carries what the person would really paste or say. Later turns
may be short and mean nothing without what came before. Assistant turns have 10 to 60 words. Do not name a policy in the text.
Label every user turn with the policy that its newest request belongs to, or null if it only thanks, greets, chats, or fits none.
{again}
{_JSON_ONLY} Form: {{"messages": [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}, ...], "labels": ["policy name or null", ...]}}"""
    return Prompt(step="dialogue", system=_author(), user=user, temperature=1.0, max_tokens=3000)


def check_dialogue(messages: Sequence[dict[str, object]], offered: Sequence[Policy]) -> Prompt:
    """A blind look: which policy does each user turn belong to? The labels are not shown."""
    told = json.dumps(
        [{"role": message["role"], "content": message["content"]} for message in messages], ensure_ascii=False, indent=1
    )
    user = f"""{_listed(offered)}

Conversation:
{told}

For each user turn, in order: which policy does the newest request belong to, given all before it? null if it only thanks,
greets or chats, or if no policy fits. Also say whether a real person could have written the user's turns.

{_JSON_ONLY} Form: {{"labels": ["policy name or null", ...], "natural": true}}"""
    return Prompt(step="check-dialogue", system=_reviewer(), user=user, temperature=0.0, max_tokens=400)


def _author() -> str:
    return (
        "You write training data for a router that picks, by policies in plain words, the kind of work a request is. "
        "You write what real people type: particular, uneven, sometimes careless; never an example sentence."
    )


def _reviewer() -> str:
    return "You check training data for a router that picks, by policies in plain words, the kind of work a request is."


def _listed(offered: Sequence[Policy]) -> str:
    lines = json.dumps(
        [{"name": policy.id, "description": policy.description} for policy in offered], ensure_ascii=False, indent=1
    )
    return f"Policies:\n{lines}"


# Reading --------------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL)
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i can(?:no|['’])t|i can not|as an ai|i['’]?m unable|i am unable|i won['’]t)",
    re.I,
)


def value(text: str) -> object:
    """The JSON value of an answer, out of a code fence or the prose around it if need be. Raises Unusable."""
    bare = _THINKING.sub("", text).strip()
    if not bare:
        raise Unusable("empty", "there is no answer")
    fenced = _FENCE.search(bare)
    for candidate in filter(None, (bare, fenced and fenced[1], _bracketed(bare))):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
        except RecursionError:
            break
    if _REFUSAL.match(bare):
        raise Unusable("refusal", bare[:200])
    raise Unusable("no JSON", bare[:200])


def _bracketed(text: str) -> str | None:
    """From the first bracket to the last one of its kind."""
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    if not starts:
        return None
    start = min(starts)
    end = text.rfind("]" if text[start] == "[" else "}")
    return text[start : end + 1] if end > start else None


_NAME = re.compile(r"[A-Za-z][\w-]*(\.[A-Za-z0-9][\w-]*)?")


def read_policies(text: str) -> tuple[Policy, ...]:
    """The policies of an answer to `policies`, or the kept ones of `check_policies`. Raises Unusable."""
    made = value(text)
    if isinstance(made, dict):
        made = cast("dict[str, object]", made).get("keep")
    found: dict[str, Policy] = {}
    for each in cast("list[object]", made) if isinstance(made, list) else []:
        entry = cast("dict[str, object]", each) if isinstance(each, dict) else {}
        name, description = entry.get("name"), entry.get("description")
        if isinstance(name, str) and isinstance(description, str) and _NAME.fullmatch(name) and description.strip():
            found.setdefault(name, Policy(id=name, description=" ".join(description.split())))
    if not found:
        raise Unusable("wrong form", "no policies with a name and a description")
    return tuple(found.values())


def read_intents(text: str) -> tuple[str, ...]:
    """The intents of an answer. Raises Unusable."""
    made = value(text)
    listed = cast("list[object]", made) if isinstance(made, list) else []
    found = [" ".join(each.split()) for each in listed if isinstance(each, str) and each.strip()]
    if not found:
        raise Unusable("wrong form", "no list of texts")
    return tuple(dict.fromkeys(found))


class Dialogue(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as a model wrote it: messages, and a label for each user turn in order."""

    messages: tuple[dict[str, object], ...]
    labels: tuple[str | None, ...]


def read_dialogue(text: str, offered: Sequence[Policy]) -> Dialogue:
    """The dialogue of an answer. Raises Unusable, with a text that tells a model what to do otherwise."""
    made = value(text)
    entry = cast("dict[str, Any]", made) if isinstance(made, dict) else {}
    messages = tuple(_messages(entry.get("messages")))
    users = sum(message["role"] == "user" for message in messages)
    if not users or messages[0]["role"] != "user":
        raise Unusable("wrong form", "messages must begin with a user's")
    if any(one["role"] == other["role"] for one, other in itertools.pairwise(messages)):
        raise Unusable("wrong form", "user and assistant must take turns")
    labels = read_labels(entry.get("labels"), users, offered)
    if not any(labels):
        raise Unusable("wrong label", "no user turn asks for anything")
    return Dialogue(messages=messages, labels=labels)


def _messages(made: object) -> Sequence[dict[str, object]]:
    found: list[dict[str, object]] = []
    for each in cast("list[object]", made) if isinstance(made, list) else []:
        message = cast("dict[str, object]", each) if isinstance(each, dict) else {}
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant") or not isinstance(content, str) or not content.strip():
            raise Unusable("wrong form", "a message needs a role, user or assistant, and content")
        found.append({"role": role, "content": content.strip()})
    return found


def read_labels(made: object, users: int, offered: Sequence[Policy]) -> tuple[str | None, ...]:
    """One label a user turn. "null", "none" and "other" in quotes are what they mean. Raises Unusable."""
    if not isinstance(made, list) or len(cast("list[object]", made)) != users:
        raise Unusable("wrong form", f"there must be {users} labels, one a user turn")
    known = {policy.id.casefold(): policy.id for policy in offered}
    found: list[str | None] = []
    for each in cast("list[object]", made):
        if each is None or (isinstance(each, str) and each.strip().casefold() in ("null", "none", "other", "")):
            found.append(None)
        elif isinstance(each, str) and each.strip().casefold() in known:
            found.append(known[each.strip().casefold()])
        else:
            raise Unusable("wrong label", f"{str(each)[:60]!r} is no policy of the list")
    return tuple(found)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a check said: its own labels, and whether a person could have written the turns."""

    labels: tuple[str | None, ...]
    natural: bool


def read_verdict(text: str, users: int, offered: Sequence[Policy]) -> Verdict:
    """The answer to `check_dialogue`. Raises Unusable."""
    made = value(text)
    entry = cast("dict[str, object]", made) if isinstance(made, dict) else {}
    return Verdict(labels=read_labels(entry.get("labels"), users, offered), natural=entry.get("natural") is not False)
