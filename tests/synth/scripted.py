"""A language model that does as the pipeline asks, deterministically, and misbehaves now and then: no JSON, refusals,
wrong labels, other policies, 429, 500, slow answers. What it writes follows from what it is asked."""

import asyncio
import hashlib
import json
import random
import re
from collections import Counter

import msgspec

from pointsman.testing import Body, Received, Status, Wire

_WORDS = """
    harbour ledger violin glacier turbine orchard parcel lantern nephew quarry saddle thermos umbrella walnut zeppelin
    anchor basil copper dragonfly engine falcon gravel hinge igloo jacket kettle lemon mirror needle ostrich pepper
    quilt ribbon sailor tulip urchin velvet whistle yeast zebra almond bridge candle donkey easel fountain goblet
    harvest insect jigsaw kayak ladder magnet notebook oyster pigeon quarrel rocket spindle timber
""".split()  # noqa: SIM905


class Model(msgspec.Struct):
    """A `Behaviour`. `trouble` is the share of calls that go wrong in one way or another."""

    trouble: float = 0.0
    slow: float = 0.0
    """Seconds before each answer."""
    asked: Counter[str] = msgspec.field(default_factory=Counter)
    """How often each body came, but for calls that were refused with a status."""

    async def answer(self, call: Received, wire: Wire) -> None:
        body = call.body.decode()
        digest = hashlib.sha256(call.body).hexdigest()
        rng = random.Random(digest)
        first = self.asked[digest] == 0
        await asyncio.sleep(self.slow)
        if (rng.random() < self.trouble / 2) and first:
            # Passes when tried again.
            self.asked[digest] += 1
            await Status(rng.choice((429, 500, 503)), {"retry-after": "0"}).answer(call, wire)
            return
        self.asked[f"answered {digest}"] += 1
        self.asked[digest] += 1
        prompt = call.json["messages"][1]["content"]
        said = self.said(prompt, rng)
        if rng.random() < self.trouble:
            said = rng.choice(
                (
                    "I'm sorry, but I can't help with that request.",
                    "",
                    said[: len(said) // 2],
                    "Here you go! Let me know if you want more.",
                    '{"messages": [], "labels": []}',
                    '["only", 1, null]',
                )
            )
        elif rng.random() < 0.2:
            said = f"Sure:\n```json\n{said}\n```"
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(said) // 4}
        answer = {"choices": [{"index": 0, "message": message}], "usage": usage}
        await Body(json.dumps(answer).encode()).answer(call, wire)

    def said(self, prompt: str, rng: random.Random) -> str:
        names = re.findall(r'"name": "([^"]+)",\n', prompt)
        some = " ".join(rng.choices(_WORDS, k=9))
        if "candidates for routing policies" in prompt:
            return json.dumps(
                {"keep": [{"name": name, "description": f"All about {name}"} for name in names], "drop": []}
            )
        if prompt.startswith("Topic:"):
            words = rng.sample(_WORDS, 4)
            return json.dumps(
                [{"name": f"about_{word}", "description": f"Everything about a {word}"} for word in words]
            )
        if "intents for the policy" in prompt:
            count = int(re.findall(r"Write (\d+) intents", prompt)[0])
            return json.dumps([f"Somebody wants {' '.join(rng.sample(_WORDS, 6))}" for _ in range(count)])
        if "which policy does the newest request belong to" in prompt:
            # Labels are told by the texts: "[policy] ..." is what the dialogue's author wrote.
            users = re.findall(r'"role": "user",\n\s*"content": "(.*)"', prompt)
            labels = [(found[0] if (found := re.findall(r"\((\d+)\)", text)) else None) for text in users]
            return json.dumps(
                {"labels": [names[int(at)] if at is not None else None for at in labels], "natural": True}
            )
        policy = re.findall(r"under the policy '([^']+)'", prompt)[0]
        turns = int(re.findall(r"User turns: (\d+)", prompt)[0])
        at = names.index(policy)
        messages: list[dict[str, str]] = []
        labels: list[str | None] = []
        for turn in range(turns):
            closing = turn == turns - 1 and turn > 0
            text = f"thanks, {some} bye" if closing else f"({at}) about {' '.join(rng.choices(_WORDS, k=10))}"
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": f"Here: {some}"}]
            labels.append(None if closing else policy)
        if rng.random() < self.trouble:
            labels[0] = names[(at + 1) % len(names)]
        return json.dumps({"messages": messages, "labels": labels})
