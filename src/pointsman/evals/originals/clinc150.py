"""CLINC150: single requests of 150 intents and some of none; and conversations put together out of them.

The splits are the authors' own and complete: a figure on `test` can stand beside published ones. Knows no other file of
the repository than `data_full.json` and those of the same form (`data_small`, `data_imbalanced`, `data_oos_plus`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from pointsman.dataset import Example, Label, PolicySetFile
from pointsman.errors import Problem
from pointsman.evals.originals.original import Rebuilt, by_action, find, read_json, refuse, shipped, tidy

_FILE = "data_full.json"
_MEND = f"get {_FILE} from the data folder of clinc/oos-eval"
_NONE_FITS = "oos"


class _File(msgspec.Struct, frozen=True):
    """Pairs of a text and its label, in six lists."""

    train: list[tuple[str, str]]
    val: list[tuple[str, str]]
    test: list[tuple[str, str]]
    oos_train: list[tuple[str, str]]
    oos_val: list[tuple[str, str]]
    oos_test: list[tuple[str, str]]


class _Request(msgspec.Struct, frozen=True):
    text: str
    policy: str | None


def build(location: Path) -> Rebuilt:
    """`train`, `dev` and `test`: every request a conversation of its own, those out of scope last."""
    taxonomy, splits = _read(location)
    return Rebuilt(
        taxonomy=taxonomy,
        splits={
            split: tuple(
                _example(f"clinc150-{split}-{at:05}", "clinc150", [request]) for at, request in enumerate(requests)
            )
            for split, requests in splits.items()
        },
    )


def build_multi(location: Path) -> Rebuilt:
    """`train`, `dev` and `test`: 600 composed conversations each, out of that split's requests alone."""
    taxonomy, splits = _read(location)
    return Rebuilt(
        taxonomy=taxonomy,
        splits={split: tuple(_composed(split, requests)) for split, requests in splits.items() if requests},
    )


def _read(location: Path) -> tuple[PolicySetFile, dict[str, list[_Request]]]:
    file = find(location, _FILE)
    taxonomy = shipped("clinc150")
    ids = by_action(taxonomy)
    given = read_json(file, _File, _MEND)
    problems: list[Problem] = []

    def read(*keys: str) -> list[_Request]:
        requests: list[_Request] = []
        for key in keys:
            for at, (text, label) in enumerate(getattr(given, key)):
                if label != _NONE_FITS and label not in ids:
                    message = f"there is no intent {label!r} in CLINC150"
                    problems.append(Problem(path=f"{key}[{at}][1]", message=message, mend=_MEND, file=str(file)))
                elif tidy(text):  # nobody can route an empty one
                    requests.append(_Request(tidy(text), ids.get(label)))
        return requests

    splits = {
        "train": read("train", "oos_train"),
        "dev": read("val", "oos_val"),
        "test": read("test", "oos_test"),
    }
    if problems:
        refuse(problems)
    return taxonomy, splits


def _example(id: str, source: str, asked: Sequence[_Request], replies: Sequence[str] = ()) -> Example:
    """A conversation of these requests, with a reply between each two."""
    messages: list[dict[str, object]] = []
    turns: list[Label] = []
    for at, request in enumerate(asked):
        if at:
            messages.append({"role": "assistant", "content": replies[at - 1]})
        turns.append(Label(index=len(messages), policy=request.policy))
        messages.append({"role": "user", "content": request.text})
    return Example(id=id, source=source, policies="clinc150", messages=tuple(messages), turns=tuple(turns))


# Conversations --------------------------------------------------------------------------------------------------------

# Another seed gives other conversations, whose figures do not compare with these.
_SEED = 150
_CONVERSATIONS = 600
_SPANS = 4
_SPAN_TURNS = 3
_WITHIN_DOMAIN = 1 / 2
_OUT_OF_SCOPE = 1 / 8

# The requests have no answers. Whatever an assistant says here must fit any of them, and so gives nothing away.
_REPLIES = (
    "Sure, that is taken care of.",
    "All right. What would you like next?",
    "Okay, here you go. What else?",
    "That is done. Tell me if there is more.",
    "Of course. Can I do anything further for you?",
)


def _composed(split: str, requests: Sequence[_Request]) -> list[Example]:
    pools: dict[str | None, list[str]] = {}
    for request in requests:
        pools.setdefault(request.policy, []).append(request.text)
    made: list[Example] = []
    for at in range(_CONVERSATIONS):
        rng = random.Random(f"{_SEED}/{split}/{at}")  # noqa: S311 - reproducible is the point
        asked: list[_Request] = []
        left: dict[str | None, list[str]] = {}  # nobody asks the same twice, should a policy return
        for policy in _spans(rng, pools):
            texts = left.setdefault(policy, list(pools[policy]))
            turns = min(1 + int(rng.random() * _SPAN_TURNS), len(texts))
            asked += [_Request(texts.pop(int(rng.random() * len(texts))), policy) for _ in range(turns)]
        replies = [_pick(rng, _REPLIES) for _ in asked]
        made.append(_example(f"clinc150-multi-{split}-{at:04}", "clinc150-multi", asked, replies))
    return made


def _spans(rng: random.Random, pools: Mapping[str | None, Sequence[str]]) -> list[str | None]:
    """The policies of one to four spans, no two neighbours alike."""
    policies = [policy for policy in pools if policy is not None]
    if not policies:
        return [None]
    last = _pick(rng, policies)
    spans: list[str | None] = [last]
    for _ in range(int(rng.random() * _SPANS)):
        if None in pools and spans[-1] is not None and rng.random() < _OUT_OF_SCOPE:
            spans.append(None)
            continue
        domain = last.partition(".")[0] + "."
        others = [policy for policy in policies if policy != last]
        within = [policy for policy in others if policy.startswith(domain)]
        beyond = [policy for policy in others if not policy.startswith(domain)]
        wanted = within if rng.random() < _WITHIN_DOMAIN else beyond
        if not (wanted or others):
            break
        last = _pick(rng, wanted or others)
        spans.append(last)
    return spans


_T = TypeVar("_T")


def _pick(rng: random.Random, among: Sequence[_T]) -> _T:
    """One of these. Python promises the same numbers from version to version for `random` alone, not for `choice`."""
    return among[int(rng.random() * len(among))]
