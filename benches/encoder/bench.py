"""The embedded router's weights, measured: every draw seeded, zero-shot, int8, by the calibration on their card.

    python benches/encoder/bench.py DATA FOLDER [FOLDER ...] [--out benches/encoder]

DATA is the folder of the routing data (dev/, policies/). Each FOLDER is a column of the table, the shipped weights the
first of them. Writes RESULTS.md and results.json. Two minutes a folder on one core.

What `pointsman eval` does not ask: ten policies out of one domain or out of all, a policy withheld among its siblings,
and how many turns that nothing fits are found at a given price.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pointsman import calibration, dataset
from pointsman.calibration import Reading
from pointsman.conversation import Conversation
from pointsman.dataset import Dataset
from pointsman.policy import PolicySet
from pointsman.routers.encoder import Encoder, probabilities

SETS = (
    "arena-hard", "just-eval", "everyday-apps", "mmlu-domains", "mantis14", "stackexchange", "stackexchange-multi",
    "clinc150", "clinc150-multi", "sgd",
)  # fmt: skip
TEN = ("arena-hard", "just-eval", "everyday-apps", "mmlu-domains", "mantis14", "stackexchange")
SIZES = (5, 10, 20, None)
SEED = 7


class Measured:
    """The readings of one folder of weights on the development sets."""

    def __init__(self, encoder: Encoder, data: Dataset) -> None:
        self.encoder = encoder
        self.turns = {
            source.name: [
                (example, label, example.upto(label.index), data.taxonomies[example.policies].policies)
                for example in source.examples
                for label in example.turns
            ]
            for source in data.sources
        }

    def read(self, key: str, conversation: Conversation, policies: PolicySet, gold: str | None) -> Reading | None:
        found = self.encoder.reading(conversation, policies)
        if found is None:
            return None
        place = policies.ids.index(gold) if gold is not None else None
        return Reading(conversation=key, cosines=found[0], none=found[1], gold=place)

    def full(self, name: str) -> list[Reading]:
        turns = self.turns[name]
        return [
            reading
            for example, label, conversation, policies in turns
            if (reading := self.read(example.id, conversation, policies, label.policy))
        ]

    def ten(self, name: str, size: int = 10) -> Iterator[Reading]:
        """The gold policy, four of its domain, five others; a domain with fewer gives what it has."""
        for example, label, conversation, policies in self.turns[name]:
            if label.policy is None:
                continue
            rng = random.Random(f"{SEED}/{example.id}/{label.index}")
            near, far = _near_far(policies, label.policy, rng)
            near = near[: (size - 1) // 2]
            kept = {label.policy, *near, *far[: size - 1 - len(near)]}
            offer = PolicySet(each for each in policies if each.id in kept)
            if reading := self.read(example.id, conversation, offer, label.policy):
                yield reading

    def drawn(self, name: str, *, same: bool, size: int = 10) -> tuple[list[Reading], list[Reading]]:
        """Sets of ten of one domain, or of all: with the gold policy among them, and without."""
        held, withheld = [], []
        for example, label, conversation, policies in self.turns[name]:
            if label.policy is None:
                continue
            rng = random.Random(f"{SEED}/{same}/{example.id}/{label.index}")
            near, far = _near_far(policies, label.policy, rng)
            others = [*near, *far] if same else rng.sample([*near, *far], len(near) + len(far))
            for gold, ids in ((label.policy, {label.policy, *others[: size - 1]}), (None, set(others[:size]))):
                offer = PolicySet(each for each in policies if each.id in ids)
                if reading := self.read(example.id, conversation, offer, gold):
                    (held if gold else withheld).append(reading)
        return held, withheld


def _near_far(policies: PolicySet, gold: str, rng: random.Random) -> tuple[list[str], list[str]]:
    domain = policies[gold].domain
    near = [each.id for each in policies if each.domain == domain and each.id != gold]
    far = [each.id for each in policies if each.domain != domain]
    rng.shuffle(near)
    rng.shuffle(far)
    return near, far


def best(read: list[Reading]) -> float:
    """Turns with a policy whose best policy is theirs, percent."""
    return 100 * float(np.mean([int(each.cosines.argmax()) == each.gold for each in read if each.gold is not None]))


def decided(read: list[Reading], encoder: Encoder) -> float:
    """Turns with a policy that are decided rightly, "none" a mistake, percent."""
    return 100 * calibration.quality([each for each in read if each.gold is not None], encoder.calibration).right


def others(read: list[Reading], encoder: Encoder) -> np.ndarray:
    return np.array([probabilities(each.cosines, each.none, encoder.calibration)[1] for each in read])


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    values = np.concatenate([inside, outside])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    count = len(outside)
    return 100 * float((ranks[len(inside) :].sum() - count * (count + 1) / 2) / (count * len(inside)))


def measure(encoder: Encoder, data: Dataset) -> dict[str, float]:
    measured = Measured(encoder, data)
    full = {name: measured.full(name) for name in SETS}
    found: dict[str, float] = {}
    found["clinc150, all 150, in-scope turn: best policy"] = best(full["clinc150"])
    found["clinc150, all 150, in-scope turn: decided"] = decided(full["clinc150"], encoder)
    for same, words in ((True, "of one domain"), (False, "across domains")):
        held, withheld = measured.drawn("clinc150", same=same)
        found[f"clinc150, 10 {words}: best policy"] = best(held)
        found[f"clinc150, 10 {words}: decided"] = decided(held, encoder)
        found[f'clinc150, 10 {words}: near "other" AUROC'] = auroc(others(held, encoder), others(withheld, encoder))
    for name in TEN:
        read = list(measured.ten(name))
        found[f"{name}, ten on offer: best policy"] = best(read)
        found[f"{name}, ten on offer: decided"] = decided(read, encoder)
    for name in ("sgd", "clinc150-multi"):
        found |= {f"{name}, full set: {unit}": value for unit, value in _units(measured, name).items()}
    for name in SETS:
        found[f"{name}, full set: best policy"] = best(full[name])
        found[f"{name}, full set: decided"] = decided(full[name], encoder)
    recalls: list[float] = []
    for name in SETS:
        values = others(full[name], encoder)
        none = np.array([each.gold is None for each in full[name]])
        if none.sum() > 10:
            threshold = np.quantile(values[~none], 0.95)
            recalls.append(100 * float((values[none] > threshold).mean()))
            found[f'{name}: "other" recall at 5 % false'] = recalls[-1]
            found[f'{name}: "other" AUROC'] = auroc(values[~none], values[none])
            found[f'{name}: "other" told at the shipped threshold'] = 100 * float((values[none] > 0.5).mean())
            found[f"{name}: false at the shipped threshold"] = 100 * float((values[~none] > 0.5).mean())
    found['"other" recall at 5 % false, mean'] = float(np.mean(recalls))
    for size in SIZES:
        everything: list[Reading] = []
        for name in SETS:
            read = full[name] if size is None else list(measured.ten(name, size))
            if size is None:
                read = [each for each in read if each.gold is not None]
            everything += read
        found[f"ECE, {size or 'all'} policies, in-scope turns of all sets"] = (
            100 * calibration.quality(everything, encoder.calibration).ece
        )
    found["ECE, all policies, all turns of all sets"] = (
        100 * calibration.quality([each for read in full.values() for each in read], encoder.calibration).ece
    )
    return {name: round(value, 1) for name, value in found.items()}


def _units(measured: Measured, name: str) -> dict[str, float]:
    """Turn, span and conversation accuracy over every turn, closings counted (the paper's, section 5)."""
    right: list[bool] = []
    spans: list[bool] = []
    whole: dict[str, bool] = {}
    last: tuple[str, str | None] | None = None
    for example, label, conversation, policies in measured.turns[name]:
        reading = measured.read(example.id, conversation, policies, label.policy)
        if reading is None:
            continue
        shares, other = probabilities(reading.cosines, reading.none, measured.encoder.calibration)
        chosen = None if other > 0.5 else int(shares.argmax())
        hit = chosen == reading.gold
        right.append(hit)
        if last == (example.id, label.policy):
            spans[-1] = spans[-1] and hit
        else:
            spans.append(hit)
        last = example.id, label.policy
        whole[example.id] = whole.get(example.id, True) and hit
    return {
        "turn": 100 * float(np.mean(right)),
        "span": 100 * float(np.mean(spans)),
        "conversation": 100 * float(np.mean(list(whole.values()))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    data = dataset.load(arguments.data, split="dev", only=sorted(SETS))
    columns: dict[str, dict[str, float]] = {}
    for folder in arguments.folders:
        encoder = Encoder.load(folder)
        columns[encoder.card.name] = measure(encoder, data)
    (arguments.out / "results.json").write_text(json.dumps(columns, indent=1) + "\n")
    lines = [
        "# The embedded router's weights",
        "",
        "Made by `python benches/encoder/bench.py DATA FOLDER FOLDER`; what is asked stands there.",
        "`minilm-l6-v2` is the published MiniLM in this router's format (`runs/untrained.toml`), with a",
        "calibration that nobody fitted to it. Percent, development split, int8.",
        '*best policy*: "none" left out; *decided*: as the router decides with the calibration on the card.',
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    rows = list(next(iter(columns.values())))
    lines += [f"| {row} | " + " | ".join(f"{each[row]:.1f}" for each in columns.values()) + " |" for row in rows]
    (arguments.out / "RESULTS.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
