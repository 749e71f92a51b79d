"""The corpus as it is written: `written/<domain>.txt` to Items, or every Problem with its line.

    %% request contract_review en mail        a first request: action, language, form; its text follows
    %% conversation en                        or `%% conversation en agent`; turns follow
    %% user contract_review history           an action here or `domain.action`; or `-`, with why
    %% assistant | %% tool | %% system        what it said; what a tool gave back; what opened the conversation
    %% call search_files                      the assistant calls a tool: JSON arguments

Everything between two such lines is text, kept as it is but for white space around it. The style sheet is
corpus/STYLE.md. Knows nothing of policy sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import msgspec

from pointsman.errors import Problem

Form = Literal[
    "question", "command", "keywords", "statement", "mail", "log", "code", "table", "transcript", "document",
    "list", "chat", "template", "mixed",
]  # fmt: skip
"""What a request looks like, by its main part."""

Flag = Literal["history", "closing", "smalltalk", "abandons"]
"""Of a user turn: cannot be routed without what came before; only closes; asks nothing; drops the request before it."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A user turn: its place in the messages, and the action it asks for, None if it asks for nothing."""

    index: int
    work: str | None
    flags: frozenset[Flag] = frozenset()


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A request or a conversation. `id` follows from the messages; `form` is a single request's."""

    id: str
    domain: str
    line: int
    language: str
    form: Form | None
    messages: tuple[dict[str, object], ...]
    turns: tuple[Turn, ...]

    @property
    def works(self) -> frozenset[str]:
        """The actions that its turns ask for."""
        return frozenset(turn.work for turn in self.turns if turn.work)

    def text(self, turn: Turn) -> str:
        return str(self.messages[turn.index]["content"])


def load(folder: Path, *, actions: Collection[str], problems: list[Problem]) -> tuple[Item, ...]:
    """The items of all `<domain>.txt`, in the order of the files. `actions` are the ids that labels may name."""
    items: list[Item] = []
    for file in sorted(folder.glob("*.txt")):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(path="", message=f"cannot be read: {error}", file=str(file)))
            continue
        items += parse(text, domain=file.stem, actions=actions, problems=problems, file=str(file))
    return tuple(items)


def parse(
    text: str, *, domain: str, actions: Collection[str], problems: list[Problem], file: str | None = None
) -> tuple[Item, ...]:
    """The items of one domain's text; what is wrong with it is added to `problems`, and that item left out."""
    return tuple(_Reader(domain, actions, problems, file).items(text))


class _BadItem(Exception):
    def __init__(self, line: int, message: str, mend: str = "") -> None:
        self.line, self.message, self.mend = line, message, mend


class _Part(msgspec.Struct):
    """A line of structure and the text under it."""

    line: int
    kind: str
    words: list[str]
    text: str = ""


_LANGUAGE = re.compile(r"[a-z]{2,3}")


