"""MANtIS: information-seeking conversations from 14 Stack Exchange sites; the site is the policy of every user turn.

Only the utterances are taken. The question's title is left out, for nobody says it in the conversation.

Consecutive messages of one role are joined, as the authors join those of one person: in a chat they are one turn, and a
follow-up of a second ("sorry, I meant ...") alone would count as a turn that was routed. So the roles alternate.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Literal

import msgspec

from pointsman.dataset import Example, Label
from pointsman.errors import DataError, Problem
from pointsman.evals.originals.original import Rebuilt, below, decode, read_json, refuse, refused, shipped, tidy

_MEND = "get the complete JSON that the page of MANtIS links to"

_SITES = {
    "apple": "tech.apple",
    "askubuntu": "tech.ubuntu",
    "dba": "tech.databases",
    "diy": "home.improvement",
    "electronics": "engineering.electronics",
    "english": "language.english",
    "gaming": "leisure.video_games",
    "gis": "tech.gis",
    "physics": "science.physics",
    "scifi": "leisure.scifi_fantasy",
    "security": "tech.security",
    "stats": "science.statistics",
    "travel": "leisure.travel",
    "worldbuilding": "leisure.worldbuilding",
}

_SPLIT = re.compile(r"(?:^|[._-])(train|dev|val|valid|test)$", re.IGNORECASE)
_SPLIT_NAMES = {"val": "dev", "valid": "dev"}


class _Utterance(msgspec.Struct, frozen=True):
    actor_type: Literal["user", "agent"]
    utterance: str


class _Dialogue(msgspec.Struct, frozen=True):
    category: str
    utterances: list[_Utterance]


def build(location: Path) -> Rebuilt:
    """`train`, `dev` and `test` of files so named (`merged_dev.json`), or `all` of one complete file."""
    problems: list[Problem] = []
    splits: dict[str, tuple[Example, ...]] = {}
    for split, file in _files(location).items():
        examples: list[Example] = []
        for key, part in read_json(file, dict[str, msgspec.Raw], _MEND).items():
            try:
                dialogue = decode(part, _Dialogue, file, _MEND, within=key)
            except DataError as error:  # one by one, so that the dialogue's key is told
                problems.extend(error.problems)
                continue
            example = _example(split, key, dialogue, file, problems)
            if example is not None:
                examples.append(example)
        splits[split] = tuple(examples)
    if problems:
        refuse(problems)
    return Rebuilt(taxonomy=shipped("mantis14"), splits=splits)


def _files(location: Path) -> dict[str, Path]:
    if location.is_file():
        return {_split(location) or "all": location}
    if not location.is_dir():
        raise refused(location, "is not there", _MEND)
    listed = below(location, "*.json")
    found: dict[str, Path] = {}
    for file in listed:
        split = _split(file)
        if split in found:
            raise refused(file, f"is a second file for {split}", "give a folder with one file a split")
        if split:
            found[split] = file
    if not found and len(listed) == 1:
        return {"all": listed[0]}
    if not found:
        said = "holds several JSON files, none named after a split" if listed else "holds no JSON file"
        raise refused(location, said, f"give the file itself, or {_MEND}")
    return found


def _split(file: Path) -> str | None:
    found = _SPLIT.search(file.stem)
    name = found[1].lower() if found else None
    return _SPLIT_NAMES.get(name, name) if name else None


def _example(split: str, key: str, dialogue: _Dialogue, file: Path, problems: list[Problem]) -> Example | None:
    """The conversation; None if no user says anything, or if there is a problem."""
    policy = _SITES.get(dialogue.category)
    if policy is None:
        message = f"there is no site {dialogue.category!r} among the 14 of MANtIS"
        problems.append(Problem(path=f"{key}.category", message=message, mend=_MEND, file=str(file)))
        return None
    said: list[tuple[str, str]] = []
    for utterance in dialogue.utterances:
        role = "user" if utterance.actor_type == "user" else "assistant"
        text = _plain(utterance.utterance)
        if text and said and said[-1][0] == role:
            said[-1] = (role, f"{said[-1][1]}\n\n{text}")
        elif text:
            said.append((role, text))
    turns = tuple(Label(index=at, policy=policy) for at, (role, _) in enumerate(said) if role == "user")
    if not turns:
        return None
    return Example(
        id=f"mantis-{split}-{key}",
        source="mantis",
        policies="mantis14",
        messages=tuple({"role": role, "content": text} for role, text in said),
        turns=turns,
    )


# The tags the authors left in. Others are no markup: a comment may well say <ctrl>.
_TAG = re.compile(r"</?(?:a|br|blockquote|pre|code)(?:\s[^<>]*|/)?>", re.IGNORECASE)
# What the authors write where nothing but markup was said.
_NOTHING = "<Placeholder Response>"


def _plain(text: str) -> str:
    """The text without HTML. A tag leaves a space: the authors took the line breaks out and left `<br>`."""
    return "" if text.strip() == _NOTHING else tidy(html.unescape(_TAG.sub(" ", text)))
