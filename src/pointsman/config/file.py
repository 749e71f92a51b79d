"""The policy file as people write it: its structs, and the JSON Schema for editors that is made from them.

What the file means once it is checked is `pointsman.config.Config`; these are two types on purpose.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Models = Annotated[str | list[str], Meta(description="`provider/name`, or a list of them, preferred first.")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class ActionEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy at action level: one kind of work within a domain."""

    description: Annotated[str, Meta(description="What the work is, in plain words.")]
    examples: Annotated[
        list[str], Meta(description="Requests that belong here, as users word them; they sharpen the embedded router.")
    ] = []
    models: Models = []


class DomainEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy at domain level, with its actions. Without a description it only groups its actions."""

    description: Annotated[str, Meta(description="What the domain is, in plain words.")] = ""
    examples: Annotated[list[str], Meta(description="Requests that belong here, as users word them.")] = []
    models: Annotated[Models, Meta(description="Preferred first; the actions inherit them.")] = []
    actions: dict[str, ActionEntry] = {}


class ProviderEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service that answers calls. A known name needs only its key."""

    key: Annotated[str | None, Meta(description="Usually a reference: ${OPENAI_API_KEY}.")] = None
    dialect: Annotated[Literal["openai"] | None, Meta(description="The wire format it speaks.")] = None
    base_url: Annotated[str | None, Meta(description="Up to and without /chat/completions.")] = None
    headers: Annotated[dict[str, str], Meta(description="Sent with every call.")] = {}


class RoutingEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How decisions are made."""

    deadline_ms: Annotated[
        float, Meta(gt=0, le=60_000, description="After this the default model answers, reason `timeout`.")
    ] = 250.0
    min_confidence: Annotated[float, Meta(ge=0, le=1, description="A policy less likely than this is not chosen.")] = (
        0.0
    )
    weights: Annotated[
        str | None, Meta(description="A folder of weights that `pointsman train` made, beside this file or absolute.")
    ] = None
    calibration: Annotated[
        str | None, Meta(description="A file that `pointsman calibrate` made, beside this file or absolute.")
    ] = None


class TimeoutsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of patience with an upstream."""

    connect: Annotated[Seconds, Meta(description="To open a connection.")] = 10.0
    first_byte: Annotated[Seconds, Meta(description="From the request to the first byte of the answer's body.")] = 120.0
    idle: Annotated[Seconds, Meta(description="Between two bytes of the answer.")] = 60.0
    total: Annotated[Seconds, Meta(description="The whole call, all attempts together.")] = 600.0


class GatewayEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP side."""

    keys: Annotated[
        list[str], Meta(description="Keys of which callers must present one; usually references. Empty: none is asked.")
    ] = []
    max_body_mb: Annotated[float, Meta(gt=0, le=1024, description="A larger request body is refused.")] = 32.0
    timeouts: TimeoutsEntry = TimeoutsEntry()


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Pointsman policy file."""

    version: Annotated[Literal[1], Meta(description="The format's version: 1.")]
    providers: Annotated[
        dict[str, ProviderEntry | None], Meta(description="The services that models are named after: `provider/name`.")
    ]
    default: Annotated[Models, Meta(description="Answers whatever no policy fits.")]
    policies: Annotated[
        dict[str, DomainEntry], Meta(description="The taxonomy: domains, and their actions, by name.")
    ] = {}
    aliases: Annotated[dict[str, str], Meta(description="Other names under which callers may ask for a model.")] = {}
    routing: RoutingEntry = RoutingEntry()
    gateway: GatewayEntry = GatewayEntry()


def schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of a policy file."""
    made = msgspec.json.schema(PolicyFile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Pointsman policy file", **made}
