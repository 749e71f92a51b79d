"""A Plano (once Arch) gateway configuration to a Pointsman policy file. Knows both formats, and calls nothing.

Read as Plano reads it up to v0.4: preferences at each model (until v0.3) and in a list of their own (v0.4). What a
policy file cannot say is reported key by key, and a key or password that is written out is never copied.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import yaml

from pointsman.config.check import HEADER, NAME, RESERVED
from pointsman.config.decode import decode
from pointsman.config.document import Document, Key, parse
from pointsman.config.providers import KNOWN
from pointsman.errors import ConfigError, Problem


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """A policy file's text, and what was changed or left out on the way, in the order of Plano's file."""

    text: str
    dropped: tuple[Problem, ...]


def convert(data: bytes, *, file: str | None = None) -> Converted:
    """The policy file that does what the Plano configuration `data` does.

    Without a `default: true` the first model is the default, and `dropped` says so. Raises ConfigError if `data` is no
    Plano configuration, or one that Plano refuses too.
    """
    document = parse(data, file=file)
    problems = list(document.problems)
    given = document.value
    sections = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    if not {"model_providers", "llm_providers"} & sections.keys():
        message = "is no Plano configuration: it has no `model_providers:`"
        problems.append(Problem(path="", message=message, mend="is this the right file?", line=1))
        raise ConfigError(problems, file=file)
    unknown: list[Problem] = []
    entry = decode(document, _File, problems, unknown=unknown)
    conversion = _Conversion(document, problems)
    tree = {} if problems else conversion.tree(entry)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0), file=file)
    dropped = [*map(_advised, unknown), *conversion.dropped]
    return Converted(text=_write(tree), dropped=tuple(sorted(dropped, key=lambda problem: problem.line or 0)))


class _Preference(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    models: list[str] | None = None


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    name: str | None = None
    access_key: str | None = None
    base_url: str | None = None
    default: bool = False
    provider_interface: str | None = None
    passthrough_auth: bool = False
    headers: dict[str, str] | None = None
    routing_preferences: list[_Preference] | None = None


class _Alias(msgspec.Struct, frozen=True, kw_only=True):
    target: str | None = None
    targets: list[str] | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """The part of Plano's format that has a counterpart here."""

    model_providers: list[_Entry] | None = None
    llm_providers: list[_Entry] | None = None
    routing_preferences: list[_Preference] | None = None
    model_aliases: dict[str, _Alias] | None = None


# Plano's names of providers where ours differ.
_OUR_NAMES = {"gemini": "google", "together_ai": "together"}

# Providers that Plano knows the address of and `providers.KNOWN` does not.
_ADDRESSES = {
    "digitalocean": "https://inference.do-ai.run/v1",
    "moonshotai": "https://api.moonshot.ai/v1",
    "vercel": "https://ai-gateway.vercel.sh/v1",
    "xiaomi": "https://api.xiaomimimo.com/v1",
    "zhipu": "https://open.bigmodel.cn/api/paas/v4",
}

# Where chat completions are below a `base_url` that has no path; Plano puts this in by itself.
_PATHS = {
    "amazon_bedrock": "/openai/v1",
    "azure_openai": "/openai/v1",
    "gemini": "/v1beta/openai",
    "groq": "/openai/v1",
    "qwen": "/compatible-mode/v1",
    "zhipu": "/api/paas/v4",
}

# Providers and interfaces to which Plano speaks another wire format than chat completions.
_OTHER_FORMATS = {
    "amazon_bedrock": "check that the model is served at Bedrock's OpenAI-compatible address",
    "anthropic": "check that the address takes chat completions too",
    "azure_openai": "the address is Azure's `/openai/v1`, where a model goes by its deployment's name",
    "chatgpt": "use the provider `openai` and a key of its platform",
    "claude": "check that the address takes chat completions too",
}

_ADVICE = {
    "agents": "Pointsman routes to models; call agents directly",
    "capabilities": "route images and the like by policies of their own",
    "endpoints": "write the address of a model's endpoint as its provider's `base_url`",
    "filters": "filter before or after Pointsman, in the application",
    "guardrails": "guard prompts in the application",
    "http_host": "write it as `headers: {Host: ...}` at the provider, if its server needs it",
    "listeners": "the address is given to `pointsman serve`, patience is `gateway: timeouts:`",
    "mode": "leave it out: there is one mode",
    "model_metrics_sources": "order `models:` by hand, the cheapest or fastest first",
    "overrides": "see `routing:` and `gateway:` for what can be set",
    "prompt_guards": "guard prompts in the application",
    "prompt_targets": "offer them to the model as tools from the application",
    "ratelimits": "limit tokens at the provider",
    "routing": "a router is built in, and a conversation is routed as a whole; see `routing:`",
    "selection_policy": "order `models:` by hand, the preferred first",
    "state_storage": "send the whole conversation with each call",
    "system_prompt": "send it from the application as a system message",
    "tracing": "the exchange log has a line for each call",
    "usage": "leave it out",
    "version": "the policy file has a `version:` of its own",
}

