"""A dozen conversations whose every figure can be counted by hand, and routers whose answers are known beforehand.

Policies: food.order, food.recipe, travel.book, travel.visa, money.send, money.tax, with the domains food and travel
described and money not. `w` numbers the conversations; see `EXAMPLES` for what each is for.
"""

from collections.abc import Callable, Mapping

from pointsman.conversation import Conversation
from pointsman.dataset import Dataset, Example, Label, Source, Taxonomy
from pointsman.decision import PolicyScore, Scores
from pointsman.evals.contenders import Contender
from pointsman.policy import Policy, PolicySet
from pointsman.router import Router

POLICIES = PolicySet(
    Policy(id=id, description=f"All about {id.replace('.', ' ')}")
    for id in ("food.order", "food.recipe", "travel.book", "travel.visa", "money.send", "money.tax")
)
DOMAINS = PolicySet(Policy(id=id, description=f"All about {id}") for id in ("food", "travel"))
TAXONOMY = Taxonomy(name="worked", policies=POLICIES, domains=DOMAINS)

CLOSING = "closing"
"""A gold that stands for a turn which only closes."""


def example(id: str, *golds: str | None) -> Example:
    """A conversation with one user turn a gold, whose text is `id` and the turn's number: `w1 0`, `w1 1` …"""
    messages: list[dict[str, object]] = []
    turns: list[Label] = []
    for number, gold in enumerate(golds):
        turns.append(Label(index=len(messages), policy=None if gold == CLOSING else gold, closing=gold == CLOSING))
        messages.append({"role": "user", "content": f"{id} {number}"})
        messages.append({"role": "assistant", "content": "Certainly."})
    return Example(id=id, source="worked", policies="worked", messages=tuple(messages), turns=tuple(turns))


EXAMPLES = (
    example("w1", "food.order"),
    example("w2", "food.order", "food.order"),
    example("w3", "food.order", "food.recipe", "food.recipe"),
    example("w4", "travel.book", "food.order", "travel.book", "travel.book"),
    example("w5", "travel.visa", CLOSING),
    example("w6", None),
    example("w7", "money.send", None, "money.send"),
    example("w8", "money.tax", "money.tax", "money.tax", CLOSING, CLOSING),
    example("w9", "travel.visa", "travel.book"),
    example("w10", "food.recipe"),
    example("w11", None, None),
    example("w12", "money.send"),
)
"""27 labelled turns: 20 with a policy, 4 irrelevant, 3 closing.

Spans with a policy: w1 1, w2 1, w3 2, w4 3, w5 1, w7 2, w8 1, w9 2, w10 1, w12 1 = 15. Of none: w5, w6, w7, w8 and w11
one each = 5. Conversations with a policy: all but w6 and w11 = 10.
"""

DATA = Dataset(
    sources=(Source(name="worked", split="", file="worked.jsonl", sha256="0" * 64, examples=EXAMPLES),),
    taxonomies={"worked": TAXONOMY},
)


class Told:
    """A scorer that answers by the newest user turn's text: a policy of the offer, or None. The rest get nothing."""

    def __init__(self, answers: Mapping[str, str | None] | Callable[[str, PolicySet], str | None]) -> None:
        self.id = "told"
        self._answer = answers if callable(answers) else lambda text, _offered: answers[text]
        self.seen: list[tuple[str, tuple[str, ...]]] = []

    async def prepare(self, policies: PolicySet) -> None:
        pass

    async def score(self, conversation: Conversation, policies: PolicySet) -> Scores:
        text = conversation.readable[-1].text
        self.seen.append((text, policies.ids))
        chosen = self._answer(text, policies)
        if chosen not in policies:
            chosen = None
        sure = {id: 0.9 if id == chosen else 0.0 for id in policies.ids}
        return Scores(
            policies=tuple(PolicyScore(policy=id, score=value, probability=value) for id, value in sure.items()),
            other=0.1 if chosen else 1.0,
        )

    async def close(self) -> None:
        pass


def contender(scorer: Told, name: str = "told") -> Contender:
    router = Router(lambda: scorer, policies=PolicySet(), default=("nobody/default",), deadline=60.0)
    return Contender(name=name, router=router)
