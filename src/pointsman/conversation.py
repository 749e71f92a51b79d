"""A conversation as a router may see it: chat messages to turns, agent noise removed, cut to a budget of tokens.

Reading is total: any JSON value gives a Conversation, for routing must never fail a request that the provider would
take. What cannot be read is left out here and still travels to the provider untouched. Knows no wire format beyond
"a list of messages with role and content", no router and no model; the tokenizer is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

import msgspec

Role = Literal["user", "assistant", "system", "tool"]

_ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}

# What coding agents and chat clients wrap around or put beside a person's words inside a *user* message. Left in, every
# request of such a client looks alike to a router (it is the same reminder each time).
_NOISE_TAGS = (
    "system-reminder",
    "system_reminder",
    "environment_details",
    "environment_context",
    "user_instructions",
    "local-command-stdout",
    "local-command-stderr",
    "local-command-caveat",
    "command-message",
    "command-name",
    "command-contents",
    "task-notification",
    "open_and_recently_viewed_files",
    "additional_data",
    "reminderInstructions",
    "editorContext",
    "workspace_info",
)

# Wrappers whose inside is what the person said; if one is there, only its inside counts. Tags that people write
# themselves when they structure a prompt (context, task, document, answer) are left alone.
_ASK_TAGS = ("user_query", "userRequest", "user_message")

# Whole messages that clients write in the user's name.
_CLIENT_MESSAGES = (
    re.compile(r"\s*\[Request interrupted by user[^\]]*\]\s*"),
    re.compile(r"\s*This session is being continued from a previous conversation\b.*", re.DOTALL),
    re.compile(r"\s*\[Tool use was rejected[^\]]*\]\s*", re.IGNORECASE),
)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message: who spoke and the text that counts, which may be empty (an image, a tool call, noise only)."""

    role: Role
    text: str
    images: int = 0


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """All turns of a dialogue, oldest first."""

    turns: tuple[Turn, ...] = ()

    @property
    def readable(self) -> tuple[Turn, ...]:
        """What a router may score: user and assistant turns with text, up to the newest user turn.

        What follows that turn (an agent's tool calls and their results) is left out, so that all the internal calls of
        one user turn are routed alike. Empty if no user has said anything in words.
        """
        spoken = [turn for turn in self.turns if turn.text and turn.role in ("user", "assistant")]
        while spoken and spoken[-1].role != "user":
            spoken.pop()
        return tuple(spoken)

    @property
    def images(self) -> int:
        """Number of images in the newest user message."""
        for turn in reversed(self.turns):
            if turn.role == "user":
                return turn.images
        return 0


def read(messages: object) -> Conversation:
    """The conversation in a decoded `messages` array (OpenAI chat shape; Anthropic's content blocks are read too).

    Accepts a bare string as one user turn. Never raises.
    """
    if isinstance(messages, str):
        return Conversation(turns=(Turn(role="user", text=_clean([messages])),))
    if not isinstance(messages, list):
        return Conversation()
    return Conversation(turns=tuple(_turns(cast("list[object]", messages))))


def _turns(messages: list[object]) -> Iterator[Turn]:
    for message in messages:
        if not isinstance(message, dict):
            continue
        fields = cast("dict[str, object]", message)
        named = fields.get("role")
        role = _ROLES.get(named) if isinstance(named, str) else None
        if role is None:
            continue
        texts, images = _content(fields.get("content"))
        yield Turn(role=role, text=_clean(texts) if role == "user" else "\n".join(texts).strip(), images=images)


def _content(content: object) -> tuple[list[str], int]:
    """Texts and number of images of a message's content: a string, a list of parts, or nothing."""
    if isinstance(content, str):
        return [content], 0
    texts: list[str] = []
    images = 0
    if isinstance(content, list):
        for part in cast("list[object]", content):
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, dict):
                fields = cast("dict[str, object]", part)
                kind = fields.get("type")
                text = fields.get("text")
                if isinstance(text, str) and kind in ("text", "input_text", "output_text", None):
                    texts.append(text)
                elif kind in ("image_url", "image", "input_image"):
                    images += 1
    return texts, images


def _clean(parts: list[str]) -> str:
    """A user message without what its client put there."""
    # Each part by itself: a client's reminder or summary is often a part of its own, with the ask in the next.
    text = "\n".join(kept for part in parts if (kept := _without_noise(part)))
    if "<" in text:
        asks = [inside.strip() for tag in _ASK_TAGS for _, inside in _split(text, tag) if inside]
        text = "\n".join(filter(None, asks)) or text
    return text


def _without_noise(text: str) -> str:
    if "<" in text:
        for tag in _NOISE_TAGS:
            text = "".join(outside for outside, _ in _split(text, tag))
    return "" if any(pattern.fullmatch(text) for pattern in _CLIENT_MESSAGES) else text.strip()


def _split(text: str, tag: str) -> Iterator[tuple[str, str | None]]:
    """(text before an element, its inside) for every `<tag ...>…</tag>`, then (the rest, None).

    Plain searching and not one regular expression, since the time must stay linear for a text of a million open tags.
    An element that is never closed is ordinary text.
    """
    opening, closing = f"<{tag}", f"</{tag}>"
    position = 0
    search_from = 0
    while (start := text.find(opening, search_from)) >= 0:
        name_end = start + len(opening)
        if text[name_end : name_end + 1] not in (">", " ", "\n"):
            search_from = name_end
            continue
        inside = text.find(">", name_end) + 1
        end = text.find(closing, inside) if inside else -1
        if end < 0:
            break
        yield text[position:start], text[inside:end]
        position = search_from = end + len(closing)
    yield text[position:], None


Offsets = Callable[[str], Sequence[tuple[int, int]]]
"""A tokenizer as this module sees it: the (start, end) character offsets of each token of a text, in order."""

_GAP = " … "

# No tokenizer that we serve makes fewer than one token of this many characters of prose, code or CJK, so what lies
# beyond budget * this on either side of a long message cannot be kept; cutting before tokenising bounds the time.
_CHARS_PER_TOKEN = 16


def trim(text: str, budget: int, offsets: Offsets) -> str:
    """`text` cut to at most `budget` tokens out of its middle, for an ask stands at the start or end of a long message.

    Two thirds of the budget go to the start, one third to the end, and the mark between them is paid from it. The same
    text and budget give the same cut.
    """
    keep = budget * _CHARS_PER_TOKEN
    cut = len(text) > 2 * keep
    head, tail = (text[:keep], text[-keep:]) if cut else (text, text)
    tokens = offsets(head)
    if not cut and len(tokens) <= budget:
        return text
    gap = len(offsets(_GAP))
    last = max(0, budget - gap) // 3
    first = budget - gap - last if last else budget
    ends = offsets(tail) if cut else tokens
    start = head[: tokens[min(first, len(tokens)) - 1][1]] if tokens else ""
    if not last or not ends:
        return start
    return start + _GAP + tail[ends[-min(last, len(ends))][0] :]


def window(conversation: Conversation, turns: int) -> tuple[Turn, ...]:
    """The newest `turns` of what may be scored, oldest first: empty, or its last turn is the newest user turn.

    A router cuts each of them with `trim` to as many of its own tokens as it gives that role.
    """
    return conversation.readable[-turns:]
