"""Exported weights: the router's own vectors are the network's, and a folder that is not as exported is refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is in the extra `train`")
pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra `train`")
onnx = pytest.importorskip("onnx", reason="onnx is not installed; it is in the extra `train`")

import numpy as np  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

from pointsman.conversation import Conversation  # noqa: E402
from pointsman.errors import WeightsError  # noqa: E402
from pointsman.policy import Policy, PolicySet  # noqa: E402
from pointsman.routers.encoder import Card, Encoder, Reader, policy_texts, read_card  # noqa: E402
from pointsman.training.export import PARITY, export, parity  # noqa: E402
from pointsman.training.network import Network  # noqa: E402
from tests.training.conftest import EXPORTING, IDS, asked, full_disk, redigest, turns  # noqa: E402

pytestmark = EXPORTING
Make = Callable[..., Network]
POLICIES = PolicySet(Policy(id=id, description=f"{asked(id)} please") for id in IDS)


@pytest.fixture(scope="module")
def network(tiny: Make) -> Network:
    """One that reads something into gate and "none"."""
    made = tiny()
    with torch.no_grad():
        made.gate.weight.mul_(20)
        made.none.weight.mul_(4)
    return made


@pytest.fixture(scope="module")
def made(
    network: Network, tokenizer: Tokenizer, card: Card, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Card]:
    folder = tmp_path_factory.mktemp("weights") / "made"
    return folder, export(network, tokenizer, folder, card)


@pytest.fixture
def folder(made: tuple[Path, Card], tmp_path: Path) -> Path:
    """One's own, to spoil."""
    return Path(shutil.copytree(made[0], tmp_path / "weights"))


