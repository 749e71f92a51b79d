"""The ways to score a conversation against a policy set. Each is a `Scorer`; none knows another, HTTP or models."""

from __future__ import annotations

from typing import Protocol

from pointsman.conversation import Conversation
from pointsman.decision import Scores
from pointsman.policy import PolicySet


class Scorer(Protocol):
    """Scores conversations. May be slow or raise: `Router.decide` holds the clock and catches."""

    id: str
    """Names the method and its weights, so that a recorded decision can be traced to them."""

    async def prepare(self, policies: PolicySet) -> None:
        """Do ahead of time what depends on the policies alone."""
        ...

    async def score(self, conversation: Conversation, policies: PolicySet) -> Scores:
        """A probability for every policy, in the set's order, and for "none of them".

        Raises RouterError. Cancelling it frees what it holds.
        """
        ...

    async def close(self) -> None:
        """Let go of threads and connections."""
        ...
