"""What a run of the pipeline leaves behind: a data folder, the rejects with their reasons, and a summary.

    OUT/train/synth.jsonl.gz       checked conversations;  OUT/dev/synth.jsonl.gz  a tenth of them, by intent
    OUT/train/perturbed.jsonl.gz   those of train with policies withheld, reworded and reordered, mixed and mistyped
    OUT/policies/<set>.json
    OUT/rejects.jsonl              answers that were not used, and why
    OUT/summary.json               counts, and what each model has cost

Knows no model.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pointsman.dataset import Example, Label, PolicyEntry, PolicySetFile
from pointsman.policy import PolicySet
from pointsman.synth import build, perturb
from pointsman.synth.build import Part
from pointsman.synth.catalogue import HANDS, Catalogue, Work
from pointsman.synth.offers import Offer, Offered
from pointsman.synth.pipeline.journal import Bill, Journal
from pointsman.synth.pipeline.run import Made, Outcome
from pointsman.synth.written import Item, Turn

DEV = 0.1
"""The share of intents whose conversations are kept for measuring."""

VERSIONS = 6
"""Of each policy set, for the perturbed part."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in figures. `policies` counts conversations by `set/policy`; `rejects` answers by reason."""

    conversations: int
    turns: int
    perturbed_turns: int
    policies: dict[str, int]
    rejects: dict[str, int]
    bill: dict[str, Bill]
    cost: float
    stopped: str | None


def write(outcome: Outcome, journal: Journal, out: Path, *, seed: int) -> Summary:
    """Write all of it. The same outcome and seed give the same bytes; what a former run left is replaced."""
    train = [made for made in outcome.made if not _kept_for_dev(made)]
    dev = [made for made in outcome.made if _kept_for_dev(made)]
    sets = tuple(_set_file(name, policies) for name, policies in outcome.sets.items())
    clean = Part(name="synth", examples=tuple(map(_example, train)), sets=sets)
    harder = [_perturbed(name, policies, train, seed=seed) for name, policies in outcome.sets.items()]
    perturbed = Part(
        name="perturbed",
        examples=tuple(example for part in harder for example in part.examples),
        sets=tuple(each for part in harder for each in part.sets),
    )
    held = Part(name="synth", examples=tuple(map(_example, dev)), sets=())
    parts = {"train": [part for part in (clean, perturbed) if part.examples], "dev": [held] if held.examples else []}
    build.write(parts, out)
    rejects = list(journal.rejects())
    lines = (msgspec.json.encode({**msgspec.structs.asdict(reject), "answer": text}) for reject, text in rejects)
    (out / "rejects.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    bill = journal.bill()
    summary = Summary(
        conversations=len(outcome.made),
        turns=sum(len(made.dialogue.labels) for made in outcome.made),
        perturbed_turns=perturbed.turns,
        policies=dict(sorted(Counter(f"{made.set}/{made.policy}" for made in outcome.made).items())),
        rejects=dict(sorted(Counter(reject.reason for reject, _ in rejects).items())),
        bill=bill,
        cost=sum(each.cost for each in bill.values()),
        stopped=outcome.stopped,
    )
    (out / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")
    return summary


def _kept_for_dev(made: Made) -> bool:
    digest = hashlib.sha256(f"{made.set}/{made.policy}/{made.intent}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < DEV * 2**32


def _set_file(name: str, policies: PolicySet) -> PolicySetFile:
    entries = [PolicyEntry(name=policy.id, description=policy.description) for policy in policies]
    return PolicySetFile(name=name, policies=tuple(entries))


def _example(made: Made) -> Example:
    asked = [at for at, message in enumerate(made.dialogue.messages) if message["role"] == "user"]
    labels = zip(asked, made.dialogue.labels, strict=True)
    return Example(
        id=made.key,
        source="synth",
        policies=made.set,
        messages=made.dialogue.messages,
        turns=tuple(Label(index=at, policy=policy) for at, policy in labels),
        meta={"intent": made.intent, "language": made.language, **made.provenance},
    )


def _perturbed(name: str, policies: PolicySet, made: Sequence[Made], *, seed: int) -> Part:
    """The set's conversations in changed versions of it: the paper's phase 2."""
    catalogue = Catalogue(
        works={
            policy.id: Work(id=policy.id, names=(), descriptions=dict.fromkeys(HANDS, policy.description))
            for policy in policies
        }
    )
    items = [_item(each) for each in made if each.set == name]
    entries = tuple(Offered(policy=policy, covers=frozenset([policy.id])) for policy in policies)
    offers: list[Offer] = []
    for version in range(1, VERSIONS + 1):
        rng = random.Random(f"{seed}/{name}/{version}")  # noqa: S311 - reproducible is the point
        offer = Offer(name=f"{name}-{version}", entries=entries)
        if len(entries) > 2 and rng.random() < 0.6:
            offer = perturb.withheld(offer, [rng.choice(offer.entries).policy.id])
        if rng.random() < 0.2:
            offer = perturb.shortened(offer, rng)
        offers.append(perturb.reordered(offer, rng))
    # The set is all there is, so what is foreign to it is only what was withheld.
    return build.asked("perturbed", catalogue, items, offers, build.Plan(seed=seed, turns=max(40, len(items))))


def _item(made: Made) -> Item:
    asked = [at for at, message in enumerate(made.dialogue.messages) if message["role"] == "user"]
    turns = tuple(
        # Whether a later turn can stand alone is not known, so none is torn from what came before it.
        Turn(index=at, work=label, flags=frozenset(("history",) if at else ()))
        for at, label in zip(asked, made.dialogue.labels, strict=True)
    )
    return Item(
        id=made.key,
        domain=made.set,
        line=0,
        language="en" if made.language.lower() in ("en", "english") else made.language,
        form=None,
        messages=made.dialogue.messages,
        turns=turns,
    )
