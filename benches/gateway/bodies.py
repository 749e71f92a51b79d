"""Chat conversations of a given size, the same at every run. Knows nothing of who reads them."""

from __future__ import annotations

import json
from itertools import cycle

_SENTENCES = (
    "Could you look at clause 4.2 of the supply agreement and tell me what happens if the second delivery is late?",
    'It says that "time is of the essence", but the annex gives the supplier ten working days of grace.',
    "The caf\u00e9 in M\u00fcnchen paid \u20ac1,250 on the 3rd of March, and the rest is still open.\n",
    "- keep the penalty at 0.5 % a week\n- cap it at 10 % of the order\n- exclude force majeure",
    "def total(lines):\n    return sum(line.price * line.count for line in lines)",
    "As far as I can see nothing in the general terms contradicts this; the special terms come first anyway.",
)
_SYSTEM = "You are a careful assistant. Answer briefly, say what you are unsure of, and quote the clause you rely on."


def conversation(size: int, *, model: str, stream: bool = False) -> bytes:
    """A chat-completions body of exactly `size` bytes; user and assistant take turns, and the user comes last."""
    turns = 5 if size < 10_000 else 21
    head = {"model": model, "stream": stream, "temperature": 0.2}
    messages = [{"role": "system", "content": _SYSTEM}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": ""} for i in range(turns)]
    room = (size - len(_encode({**head, "messages": messages}))) // turns
    sentences = cycle(_SENTENCES)
    for message in messages[1:]:
        message["content"] = _text(sentences, room)
    missing = size - len(_encode({**head, "messages": messages}))
    messages[-1]["content"] += "." * missing
    return _encode({**head, "messages": messages})


def _text(sentences: cycle[str], room: int) -> str:
    """Sentences up to at most `room` bytes of JSON."""
    made: list[str] = []
    used = 0
    for sentence in sentences:
        used += len(_encode(sentence)) - 1  # without its quotes, with the space behind it
        if used > room:
            return " ".join(made)
        made.append(sentence)
    raise AssertionError("a cycle has no end")


def _encode(value: object) -> bytes:
    # Compact and not ASCII-only, as the JavaScript and the Python SDK of OpenAI send it.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