_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)


def _advised(unknown: Problem) -> Problem:
    mend = _ADVICE.get(unknown.path.rpartition(".")[2], "leave it out, or look for it in the policy file's reference")
    return Problem(path=unknown.path, message="has no counterpart", mend=mend, line=unknown.line)


class _Service(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two of Plano's entries one provider: whom they call, and with what. May hold secrets."""

    name: str
    base_url: str | None
    """None: known by name. Empty: known to nobody."""
    key: str | None
    headers: tuple[tuple[str, str], ...]


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    """One of Plano's entries. `name` is `*` for all models of the service."""

    entry: _Entry
    key: Key
    plano: str
    name: str
    service: _Service


class _Wish(msgspec.Struct, kw_only=True):
    """A preference, gathered from wherever it is mentioned."""

    key: Key
    description: str
    models: list[str]


class _Conversion:
    """One pass over a decoded configuration. `problems` stop it in the end, `dropped` do not."""

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.document = document
        self.problems = problems
        self.dropped: list[Problem] = []
        self.providers: dict[_Service, str] = {}
        self.known_as: dict[str, str] = {}
        self.wildcards: dict[str, str] = {}
        self.variables: set[str] = set()

    def tree(self, given: _File) -> dict[str, object]:
        """The policy file as plain values, in the order in which people read it."""
        models = list(self.models(given))
        self.name_providers([model.service for model in models])
        self.name_models(models)
        default = self.default(models, given)
        policies = self.policies(self.wishes(given, models), default)
        aliases = self.aliases(given, models)
        written: dict[str, object] = {
            "version": 1,
            "providers": {name: self.provider(name, service, models) for service, name in self.providers.items()},
            "default": default,
        }
        if policies:
            written["policies"] = policies
        if aliases:
            written["aliases"] = aliases
        return written

    def models(self, given: _File) -> Iterator[_Model]:
        for section, entries in (("model_providers", given.model_providers), ("llm_providers", given.llm_providers)):
            for i, entry in enumerate(entries or ()):
                if (model := self.model(entry, (section, i))) is not None:
                    yield model

    def model(self, entry: _Entry, key: Key) -> _Model | None:
        provider, slash, name = (part.strip() for part in entry.model.partition("/"))
        if not slash and entry.provider_interface:  # how the first versions wrote it
            provider, name = entry.provider_interface.strip(), provider
        if not provider or not name or not name.isprintable() or " " in name:
            self.problem((*key, "model"), "is no model", "write `provider/name`, such as `openai/gpt-4o`")
            return None
        if provider in ("arch", "plano"):
            self.drop((*key, "model"), "is a router of Plano's", "none is needed: Pointsman's router is built in")
            return None
        for spoken in dict.fromkeys((provider, entry.provider_interface)):
            # Anthropic's own address takes chat completions; another one may not.
            if spoken in _OTHER_FORMATS and (entry.base_url or spoken != "anthropic"):
                self.drop((*key, "model"), "is called with OpenAI chat completions", _OTHER_FORMATS[spoken])
        ours = _slug(_OUR_NAMES.get(provider, provider), "-", "provider")
        if ours != provider:
            self.drop((*key, "model"), f"`{provider}/…` is `{ours}/…` here", "ask for it by that name")
        base_url = self.base_url(entry, provider, ours, key)
        service = _Service(
            name=ours,
            base_url=base_url,
            key=self.access_key(entry, ours, base_url, key),
            headers=tuple(self.headers(entry, key)),
        )
        return _Model(entry=entry, key=key, plano=f"{provider}/{name}", name=name, service=service)

    def base_url(self, entry: _Entry, provider: str, ours: str, key: Key) -> str | None:
        if not entry.base_url:
            return None if ours in KNOWN else _ADDRESSES.get(provider, "")
        url = _references(entry.base_url.strip()).rstrip("/")
        if url.startswith("${"):
            mend = "let it end in the path above `/chat/completions`, such as `/v1`"
            self.drop((*key, "base_url"), "is used as it is", mend)
            return url
        path = _path(url)
        if path is None:
            self.problem((*key, "base_url"), "is no http(s) address", "write it like `http://localhost:8000`")
        elif not path and not _hidden(url):
            url += _PATHS.get(provider) or _PATHS.get(entry.provider_interface or "") or "/v1"
        elif provider == "groq" and not _hidden(url) and not path.endswith("/v1"):
            url += "/v1"
        return None if ours in KNOWN and url == KNOWN[ours].base_url else url

    def access_key(self, entry: _Entry, ours: str, base_url: str | None, key: Key) -> str | None:
        if entry.passthrough_auth:
            mend = "give the provider a key, and callers one of `gateway: keys:`"
            self.drop((*key, "passthrough_auth"), "callers' own keys are not handed on", mend)
        elif entry.access_key:
            return _references(entry.access_key)
        variable = KNOWN[ours].variable if ours in KNOWN and base_url is None else None
        if not variable:
            return None
        self.drop((*key, "access_key"), "is missing", f"`{ours}` needs one: it is taken from {variable}")
        return f"${{{variable}}}"

    def headers(self, entry: _Entry, key: Key) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for name, given in (entry.headers or {}).items():
            value = _references(given.strip())
            sound = value and value.isprintable() and "${" not in _REFERENCE.sub("", value)
            if not HEADER.fullmatch(name) or name.lower() in seen or not sound:
                self.drop((*key, "headers", name), "is no header that can be sent", "write it by hand")
                continue
            seen.add(name.lower())
            yield name, value

    def name_providers(self, services: list[_Service]) -> None:
        """Each service gets its own name, and where several want one, the known provider at its known address."""
        wanted = {service.name for service in services}
        taken: set[str] = set()
        for service in sorted(dict.fromkeys(services), key=lambda service: service.base_url is not None):
            name = service.name
            if name in taken:
                name = _unique(name, "-", taken | wanted)
            taken.add(name)
            self.providers[service] = name
        self.providers = {service: self.providers[service] for service in dict.fromkeys(services)}

    def name_models(self, models: list[_Model]) -> None:
        """`known_as` leads from every name that Plano knows a model by to `provider/name`; the first has it."""
        for model in models:
            provider = self.providers[model.service]
            if provider != model.service.name:
                message = f"has another key, address or headers than `{model.service.name}`"
                self.drop((*model.key, "model"), message, f"it is `{provider}/{model.name}` here")
            if model.name == "*":
                self.wildcards.setdefault(model.plano[:-1], provider)
            elif model.plano in self.known_as:
                ours = self.known_as[model.plano]
                self.drop((*model.key, "model"), "is named twice", f"policies and aliases mean the first, `{ours}`")
            else:
                self.known_as[model.plano] = f"{provider}/{model.name}"
        for model in models:
            if model.name != "*":
                ours = f"{self.providers[model.service]}/{model.name}"
                for name in filter(None, (model.entry.name, model.name)):
                    self.known_as.setdefault(name, ours)

    def default(self, models: list[_Model], given: _File) -> str:
        single = [model for model in models if model.name != "*"]
        section = "llm_providers" if given.llm_providers else "model_providers"
        if not single:
            if not self.problems:
                self.problem((section,), "names no model", "add one that is not `provider/*`, to be the default")
            return ""
        marked = [model for model in models if model.entry.default]
        chosen = next((model for model in marked if model.name != "*"), single[0])
        ours = f"{self.providers[chosen.service]}/{chosen.name}"
        for model in marked:
            if model is not chosen:
                self.drop((*model.key, "default"), "cannot be the default too", f"the default is `{ours}`")
        if not chosen.entry.default:
            self.drop((section,), "marks no model as the default", f"the first, `{ours}`, is taken")
        return ours

    def wishes(self, given: _File, models: list[_Model]) -> dict[str, _Wish]:
        """The preferences by name: those of the list, then those at models that it does not have."""
        found: dict[str, _Wish] = {}
        for i, preference in enumerate(given.routing_preferences or ()):
            self.wish(found, preference, ("routing_preferences", i), preference.models or [])
        listed = set(found)
        for model in models:
            for i, preference in enumerate(model.entry.routing_preferences or ()):
                key = (*model.key, "routing_preferences", i)
                if preference.name in listed:
                    self.drop(key, f"`{preference.name}` is in `routing_preferences:` too", "that one is taken")
                elif model.name == "*":
                    self.drop(key, "belongs to no single model", "name the models")
                else:
                    for j, other in enumerate(preference.models or ()):
                        self.drop(
                            (*key, "models", j), f"`{other}` is left out", "a preference at a model means that one"
                        )
                    self.wish(found, preference, key, [f"{self.providers[model.service]}/{model.name}"], own=True)
        return found

    def wish(
        self, found: dict[str, _Wish], given: _Preference, key: Key, models: list[str], *, own: bool = False
    ) -> None:
        resolved: list[str] = []
        for i, name in enumerate(models):
            ours = name if own else self.resolve(name)
            if ours is None:
                self.drop((*key, "models", i), "is no model of `model_providers:`", "it is left out")
            else:
                resolved.append(ours)
        description = " ".join((given.description or "").split())
        wish = found.setdefault(given.name, _Wish(key=key, description=description, models=[]))
        wish.models = list(dict.fromkeys([*wish.models, *resolved]))
        if wish.key is not key and description and description != wish.description:
            mend = "the first one is taken, and the models of both"
            self.drop((*key, "description"), f"`{given.name}` is described in two ways", mend)

    def resolve(self, name: str) -> str | None:
        """`provider/name` of a model as Plano's file names it."""
        name = name.strip()
        if name in self.known_as:
            return self.known_as[name]
        provider, slash, rest = name.partition("/")
        if slash and rest and rest.isprintable() and " " not in rest and f"{provider}/" in self.wildcards:
            return f"{self.wildcards[f'{provider}/']}/{rest}"
        return None

    def policies(self, wishes: dict[str, _Wish], default: str) -> dict[str, dict[str, object]]:
        domains: dict[str, dict[str, object]] = {}
        said: set[str] = set()
        for (name, wish), (domain, action) in zip(wishes.items(), _ids(list(wishes)), strict=True):
            if (ours := f"{domain}.{action}" if action else domain) != name:
                self.drop((*wish.key, "name"), f"`{name}` is `{ours}` here", "decisions name it so")
            if not wish.models:
                self.drop((*wish.key, "models"), "names no model", f"the default, `{default}`, is taken")
            body = {"description": self.description(name, wish, said), "models": wish.models or [default]}
            at = domains.setdefault(domain, {})
            if action is None:
                domains[domain] = {**body, **at}
            else:
                cast("dict[str, object]", at.setdefault("actions", {}))[action] = body
        return domains

    def description(self, name: str, wish: _Wish, said: set[str]) -> str:
        text = wish.description
        if not text:
            text = " ".join(re.split(r"[\s_./-]+", name)).strip() or name.strip() or "unnamed"
            self.drop((*wish.key, "description"), "is empty", f"the name, `{text}`, is taken; say more")
        elif text.casefold() in said:
            self.drop((*wish.key, "description"), "is given twice", "the name is added; say what sets the two apart")
        called = " ".join(name.split())
        tails = ("", f" ({called})", *(f" ({called} {n})" for n in range(2, len(said) + 2)))
        unique = next(text + tail for tail in tails if (text + tail).casefold() not in said)
        said.add(unique.casefold())
        return unique

    def aliases(self, given: _File, models: list[_Model]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, alias in (given.model_aliases or {}).items():
            key: Key = ("model_aliases", name)
            targets = [*([alias.target] if alias.target else []), *(alias.targets or [])]
            for other in targets[1:]:
                self.drop(
                    (*key, "targets"), f"`{other}` is left out", "an alias is one model; use a policy for several"
                )
            self.alias(found, name, self.resolve(targets[0]) if targets else None, key)
        for model in models:
            called = model.entry.name
            if called and model.name != "*" and called not in (model.plano, model.name) and called not in found:
                self.alias(found, called, f"{self.providers[model.service]}/{model.name}", (*model.key, "name"))
        return found

    def alias(self, found: dict[str, str], name: str, model: str | None, key: Key) -> None:
        if model is None:
            self.drop(key, "leads to no model of `model_providers:`", "it is left out")
        elif not name or "/" in name or name == "auto" or not name.isprintable() or name != name.strip():
            self.drop(key, f"`{name}` can be no alias", f"ask for `{model}`")
        else:
            found[name] = model

    def provider(self, name: str, service: _Service, models: list[_Model]) -> dict[str, object]:
        """A provider's entry, with a variable in the place of whatever is or may be secret."""
        mine = [model for model in models if model.service == service]
        stem = re.sub(r"[^A-Z0-9]+", "_", name.upper())
        stem = stem if stem[:1].isalpha() else f"P_{stem}"
        written: dict[str, object] = {}
        if service.key is not None and not _REFERENCE.fullmatch(service.key):
            usual = KNOWN[name].variable if name in KNOWN else None
            written["key"] = self.variable(usual or f"{stem}_API_KEY")
            for model in mine:
                mend = f"remove it there, and set {written['key'][2:-1]} to it"
                self.drop((*model.key, "access_key"), "a key is written in the file, and not copied", mend)
        elif service.key is not None:
            written["key"] = service.key
        if service.base_url is not None:
            written["base_url"] = service.base_url
        elif name != service.name:  # a second one of a known provider is known by no name
            written["base_url"] = KNOWN[service.name].base_url
        if service.base_url is not None and (not service.base_url or _hidden(service.base_url)):
            written["base_url"] = url = self.variable(f"{stem}_BASE_URL")
            known = "holds a user or query, and is not copied" if service.base_url else "is not known"
            for model in mine:
                mend = f"set {url[2:-1]} to the address with its path, such as `http://localhost:8000/v1`"
                self.drop((*model.key, "base_url"), known, mend)
        headers: dict[str, str] = {}
        for header, value in service.headers:
            headers[header] = value
            if _SECRET_HEADER.search(header) and not _REFERENCE.search(value):
                headers[header] = self.variable(f"{stem}_{re.sub(r'[^A-Z0-9]+', '_', header.upper())}")
                for model in mine:
                    mend = f"set {headers[header][2:-1]} to it"
                    self.drop((*model.key, "headers", header), "may be a secret, and is not copied", mend)
        if headers:
            written["headers"] = headers
        return written

    def variable(self, name: str) -> str:
        """A reference to an environment variable that nothing else in the file refers to."""
        if not self.variables:
            texts = [
                text for s in self.providers for text in (s.key or "", s.base_url or "", *dict(s.headers).values())
            ]
            self.variables.update(match[1] for text in texts for match in _REFERENCE.finditer(text))
        unique = _unique(name, "_", self.variables)
        self.variables.add(unique)
        return f"${{{unique}}}"

    def problem(self, key: Key, message: str, mend: str) -> None:
        self.problems.append(self.document.problem(key, message, mend))

    def drop(self, key: Key, message: str, mend: str) -> None:
        self.dropped.append(self.document.problem(key, message, mend))


def _references(text: str) -> str:
    """`$NAME` as `${NAME}`."""
    return _REFERENCE.sub(lambda match: f"${{{match[1] or match[2]}}}", text)


def _path(url: str) -> str | None:
    """The path of an http(s) address; None if it is no address. A reference may stand for a host, a port or more."""
    try:
        parts = urlsplit(_REFERENCE.sub("1", url))
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    sound = sound and url.isprintable() and " " not in url and "${" not in _REFERENCE.sub("", url)
    return parts.path if sound else None


def _hidden(url: str) -> bool:
    """Whether an address has parts that may be secret."""
    return any(mark in url for mark in "@?#")


def _slug(text: str, blank: str, level: str) -> str:
    """`text` with the characters that names may have."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", blank, text)[:56].strip(blank) or level
    return slug if _plain(slug) else f"{slug}{blank}{level}"


def _unique(name: str, blank: str, taken: Collection[str]) -> str:
    return next(each for each in (name, *(f"{name}{blank}{n}" for n in range(2, len(taken) + 3))) if each not in taken)


def _plain(name: str) -> bool:
    return NAME.fullmatch(name) is not None and name.lower() not in RESERVED


def _ids(names: list[str]) -> list[tuple[str, str | None]]:
    """A domain, or domain and action, for each of Plano's names, which may hold anything.

    `legal/review` is an action where `legal` has others too or a preference of its own; `CI/CD` is one name.
    """
    parts = {name: tuple(re.split("[./]", name)) for name in names}
    levels = {name: (both[0], both[1]) for name, both in parts.items() if len(both) == 2 and all(map(_plain, both))}
    siblings = Counter(domain for domain, _ in levels.values())
    found: dict[str, tuple[str, str | None]] = {name: (name, None) for name in names if _plain(name)}
    for name, (domain, action) in levels.items():
        if (siblings[domain] > 1 or domain in names) and (domain, action) not in found.values():
            found[name] = (domain, action)
    taken = {domain for domain, _ in found.values()}
    for name in names:
        if name not in found:
            found[name] = (_unique(_slug(name, "_", "policy"), "_", taken), None)
            taken.add(found[name][0])
    return [found[name] for name in names]


class _Dumper(yaml.SafeDumper):
    """Block style, but a provider and a list of models on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style={"key", "base_url"} >= mapping.keys())

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _write(tree: dict[str, object]) -> str:
    sections = [
        yaml.dump({name: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        for name, value in tree.items()
    ]
    # The version, the providers and the default stand together.
    return "# Converted from a Plano configuration.\n" + "".join(sections[:3]) + "".join(f"\n{s}" for s in sections[3:])
