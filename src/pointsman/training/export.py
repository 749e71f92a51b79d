"""A trained network as the folder of files that `pointsman.routers.encoder` serves.

`encoder.onnx` (int8; token ids in, unit vector and the height of "none" out), `tokenizer.json` and `card.json`, which
holds everything else that belongs to these weights: licence, digests, and the constants fixed for them. Replacing the
weights of the embedded router is replacing this folder. Knows nothing of how they were made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from pointsman.conversation import Turn
from pointsman.errors import WeightsError
from pointsman.routers.encoder import Card, Reader, Text
from pointsman.training.checkpoint import SHAPE_NAMES
from pointsman.training.network import Network

PARITY = 0.97
"""No probe's int8 vector may be further than this cosine from torch's. MiniLM measures 0.978 at worst, 0.993 on
average, and no worse fine-tuned; a wrong pooling or a lost bias falls far below."""

PROBES = (
    ("hi",),
    ("Write a function that plots two columns of a dataframe.",),
    ("it doesn't work :(",),
    ("What's the balance of my savings account, and can you move 200 dollars of it to Anna?",),
    ("Résume ce contrat de location en trois phrases, s'il te plaît.",),
    ("legal - summarization: Shorten or extract the key points of a legal document.",),
    ("for i in range(10):\n    print(f'{i:>3} {xs[i]!r}')\n" * 8,),
    ("Prove that the sum of the first n odd numbers is n squared. " * 12,),
    ("Find me a flight to Lisbon on Friday.", "Two are left. Which one would you like?", "The second one, please."),
    ("My build fails.", "What does it say?", "E: unmet dependencies", "Try again.", "thanks, that did it"),
)
"""Conversations, a user's turn first and last."""


class Graph(nn.Module):
    """Token ids, int64 [1, n], and how many of them are the newest turn, to a vector, float32 [1, d], and "none" [1].

    The network once more, for one text, in operators that the quantiser reads. There is no mask: dynamic quantisation
    takes one activation scale per run, so texts in one batch would change each other's vectors; the router runs one
    text at a time and needs none. onnxruntime's fused attention was no faster in int8 (docs/lab/LOG.md).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, newest: Tensor) -> tuple[Tensor, Tensor]:
        count = ids.shape[1]
        heads = self.network.bert.config.num_attention_heads
        embeddings = self.network.bert.embeddings
        places = torch.arange(count)
        before = (places >= newest).long()[None]
        x = embeddings.word_embeddings(ids) + embeddings.position_embeddings(places[None])
        x = embeddings.LayerNorm(x + embeddings.token_type_embeddings(before))
        for layer in self.network.bert.encoder.layer:
            attention = layer.attention
            query, key, value = (
                linear(x).view(1, count, heads, -1).transpose(1, 2)
                for linear in (attention.self.query, attention.self.key, attention.self.value)
            )
            weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(attention.self.attention_head_size), -1)
            mixed = (weights @ value).transpose(1, 2).reshape(1, count, -1)
            x = attention.output.LayerNorm(attention.output.dense(mixed) + x)
            x = layer.output.LayerNorm(layer.output.dense(gelu(layer.intermediate.dense(x))) + x)
        asked = before.float()[..., None]
        said = (x * (1 - asked)).sum(1) / (1 - asked).sum(1)
        context = (x * asked).sum(1) / asked.sum(1).clamp(min=1)
        heading = normalize(said, dim=-1)
        # Written out, so that these two stay exact: the quantiser takes what is a matrix product.
        gate = torch.sigmoid((heading * self.network.gate.weight).sum(-1) + self.network.gate.bias)
        none = (heading * self.network.none.weight).sum(-1) + self.network.none.bias
        return normalize(said + gate[:, None] * context, dim=-1), none


def export(network: Network, tokenizer: Tokenizer, out: Path, card: Card) -> Card:
    """Write the folder and return its card, digests filled in.

    Raises WeightsError, and leaves no card, if the exported vectors are not the network's.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "card.json").unlink(missing_ok=True)
    (out / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    network = network.cpu().eval()
    for name, each in network.named_parameters():
        if not torch.isfinite(each).all():
            raise WeightsError(f"{name} holds what is no number, so there is nothing to export")
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch) / "exact.onnx"
        torch.onnx.export(
            Graph(network).eval(),
            (torch.ones((1, 8), dtype=torch.int64), torch.tensor(6)),
            str(exact),
            dynamo=False,  # the other exporter needs another package and writes operators the quantiser passes over
            opset_version=17,
            input_names=["ids", "newest"],
            output_names=["vector", "none"],
            dynamic_axes={"ids": {1: "tokens"}},
        )
        _name(exact, network)
        logging.disable(logging.WARNING)  # it recommends a step that does nothing for this graph
        try:
            quantize_dynamic(
                exact,
                out / "encoder.onnx",
                per_channel=True,  # one scale per output channel: closer than one per tensor, and no slower
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": 1},
            )
        finally:
            logging.disable(logging.NOTSET)
    parity(network, Reader(tokenizer, card), out / "encoder.onnx")
    files = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ("encoder.onnx", "tokenizer.json")}
    card = msgspec.structs.replace(card, sha256=files)
    write_card(out, card)
    return card


