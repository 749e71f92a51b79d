"""What a network under training makes of conversations that it does not learn from: a few figures, fast.

Not the benchmark (`pointsman eval` is, on the exported weights): the whole set on offer, no calibration, torch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize

from pointsman import dataset
from pointsman.policy import PolicySet
from pointsman.routers.encoder import Card, Reader, Text, policy_texts
from pointsman.training.network import Encoded, Network
from pointsman.training.settings import Evaluation

AT_ONCE = 128


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    text: Text
    policies: str
    gold: str | None


class Validation:
    """Held-out conversations, drawn once, so that every step is asked the same."""

    def __init__(self, evaluation: Evaluation, tokenizer: Tokenizer, card: Card, *, seed: int = 0) -> None:
        """Raises DataError."""
        reader = Reader(tokenizer, card)
        self._cases: list[_Case] = []
        self._sets: dict[str, tuple[PolicySet, list[list[Text]]]] = {}
        self.data: list[dataset.Dataset] = []
        for path in map(Path, evaluation.data):
            # A file, or a split's folder, has its policy sets beside it.
            folder = path if path.is_dir() and (path / "policies").is_dir() else path.parent
            folder = folder if (folder / "policies").is_dir() else folder.parent
            policies = Path(evaluation.policies) if evaluation.policies else folder / "policies"
            data = _drawn(dataset.load(path, policies=policies), evaluation.examples, seed)
            self.data.append(data)
            for source in data.sources:
                for row in source.examples:
                    for label in row.turns:
                        turns = row.upto(label.index).readable
                        if turns:
                            text = reader.conversation(turns)
                            name = f"{path}/{row.policies}"
                            self._cases.append(_Case(source=source.name, text=text, policies=name, gold=label.policy))
                            if name not in self._sets:
                                offered = data.taxonomies[row.policies].policies
                                self._sets[name] = offered, _texts(offered, reader, card)

    def measure(self, network: Network) -> dict[str, float]:
        """For each source, in percent: `NAME turn`, turns with a policy whose best policy is theirs, and where it has
        both kinds `NAME none`, how well turns without one are told apart (area under the ROC curve)."""
        vectors = {name: _policy_vectors(network, texts) for name, (_, texts) in self._sets.items()}
        encoded = _encode(network, [case.text for case in self._cases])
        right: dict[str, list[bool]] = {}
        none: dict[str, tuple[list[bool], list[float]]] = {}
        for case, vector, height in zip(self._cases, encoded.vectors, encoded.none.tolist(), strict=True):
            cosines = vectors[case.policies] @ vector
            best = int(cosines.argmax())
            if case.gold is not None:
                right.setdefault(case.source, []).append(self._sets[case.policies][0].ids[best] == case.gold)
            told, heights = none.setdefault(case.source, ([], []))
            told.append(case.gold is None)
            heights.append(height - float(cosines[best]))
        found = {f"{name} turn": round(100 * sum(each) / len(each), 2) for name, each in right.items()}
        for name, (told, heights) in none.items():
            if any(told) and not all(told):
                found[f"{name} none"] = round(100 * _auroc(heights, told), 2)
        return found


def _drawn(data: dataset.Dataset, examples: int, seed: int) -> dataset.Dataset:
    """The data with so many examples of each source at most."""

    def drawn(source: dataset.Source) -> dataset.Source:
        rows = list(source.examples)
        random.Random(seed).shuffle(rows)  # noqa: S311
        return msgspec.structs.replace(source, examples=tuple(rows[:examples]))

    return msgspec.structs.replace(data, sources=tuple(map(drawn, data.sources)))


def _texts(policies: PolicySet, reader: Reader, card: Card) -> list[list[Text]]:
    return [[reader.policy(text) for text in policy_texts(policy, card)] for policy in policies]


def _policy_vectors(network: Network, texts: Sequence[Sequence[Text]]) -> Tensor:
    flat = _encode(network, [text for each in texts for text in each]).vectors
    parts = flat.split([len(each) for each in texts])
    return normalize(torch.stack([part.sum(0) for part in parts]), dim=-1)


def _encode(network: Network, texts: Sequence[Text]) -> Encoded:
    with torch.inference_mode():
        parts = [network(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
    return Encoded(
        vectors=torch.cat([part.vectors for part in parts]).cpu(), none=torch.cat([part.none for part in parts]).cpu()
    )


def _auroc(values: Sequence[float], positive: Sequence[bool]) -> float:
    """The chance that a positive's value is above another's, ties by half (Mann and Whitney 1947)."""
    listed, mask = np.asarray(values), np.asarray(positive)
    _, inverse, counts = np.unique(listed, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    count = int(mask.sum())
    return float((ranks[mask].sum() - count * (count + 1) / 2) / (count * (len(mask) - count)))
