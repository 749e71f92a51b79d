"""The calibration on the card of the weights that ship, fitted by `pointsman.calibration` to held-out conversations.

    python runs/calibrate-encoder.py FOLDER --data DATA --corpus build/corpus --bias -0.3 --temperature 0.05

Of each development set, each held-out part of a training source and each held-out part of the corpus: so many turns
with their policy on offer (5, 10, 20 policies and all), and some for which nothing on offer fits: foreign, fulfilled or
their policy withheld. How many of the latter is a matter of what a mistake costs, not of these data (docs/lab/LOG.md).
`--bias` moves the fitted bias, down for fewer "none"; `--temperature` stands instead of the fitted one (.061: all
sources count alike; over the development sets together it makes the confidence too low). A minute on one core.
Last run: 2026-11-24. Made: the calibration of minilm-l6-v2-pm1.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pointsman import calibration, dataset
from pointsman.calibration import Reading
from pointsman.dataset import Dataset
from pointsman.evals import scenarios
from pointsman.evals.scenarios import Kind, Scenario
from pointsman.routers.encoder import Calibration, Encoder

SIZES = (5, 10, 20, None)
CONVERSATIONS = 120
FITTING, WITHOUT = 250, 30
"""Turns of each source with a policy on offer; and of each kind without."""
START = Calibration(temperature=0.06, bias=-1.0, evidence=7.0, height=7.0, doubt=0.3)
START = Calibration(temperature=0.06, bias=-1.0, evidence=7.0, height=7.0, doubt=0.3)


def readings(encoder: Encoder, data: Dataset) -> Iterator[tuple[str, Kind, Reading]]:
    for source in data.sources:
        rng = random.Random(source.name)
        examples = rng.sample(source.examples, min(CONVERSATIONS, len(source.examples)))
        for scenario in (Scenario.FQFA, Scenario.IRRELEVANCE):
            for size in SIZES:
                for example in examples:
                    case = scenarios.case(example, data.taxonomies[example.policies], scenario, size=size, seed=0)
                    for target in case.targets if case else ():
                        if scenarios.asks(scenario, target.kind) and (
                            read := encoder.reading(case.upto(target.index), case.offered)
                        ):
                            gold = case.offered.ids.index(target.policy) if target.policy is not None else None
                            key = f"{source.name}/{example.id}"
                            yield (
                                source.name,
                                target.kind,
                                Reading(conversation=key, cosines=read[0], none=read[1], gold=gold),
                            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--without", type=int, default=WITHOUT)
    parser.add_argument("--bias", type=float, default=0.0)
    parser.add_argument("--temperature", type=float)
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.folder)
    found: dict[tuple[str, Kind], list[Reading]] = {}
    for data in (
        dataset.load(arguments.data, split="dev"),
        dataset.load(arguments.corpus, split="heldout", only=["teams", "drawn"]),
    ):
        for name, kind, reading in readings(encoder, data):
            found.setdefault((name, kind), []).append(reading)
    rng = random.Random(0)
    drawn: list[Reading] = []
    for (_, kind), read in sorted(found.items()):
        drawn += rng.sample(read, min(FITTING if kind is Kind.POLICY else arguments.without, len(read)))
    fitted = calibration.fit(drawn, START)
    numbers = {name: round(value, 4) for name, value in msgspec.to_builtins(fitted).items()}
    numbers["bias"] = round(fitted.bias + arguments.bias, 4)
    numbers["temperature"] = arguments.temperature or numbers["temperature"]
    fitted = msgspec.convert(numbers, Calibration)
    for (name, kind), read in sorted(found.items()):
        measured = calibration.quality(read, fitted)
        false = f"  none {measured.false_none:.1%}" if measured.false_none is not None else ""
        print(f"{name:20} {kind.value:10} {measured.turns:6} right {measured.right:.1%}  ECE {measured.ece:.3f}{false}")
    card = msgspec.structs.replace(encoder.card, calibration=fitted)
    (arguments.folder / "card.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    print(fitted)


if __name__ == "__main__":
    main()
