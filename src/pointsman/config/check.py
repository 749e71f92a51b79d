"""What a decoded policy file means: references resolved, names checked, a Config made, or every Problem named.

Pure: the environment is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pointsman.config import file
from pointsman.config.decode import suggest
from pointsman.config.document import Document, Key, spell
from pointsman.config.providers import KNOWN
from pointsman.config.tree import Config, Gateway, Provider, Routing, Secret, Timeouts
from pointsman.errors import Problem
from pointsman.policy import Policy, PolicySet

# Ids travel in HTTP headers and in the generative routers' answers; the dot separates the two levels.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_BARE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*|\{[^}]*)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
RESERVED = {
    "other": "it is what routers answer when nothing fits",
    "auto": "it is how callers ask for routing",
    "default": "it is what answers when nothing fits",
}
# They frame a request or belong to one connection; a fixed value breaks every call.
_FRAMING = frozenset(
    ("accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te", "trailer")
) | {"transfer-encoding", "upgrade"}


class Checker:
    """One pass over a decoded file. `problems` and `warnings` grow as it goes.

    `problems` comes in with what decoding found: where something is known to be wrong, the blank that stands for it is
    not reported again.
    """

    def __init__(
        self,
        document: Document,
        providers: Mapping[str, object],
        env: Mapping[str, str] | None,
        problems: list[Problem],
    ) -> None:
        self.document = document
        self.providers = providers
        self.env = env
        self.problems = problems
        self.known_wrong = {problem.path for problem in problems}
        self.warnings: list[Problem] = []
        self.expanded: set[str] = set()

    def config(self, entry: file.PolicyFile, digest: str, folder: Path) -> Config:
        """The Config that `entry`, a file in `folder`, describes; worth nothing if `problems` is not empty."""
        if not entry.providers:
            self.note(("providers",), "names no provider", 'add one, such as `openai: {key: "${OPENAI_API_KEY}"}`')
        providers = {
            name: self.provider(name, given or file.ProviderEntry()) for name, given in entry.providers.items()
        }
        default = self.models(entry.default, ("default",))
        if not default:
            self.note(("default",), "names no model", "write `provider/name` of the model that answers the rest")
        keys = tuple(self.secret(key, ("gateway", "keys", i)) for i, key in enumerate(entry.gateway.keys))
        timeouts = entry.gateway.timeouts
        return Config(
            providers=providers,
            default=default,
            aliases={name: self.alias(name, model) for name, model in entry.aliases.items()},
            policies=self.policies(entry.policies),
            routing=Routing(
                deadline=entry.routing.deadline_ms / 1000,
                min_confidence=entry.routing.min_confidence,
                weights=self.path(folder, entry.routing.weights, "weights", "`pointsman train encoder` makes one"),
                calibration=self.path(
                    folder,
                    entry.routing.calibration,
                    "calibration",
                    "leave it out, and `pointsman calibrate` makes one",
                ),
            ),
            gateway=Gateway(
                keys=keys,
                max_body=int(entry.gateway.max_body_mb * 1024 * 1024),
                timeouts=Timeouts(
                    connect=timeouts.connect, first_byte=timeouts.first_byte, idle=timeouts.idle, total=timeouts.total
                ),
            ),
            digest=digest,
            references=tuple(Secret(text) for text in sorted(self.expanded) if text),
            warnings=tuple(self.warnings),
        )

    def path(self, folder: Path, given: str | None, name: str, mend: str) -> Path | None:
        """A path of `routing:`, taken from beside the file. What it holds is looked at when it is loaded."""
        if given is None:
            return None
        path = folder / given
        try:
            there = path.exists()
        except OSError:  # a name that is too long, or a folder that may not be looked into
            there = False
        if not there:
            self.note(("routing", name), f"{str(path)!r} is not there", mend)
        return path

    def policies(self, entries: Mapping[str, file.DomainEntry], at: Key = ("policies",)) -> PolicySet:
        """The policy set of a taxonomy; actions without models have their domain's."""
        found: list[Policy] = []
        seen: dict[str, str] = {}
        for name, domain in entries.items():
            key = (*at, name)
            self.name(name, key, "domain")
            models = self.models(domain.models, (*key, "models"))
            if domain.description.strip() or not domain.actions:
                found.append(self.policy(name, domain, models, key, seen))
            elif domain.examples:
                mend = "add a `description:`, or move the examples to the actions"
                self.note((*key, "examples"), "belong to a domain without a description", mend)
            for action, given in domain.actions.items():
                place = (*key, "actions", action)
                self.name(action, place, "action")
                own = self.models(given.models, (*place, "models")) or models
                found.append(self.policy(f"{name}.{action}", given, own, place, seen))
        return PolicySet({policy.id: policy for policy in found}.values())

    def policy(
        self,
        id: str,
        entry: file.DomainEntry | file.ActionEntry,
        models: tuple[str, ...],
        key: Key,
        seen: dict[str, str],
    ) -> Policy:
        description = " ".join(entry.description.split())
        if not description:
            self.note((*key, "description"), "is empty", "say in a few words what work belongs here")
        elif (folded := description.casefold()) in seen:
            mend = "say what sets the two apart, or make them one policy"
            self.note((*key, "description"), f"is the same as that of `{seen[folded]}`", mend)
        else:
            seen[folded] = id
        for i, example in enumerate(entry.examples):
            if not example.strip():
                self.note((*key, "examples", i), "is empty", "remove it")
        return Policy(id=id, description=description, examples=tuple(entry.examples), models=models)

    def models(self, given: str | list[str], key: Key) -> tuple[str, ...]:
        """`given` as a tuple of models whose providers are there, each once."""
        named = [given] if isinstance(given, str) else given
        seen: set[str] = set()
        for i, model in enumerate(named):
            place = key if isinstance(given, str) else (*key, i)
            self.model(model, place)
            if model in seen:
                self.note(place, f"`{model}` is named twice", "remove one")
            seen.add(model)
        return tuple(named)

    def model(self, model: str, key: Key) -> None:
        provider, slash, name = model.partition("/")
        if not slash or not provider or not name or not model.isprintable() or " " in model:
            self.note(key, f"`{model}` is no model", "write `provider/name`, such as `openai/gpt-5-mini`")
        elif self.providers and provider not in self.providers:
            mend = suggest(provider, self.providers)
            if key[0] == "policies" and not self.document.lines:
                pass  # a request's body; its sender cannot add a provider
            elif provider in KNOWN:
                mend = f"add `{provider}:` under `providers:`"
            else:
                mend = f"add it under `providers:`, or {mend}"
            self.note(key, f"unknown provider `{provider}`", mend)

    def alias(self, name: str, model: str) -> str:
        key = ("aliases", name)
        if "/" in name:
            self.note(key, "an alias has no slash", "a `provider/name` is reached without one")
        elif not name or not name.isprintable() or name != name.strip():
            self.note(key, "is no name for a model", "use printable characters, without blanks at the ends")
        elif name == "auto":
            self.note(key, "`auto` is taken", f"choose another name: {RESERVED['auto']}")
        self.model(model, key)
        return model

    def name(self, name: str, key: Key, level: str) -> None:
        if not NAME.fullmatch(name):
            mend = "use up to 64 letters, digits, `_` and `-`"
            if "." in name and level == "domain":
                domain, _, action = name.partition(".")
                mend = f"write `{action}` under `{domain}: actions:`"
            self.note(key, f"`{name}` cannot name {'an' if level == 'action' else 'a'} {level}", mend)
        elif name.lower() in RESERVED:
            self.note(key, f"`{name}` is reserved", f"choose another name: {RESERVED[name.lower()]}")

    def provider(self, name: str, entry: file.ProviderEntry) -> Provider:
        key: Key = ("providers", name)
        known = KNOWN.get(name)
        self.name(name, key, "provider")
        secret = self.secret(entry.key, (*key, "key")) if entry.key is not None else None
        if known and known.variable and entry.key is None and entry.base_url is None:
            self.note((*key, "key"), "is missing", f'add `key: "${{{known.variable}}}"`')
        if not known and not entry.base_url:
            mend = f"add `base_url: http://localhost:8000/v1` or the like; {suggest(name, KNOWN)}"
            self.note((*key, "base_url"), "is missing, and this is no provider known by name", mend)
        headers: dict[str, Secret] = {}
        for header, value in entry.headers.items():
            place = (*key, "headers", header)
            if not HEADER.fullmatch(header):
                self.note(place, "is no header name", "use letters, digits and `-`")
            elif header.lower() in _FRAMING:
                self.note(place, "is set for each call by itself", "remove it")
            elif header.lower() in headers:
                self.note(place, "is given twice, in different case", "keep one")
            headers[header.lower()] = self.secret(value, place, literal=True)
        url = self.url(entry.base_url or (known.base_url if known else ""), (*key, "base_url"))
        if (secret or "authorization" in headers) and "@" in url.partition("//")[2].partition("/")[0]:
            self.note((*key, "base_url"), "holds a user, and there is a key as well", "keep one of the two")
        return Provider(
            name=name,
            dialect=entry.dialect or (known.dialect if known else "openai"),
            base_url=Secret(url),
            key=secret,
            headers=headers,
        )

    def url(self, given: str, key: Key) -> str:
        url = self.expand(given, key).rstrip("/")
        if not url:
            return url
        unresolved = self.env is None and _REFERENCE.search(url) is not None
        try:
            parts = urlsplit(url)
            sound = unresolved or (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
        except ValueError:
            sound = False
        if url.partition("?")[0].endswith("/chat/completions"):
            self.note(key, "ends in /chat/completions", "leave that off; it is added to each call")
        if not sound or not url.isprintable() or " " in url:
            # The address is not repeated: a query or user part may be secret.
            self.note(key, "is no http(s) address", "write it like `http://localhost:8000/v1`")
        return url

    def secret(self, given: str, key: Key, *, literal: bool = False) -> Secret:
        """`given` with its references expanded; a literal key is allowed, but warned of."""
        text = self.expand(given, key)
        if not text and given == "":
            self.note(key, "is empty", "name the variable that holds it, such as `${MY_KEY}`")
        # It is sent in a header: a line break (from a file read into the variable) would end the header.
        if not text.isprintable() or text != text.strip():
            self.note(key, "holds a line break or blanks at its ends", "strip the variable's value")
        if not literal and not _REFERENCE.search(given):
            mend = 'put it into an environment variable and write `"${NAME}"`'
            self.warnings.append(self.document.problem(key, "a key is written in the file", mend))
        return Secret(text)

    def expand(self, given: str, key: Key) -> str:
        """`${NAME}` replaced from the environment; left as it is where no environment was handed in."""

        if _BARE.fullmatch(given):
            # A shell would expand it; here it would be sent to the provider as the key.
            self.note(key, "holds a reference without its braces", "write `${NAME}`")

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if not _VARIABLE.fullmatch(name):
                self.note(key, "holds a reference that names no variable", "write `${NAME}`")
                return ""
            if self.env is None:
                return match[0]
            self.expanded.add(self.env.get(name, ""))
            if not self.env.get(name):
                state = "is empty" if name in self.env else "is not set"
                self.note(key, f"the environment variable {name} {state}", f"export {name}=…")
            return self.env.get(name, "")

        return _REFERENCE.sub(value, given)

    def note(self, key: Key, message: str, mend: str) -> None:
        if not any(spell(key[:depth]) in self.known_wrong for depth in range(1, len(key) + 1)):
            self.problems.append(self.document.problem(key, message, mend))
