"""The checked configuration: a frozen tree that is passed down. Nothing in it can be wrong any more."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from pointsman.errors import Problem
from pointsman.policy import PolicySet


class Secret:
    """Text that must not be shown. Its repr and str are masked; `reveal` is for the one place that sends it.

    No msgspec struct on purpose: encoding a tree that holds one fails instead of showing it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A service that answers calls. `base_url` has no trailing slash; it may itself hold a secret (a query, a user)."""

    name: str
    dialect: str
    base_url: Secret
    key: Secret | None
    headers: dict[str, Secret]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of patience with an upstream; see the policy file's `gateway.timeouts`."""

    connect: float
    first_byte: float
    idle: float
    total: float


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """How decisions are made; the deadline is in seconds.

    `weights` is a folder and `calibration` a file for the embedded router, if not those that ship are wanted.
    """

    deadline: float
    min_confidence: float
    weights: Path | None = None
    calibration: Path | None = None


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP side; no keys means that callers need none. `max_body` is in bytes."""

    keys: tuple[Secret, ...]
    max_body: int
    timeouts: Timeouts


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole policy file, checked. `default` is the default model and its fallbacks; `digest` names this content."""

    providers: dict[str, Provider]
    default: tuple[str, ...]
    aliases: dict[str, str]
    policies: PolicySet
    routing: Routing
    gateway: Gateway
    digest: str
    references: tuple[Secret, ...] = ()
    """The values of all `${NAME}` that the file refers to."""
    warnings: tuple[Problem, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the file names, in order of first mention."""
        mentioned = [model for policy in self.policies for model in policy.models]
        return tuple(dict.fromkeys([*mentioned, *self.default, *self.aliases.values()]))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that must appear in no log, error or response, longest first."""
        keys = {secret.reveal() for secret in self.gateway.keys}
        told: set[str] = set()
        for provider in self.providers.values():
            if provider.key:
                keys.add(provider.key.reveal())
            told.update(secret.reveal() for secret in self.references)
            # "Bearer sk-…": the word that counts may come back alone.
            told.update(
                word for secret in provider.headers.values() for word in (secret.reveal(), *secret.reveal().split())
            )
            address = urlsplit(provider.base_url.reveal())
            told.update(value for _, value in parse_qsl(address.query))
            # As written, too: `%2F` and `+` may come back as they went out.
            told.update(pair.partition("=")[2] for pair in address.query.split("&"))
            for part in (address.username or "", address.password or ""):
                told |= {part, unquote(part)}
        # Of headers and addresses, what is shorter ("1", "on") would blank out ordinary words, and is no secret.
        found = keys | {text for text in told if len(text) >= 6}
        return tuple(sorted(filter(None, found), key=len, reverse=True))