def write_card(folder: Path, card: Card) -> None:
    """Write the card of a folder."""
    (folder / "card.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")


def _name(file: Path, network: Network) -> None:
    """Give every matrix its parameter's name again, which the exporter loses, and say what shape the encoder has.

    So the weights can be read back (`checkpoint.begin`).
    """
    model = onnx.load(file)
    stored = {each.name: each for each in model.graph.initializer}
    matrices = [node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stored]
    names = [
        f"bert.encoder.layer.{at}.{part}.weight"
        for at in range(network.bert.config.num_hidden_layers)
        for part in (
            *(f"attention.self.{each}" for each in ("query", "key", "value")),
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
    ]
    parameters = dict(network.named_parameters())
    named = dict(zip(matrices, names, strict=True))
    for old, new in named.items():
        found = torch.from_numpy(onnx.numpy_helper.to_array(stored[old]).copy())
        if not torch.equal(found, parameters[new].detach().T):
            raise WeightsError(f"the exporter did not write {new} where it was expected")
        stored[old].name = new
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = named.get(name, name).replace("network.", "", 1) if name in stored else name
    for each in model.graph.initializer:
        each.name = each.name.replace("network.", "", 1)
    shape = {name: getattr(network.bert.config, name) for name in SHAPE_NAMES}
    onnx.helper.set_model_props(model, {"shape": json.dumps(shape)})
    onnx.save(model, file)


def parity(network: Network, reader: Reader, file: Path) -> tuple[float, float]:
    """The mean and the least cosine of the file's vectors to the network's own, over the probes.

    Raises WeightsError if the least is below PARITY, or "none" is not of the same height.
    """
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    texts: list[Text] = [
        reader.conversation([Turn(role="assistant" if at % 2 else "user", text=text) for at, text in enumerate(probe)])
        for probe in PROBES
    ]
    with torch.inference_mode():
        theirs = network(texts)
    cosines: list[float] = []
    for at, text in enumerate(texts):
        given = {"ids": np.asarray([text.ids], dtype=np.int64), "newest": np.asarray(text.newest, dtype=np.int64)}
        vector, none = session.run(["vector", "none"], given)
        cosines.append(float(vector[0] @ theirs.vectors[at].numpy()))
        if not abs(float(none[0]) - float(theirs.none[at])) <= 0.1:
            said = f"{float(none[0]):.2f} for a probe, and {float(theirs.none[at]):.2f} in torch"
            raise WeightsError(f'{file}: "none" is {said}')
    least = float(np.min(cosines))  # which is no number if one of them is none
    if not least >= PARITY:
        raise WeightsError(f"{file}: the exported vectors moved: cosine {least:.4f} to torch's, and {PARITY} is needed")
    return float(np.mean(cosines)), least
