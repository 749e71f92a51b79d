"""A small folder of data, a tokenizer of whole words, and a BERT of two layers that has learned nothing."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pointsman.conversation import Turn
from pointsman.routers.encoder import Calibration, Card, Reading

if TYPE_CHECKING:
    from pointsman.training.network import Network

VERBS = ("book", "find", "cancel", "praise")
THINGS = ("hotel", "train", "table")
IDS = tuple(f"{thing}.{verb}" for thing in THINGS for verb in VERBS)
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "user", "assistant", ":"),
    *("yes", "thanks", "bye", "which", "one", "please", "a", "me", "it", "for"),
    *(*VERBS, *THINGS),
)

EXPORTING = [
    pytest.mark.filterwarnings(f"ignore:{said}")
    for said in (
        # The exporter whose operators the quantiser reads (`export.export`).
        "You are using the legacy TorchScript-based ONNX export:DeprecationWarning",
        "The feature will be removed:DeprecationWarning",
        # The square root of a head's width, which is a constant.
        "Converting a tensor to a Python float:torch.jit.TracerWarning",
    )
]
"""Marks of a module that exports: warnings of torch that are known."""


def row(policy: str | None, *said: str, policies: str = "all") -> dict[str, Any]:
    """A labelled conversation, the user speaking first; the first turn has the label, all later ones only close."""
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    later = [{"index": at, "policy": None, "closing": True} for at in range(2, len(said), 2)]
    return {"policies": policies, "messages": messages, "turns": [{"index": 0, "policy": policy}, *later]}


def put(file: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    """Write rows, or lines as they are, as a source's file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def put_set(folder: Path, name: str, ids: Sequence[str], words: str = "") -> None:
    """Write a policy set whose descriptions are the words of the ids, and `words`."""
    policies = [{"name": id, "description": f"{' '.join(id.split('.'))} {words}".strip()} for id in ids]
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    (folder / "policies" / f"{name}.json").write_text(json.dumps({"name": name, "policies": policies}))


def asked(id: str) -> str:
    """What somebody says who wants it: "book hotel"."""
    return " ".join(reversed(id.split(".")))


def turns(*said: str) -> tuple[Turn, ...]:
    """A dialogue, the user speaking first and last."""
    return tuple(Turn(role="assistant" if at % 2 else "user", text=text) for at, text in enumerate(said))


def redigest(folder: Path) -> None:
    """Make a folder's card agree with its files, as if they had been exported so."""
    card = json.loads((folder / "card.json").read_bytes())
    card["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in card["sha256"]}
    (folder / "card.json").write_text(json.dumps(card))


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`single`: requests in a set for everything and in those of two teams; `talk`: dialogues in the first of them.

    Both have turns for which no policy fits. `dev/held` is for measuring and calibrating.
    """
    folder = tmp_path / "data"
    put_set(folder, "all", IDS)
    put_set(folder, "desk", IDS[:4])
    put_set(folder, "station", IDS[4:8])
    single = [row(id, asked(id)) for id in IDS for _ in range(3)]
    single += [row(id, asked(id), policies="desk") for id in IDS[:4] for _ in range(3)]
    single += [row(id, f"please {asked(id)}", policies="station") for id in IDS[4:8] for _ in range(3)]
    single += [row(None, "bye", policies=name) for name in ("all", "desk", "station")]
    put(folder / "train" / "single.jsonl.gz", single)
    put(folder / "train" / "talk.jsonl", [row(id, f"{asked(id)} for me", "which one", "thanks") for id in IDS])
    ways = ("{} please", "{} for me please", "please {} for me")
    held = [row(id, way.format(asked(id)), "yes", "thanks") for id in IDS for way in ways]
    put(folder / "dev" / "held.jsonl.gz", held)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


@pytest.fixture(scope="session")
def card() -> Card:
    """A card of the small weights. It reads little, so that what is cut is seen."""
    return Card(
        name="tiny",
        base="none",
        licence="Apache-2.0",
        source="chance",
        training="none",
        dimension=32,
        max_tokens=64,
        policy_texts=("{id}", "{description}", "{name}: {description}"),
        reading=Reading(user=16, before=24, before_user=8, before_assistant=8, policy=16),
        calibration=Calibration(temperature=0.1, bias=-1.0, evidence=6.0, height=6.0, doubt=1.0),
        sha256={},
    )


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Network]:
    """Makes a network, each time the same. No two of its parameters are alike, as in weights that were trained."""

    def make(hidden: int = 32, layers: int = 2) -> Network:
        import torch
        from transformers import BertConfig, BertModel

        from pointsman.training.network import Network

        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
            initializer_range=0.3,  # so large that texts differ before anything is learned
        )
        network = Network(BertModel(config, add_pooling_layer=False).eval())
        with torch.no_grad():
            for each in network.parameters():
                each.add_(0.1 * torch.randn_like(each))
        return network

    return make