def refused(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        Encoder.load(folder)
    return str(caught.value)


def test_the_folder_is_all_that_the_router_needs(made: tuple[Path, Card], card: Card) -> None:
    folder, written = made
    assert sorted(file.name for file in folder.iterdir()) == ["card.json", "encoder.onnx", "tokenizer.json"]
    assert read_card(folder) == written
    assert set(written.sha256) == {"encoder.onnx", "tokenizer.json"}
    assert (written.name, written.reading, written.calibration) == (card.name, card.reading, card.calibration)
    assert Encoder.load(folder).id == f"encoder/tiny@{written.sha256['encoder.onnx'][:8]}"


def test_the_router_reads_and_encodes_as_training_does(
    made: tuple[Path, Card], network: Network, tokenizer: Tokenizer, card: Card
) -> None:
    encoder, reader = Encoder.load(made[0]), Reader(tokenizer, card)
    said = [
        ("book hotel",),
        ("bye",),
        ("find me a train please " * 9,),
        ("cancel table", "which one", "thanks"),
        ("praise hotel", "yes", "find it for me", "which one please", "a table"),
    ]
    with torch.inference_mode():
        offered = torch.stack(
            [
                normalize(sum(network([reader.policy(text)]).vectors[0] for text in policy_texts(policy, card)), dim=-1)
                for policy in POLICIES
            ]
        )
        for texts in said:
            theirs = network([reader.conversation(turns(*texts))])
            found = encoder.reading(Conversation(turns=turns(*texts)), POLICIES)
            assert found is not None
            cosines, none = found
            assert cosines == pytest.approx((offered @ theirs.vectors[0]).numpy(), abs=0.03)
            assert np.ptp(cosines) > 0.15
            assert none == pytest.approx(float(theirs.none[0]), abs=0.03)


def test_what_was_said_before_and_both_heads_are_in_the_graph(made: tuple[Path, Card]) -> None:
    encoder = Encoder.load(made[0])
    asked_alone = encoder.reading(Conversation(turns=turns("please")), POLICIES)
    asked_after = encoder.reading(Conversation(turns=turns("cancel table", "which one", "please")), POLICIES)
    other = encoder.reading(Conversation(turns=turns("bye")), POLICIES)
    assert asked_alone is not None
    assert asked_after is not None
    assert other is not None
    assert np.abs(asked_alone[0] - asked_after[0]).max() > 0.1
    assert abs(asked_alone[1] - other[1]) > 0.05


def test_parity_is_measured_and_what_falls_short_of_it_is_refused(
    network: Network, tokenizer: Tokenizer, card: Card, tmp_path: Path
) -> None:
    moved = copy.deepcopy(network)
    moved.none.weight.data.zero_()  # so that "none" stays where it is while the vectors move
    export(moved, tokenizer, tmp_path, card)
    file, reader = tmp_path / "encoder.onnx", Reader(tokenizer, card)
    mean, least = parity(moved, reader, file)
    assert PARITY < least <= mean <= 1.0001

    moved.none.bias.data.add_(0.5)
    with pytest.raises(WeightsError, match=r'encoder\.onnx: "none" is'):
        parity(moved, reader, file)

    moved.none.bias.data.sub_(0.5)
    moved.bert.encoder.layer[1].output.dense.bias.data.add_(torch.linspace(-2, 2, 32))
    with pytest.raises(WeightsError, match=r"encoder\.onnx: the exported vectors moved: cosine -?0\.\d+ to torch's"):
        parity(moved, reader, file)


def test_weights_that_are_no_numbers_are_not_exported(
    tiny: Make, tokenizer: Tokenizer, card: Card, folder: Path
) -> None:
    spoilt = tiny()
    # Met only where something was said before.
    spoilt.bert.embeddings.token_type_embeddings.weight.data[1] = float("nan")
    with pytest.raises(WeightsError, match=r"token_type_embeddings\.weight holds what is no number"):
        export(spoilt, tokenizer, folder, card)
    assert not (folder / "card.json").exists()
    assert "cannot be read" in refused(folder)


def test_a_full_disk_leaves_no_card(network: Network, tokenizer: Tokenizer, card: Card, folder: Path) -> None:
    with full_disk(100), pytest.raises(OSError, match="File too large"):
        export(network, tokenizer, folder, card)
    assert not (folder / "card.json").exists()


# --- folders that are not as they were exported


def test_a_truncated_graph_is_refused_by_its_digest_and_by_itself(folder: Path) -> None:
    file = folder / "encoder.onnx"
    file.write_bytes(file.read_bytes()[:-1000])
    assert refused(folder).startswith(f"{file} is not the file that card.json describes (sha256 ")
    redigest(folder)
    assert refused(folder).startswith(f"{folder}: onnxruntime or tokenizers cannot read the weights")


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json"])
def test_a_changed_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert refused(folder).startswith(f"{folder / name} is not the file that card.json describes (sha256 ")


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "card.json"])
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refused(folder).startswith(f"{folder / name} cannot be read: No such file or directory")


@pytest.mark.parametrize("named", [True, False])
def test_a_card_of_the_format_before_is_refused_and_says_how_to_get_another(folder: Path, named: bool) -> None:
    card = json.loads((folder / "card.json").read_bytes())
    card.pop("format")
    (folder / "card.json").write_text(json.dumps(card | ({"format": 1} if named else {})))
    said = refused(folder)
    assert said.startswith(f"{folder / 'card.json'} is of format 1, and this version of pointsman reads 2")
    assert "pointsman train encoder" in said


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": "two"}'])
def test_a_card_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "card.json").write_text(content)
    assert refused(folder).startswith(f"{folder / 'card.json'} is not a card: ")


def test_a_graph_with_other_inputs_is_refused(folder: Path) -> None:
    model = onnx.load(folder / "encoder.onnx")
    for each in model.graph.input:
        each.name = "mask" if each.name == "newest" else each.name
    for node in model.graph.node:
        node.input[:] = ["mask" if name == "newest" else name for name in node.input]
    onnx.save(model, folder / "encoder.onnx")
    redigest(folder)
    assert refused(folder).startswith(f"{folder}: encoder.onnx takes ids, mask, not ids and newest")
