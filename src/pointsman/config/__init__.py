"""The policy file: read, locate, decode, check. A Config comes out, or a ConfigError with every Problem and line."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

from pointsman.config.check import Checker
from pointsman.config.decode import decode
from pointsman.config.document import Document, parse, read
from pointsman.config.file import DomainEntry, PolicyFile, schema
from pointsman.config.tree import Config, Gateway, Provider, Routing, Secret, Timeouts
from pointsman.errors import ConfigError, Problem
from pointsman.policy import PolicySet

__all__ = [
    "Config",
    "Gateway",
    "Provider",
    "Routing",
    "Secret",
    "Timeouts",
    "inline_policies",
    "load",
    "loads",
    "schema",
]

# Anyone who may call may send policies: 2,000 values are some 400 policies and checked within 0.1 s.
MAX_INLINE = 2_000
MAX_INLINE_LETTERS = 256 * 1024


def load(path: Path | str, *, env: Mapping[str, str] | None, beside: Path | None = None) -> Config:
    """The Config of a policy file. Paths in it are taken from the folder `beside`; by default the file's own.

    `env` resolves `${NAME}` references. None leaves them alone, for commands that read policies and call no provider.
    Raises ConfigError with all problems of the file.
    """
    return loads(read(Path(path)), env=env, file=str(path), beside=beside)


def loads(
    data: bytes | str, *, env: Mapping[str, str] | None, file: str | None = None, beside: Path | None = None
) -> Config:
    """As `load`, from the file's content. `file` is the name that problems are reported under."""
    data = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    document = parse(data, file=file)
    if document.value is None:
        raise ConfigError([Problem(path="", message="is empty", mend="start with `version: 1`")], file=file)
    if not isinstance(document.value, dict):
        mend = "start with `version: 1`"
        raise ConfigError([Problem(path="", message="is not a mapping", mend=mend, line=1)], file=file)
    problems = list(document.problems)
    entry = decode(document, PolicyFile, problems)
    checker = Checker(document, entry.providers, env, problems)
    folder = beside or (Path(file).parent if file else Path())
    config = checker.config(entry, hashlib.sha256(data).hexdigest()[:12], folder)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0), file=file)
    return config


def inline_policies(value: object, config: Config) -> PolicySet:
    """The policies of a request body (`{"legal": {"description": ..., "actions": {...}}}`), for that one call.

    Written like the file's `policies:`; their models must be of the file's providers. Raises ConfigError.
    """
    document = Document(value=value, lines={})
    problems: list[Problem] = []
    if _too_large(value):
        mend = "move policies that do not change with the request to the policy file"
        message = f"hold more than {MAX_INLINE} values or {MAX_INLINE_LETTERS // 1024} KiB of text"
        raise ConfigError([Problem(path="policies", message=message, mend=mend)])
    entries = decode(document, dict[str, DomainEntry], problems, at=("policies",))
    policies = Checker(document, config.providers, {}, problems).policies(entries)
    if problems:
        # A body has paths, but no lines worth naming.
        raise ConfigError([Problem(path=each.path, message=each.message, mend=each.mend) for each in problems])
    return policies


def _too_large(value: object) -> bool:
    """Whether a decoded body holds more than is taken; looks at no more than that, however deep it lies."""
    waiting = [value]
    values = letters = 0
    while waiting:
        item = waiting.pop()
        values += 1
        inside: Collection[object] = ()
        if isinstance(item, dict):
            named = cast("dict[str, object]", item)
            inside = named.values()
            letters += sum(map(len, named))
        elif isinstance(item, list):
            inside = cast("list[object]", item)
        elif isinstance(item, str):
            letters += len(item)
        if values + len(waiting) + len(inside) > MAX_INLINE or letters > MAX_INLINE_LETTERS:
            return True
        waiting.extend(inside)
    return False
