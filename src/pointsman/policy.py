"""Policies, the taxonomy they form, and the table from policy to models. Knows no file, router or provider.

The formalism is Arch-Router's (arXiv 2506.16655, section 3): policies C = {(name, description)}, a router
F: (conversation, C) -> c, a table T: C -> M. A policy lives at domain level (`legal`) or at action level
(`legal.summarization`); `PolicySet` is C, and each policy's `models` is its row of T.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of work is, in words, and which models are preferred for it.

    `id` is `domain` or `domain.action`. `models` are `provider/name`, preferred first, the rest being fallbacks in
    order; empty means that the default answers. `examples` are requests that belong here, in a user's words.
    """

    id: str
    description: str
    examples: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        return self.id.partition(".")[0]

    @property
    def action(self) -> str | None:
        return self.id.partition(".")[2] or None


class PolicySet:
    """The policies on offer, in the order they were written. Immutable; equal digests mean equal decisions."""

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        self._by_id: dict[str, Policy] = {}
        for policy in policies:
            if policy.id in self._by_id:
                raise ValueError(f"policy {policy.id!r} is given twice")
            self._by_id[policy.id] = policy

    @cached_property
    def digest(self) -> str:
        """16 hex digits over ids, descriptions, examples and models, in order."""
        # The standard library's JSON, for it escapes whatever is no ASCII, unpaired surrogates too.
        packed = json.dumps([msgspec.structs.astuple(policy) for policy in self])
        return hashlib.sha256(packed.encode()).hexdigest()[:16]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._by_id)

    def get(self, id: str) -> Policy | None:
        return self._by_id.get(id)

    def __getitem__(self, id: str) -> Policy:
        return self._by_id[id]

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"<PolicySet {self.digest}: {', '.join(self._by_id) or 'empty'}>"