class _Reader:
    def __init__(self, domain: str, actions: Collection[str], problems: list[Problem], file: str | None) -> None:
        self.domain, self.actions, self.problems, self.file = domain, actions, problems, file

    def items(self, text: str) -> Iterator[Item]:
        for parts in _grouped(self.parts(text)):
            try:
                head = parts[0]
                if head.kind == "request":
                    yield self.request(head, parts[1:])
                elif head.kind == "conversation":
                    yield self.conversation(head, parts[1:])
                else:
                    raise _BadItem(
                        head.line, f"`%% {head.kind}` is in no conversation", "put `%% conversation en` above it"
                    )
            except _BadItem as bad:
                self.wrong(bad.line, bad.message, bad.mend)

    def parts(self, text: str) -> Iterator[_Part]:
        part: _Part | None = None
        lines: list[str] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.startswith("%%"):
                if part is None and line.strip():
                    self.wrong(number, "is text before any item", "start with `%% request` or `%% conversation`")
                lines.append(line)
                continue
            if part:
                part.text = "\n".join(lines).strip()
                yield part
            kind, *words = line[2:].split() or ["?"]
            part, lines = _Part(number, kind, words), []
        if part:
            part.text = "\n".join(lines).strip()
            yield part

    def request(self, head: _Part, rest: Sequence[_Part]) -> Item:
        if rest:
            raise _BadItem(rest[0].line, "a request has one turn", "write `%% conversation` for more")
        if len(head.words) != 3:
            raise _BadItem(head.line, "a request is `%% request ACTION LANGUAGE FORM`")
        action, language, form = head.words
        if form not in get_args(Form):
            raise _BadItem(head.line, f"{form!r} is no form", f"the forms are {', '.join(get_args(Form))}")
        label = self.label(action, head.line)
        if label is None:
            raise _BadItem(head.line, "a request asks for something", "name its action")
        message: dict[str, object] = {"role": "user", "content": _said(head)}
        return self.item(head, language, (message,), (Turn(index=0, work=label),), form)

    def conversation(self, head: _Part, parts: Sequence[_Part]) -> Item:
        if not head.words or head.words[1:] not in ([], ["agent"]):
            raise _BadItem(head.line, "a conversation is `%% conversation LANGUAGE`", "perhaps with `agent` behind it")
        messages: list[dict[str, object]] = []
        turns: list[Turn] = []
        made = 0
        waiting: list[str] = []
        for at, part in enumerate(parts):
            if part.kind == "user":
                turns.append(self.user(part, len(messages)))
                messages.append({"role": "user", "content": _said(part)})
            elif part.kind in ("assistant", "system"):
                messages.append({"role": part.kind, "content": _said(part)})
            elif part.kind == "call":
                made += 1
                call = _call(part, f"call_{made}")
                waiting.append(f"call_{made}")
                if at and parts[at - 1].kind == "call":
                    cast("list[object]", messages[-1]["tool_calls"]).append(call)
                else:
                    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            elif part.kind == "tool":
                if not waiting:
                    raise _BadItem(part.line, "is the result of no call", "put `%% call TOOL` before it")
                messages.append({"role": "tool", "tool_call_id": waiting.pop(0), "content": _said(part)})
            else:
                raise _BadItem(part.line, f"`%% {part.kind}` is not known", "user, assistant, call, tool, system")
        if not turns:
            raise _BadItem(head.line, "has no user turn")
        if not any(turn.work for turn in turns):
            raise _BadItem(head.line, "asks for nothing in any turn")
        return self.item(head, head.words[0], tuple(messages), tuple(turns), None)

    def user(self, part: _Part, index: int) -> Turn:
        if not part.words:
            raise _BadItem(part.line, "a user turn needs a label", "an action, or `-` for none")
        work = self.label(part.words[0], part.line)
        flags = frozenset(part.words[1:])
        unknown = flags - set(get_args(Flag))
        if unknown:
            raise _BadItem(part.line, f"{sorted(unknown)[0]!r} is no flag", f"they are {', '.join(get_args(Flag))}")
        if bool(flags & {"closing", "smalltalk"}) != (work is None):
            raise _BadItem(part.line, "`closing` or `smalltalk` goes with the label `-`, and that with one of them")
        return Turn(index=index, work=work, flags=flags)  # pyright: ignore[reportArgumentType] - checked above

    def label(self, word: str, line: int) -> str | None:
        if word == "-":
            return None
        label = word if "." in word else f"{self.domain}.{word}"
        if label not in self.actions:
            raise _BadItem(line, f"{label!r} is no action of the taxonomy", "see corpus/taxonomy")
        return label

    def item(
        self,
        head: _Part,
        language: str,
        messages: tuple[dict[str, object], ...],
        turns: tuple[Turn, ...],
        form: str | None,
    ) -> Item:
        if not _LANGUAGE.fullmatch(language):
            raise _BadItem(head.line, f"{language!r} is no language", "give its ISO code, such as en")
        digest = hashlib.sha256(msgspec.json.encode(messages)).hexdigest()[:12]
        return Item(
            id=f"{self.domain}-{digest}",
            domain=self.domain,
            line=head.line,
            language=language,
            form=form,  # pyright: ignore[reportArgumentType] - checked where it is read
            messages=messages,
            turns=turns,
        )

    def wrong(self, line: int, message: str, mend: str = "") -> None:
        self.problems.append(Problem(path="", message=message, mend=mend, line=line, file=self.file))


def _grouped(parts: Iterator[_Part]) -> Iterator[list[_Part]]:
    """An item's head with what belongs to it."""
    group: list[_Part] = []
    for part in parts:
        if group and part.kind in ("request", "conversation"):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _said(part: _Part) -> str:
    if not part.text:
        raise _BadItem(part.line, "has no text")
    return part.text


def _call(part: _Part, id: str) -> dict[str, object]:
    """A tool call as chat completions have it."""
    if len(part.words) != 1:
        raise _BadItem(part.line, "a call names one tool", "`%% call TOOL`")
    try:
        arguments = msgspec.json.decode(part.text.encode())
    except msgspec.DecodeError as error:
        raise _BadItem(part.line, f"its arguments are no JSON: {error}") from None
    function = {"name": part.words[0], "arguments": msgspec.json.encode(arguments).decode()}
    return {"id": id, "type": "function", "function": function}
