"""The embedded router's network under training: token ids to what `pointsman.routers.encoder` reads of its export.

A sentence encoder of the BERT family, with two small linear heads. All texts of a step go through it as one row of
tokens without padding, since a text of eight tokens beside one of a hundred would otherwise cost as much; only
attention is computed in groups of about one length. Matrices are multiplied in bfloat16, sums and norms are taken in
float32: on a processor with AMX one step takes half the time of the padded encoder of `transformers`
(docs/lab/LOG.md). The same code runs on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

from pointsman.routers.encoder import Text

GROUP = 32
"""Texts whose attention is computed together, at most,"""
SLACK = 1.15
"""and the longest of them is no longer than this many times the shortest, and a few tokens."""


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """What the network makes of n texts."""

    vectors: Tensor
    """Unit vectors, float32 [n, d]."""
    none: Tensor
    """The cosine that a policy must exceed to be meant at all, float32 [n]."""


class Network(nn.Module):
    """The encoder with its heads.

    A text's vector is the mean over the tokens of its newest turn plus, weighted by a gate that reads that mean, the
    mean over what was said before. `none` reads the same mean: "thanks, bye" asks for nothing, whatever came before it.
    """

    def __init__(self, bert: nn.Module, *, gate: float = 0.0, none: float = 0.2) -> None:
        super().__init__()
        self.bert = bert
        self.gate = nn.Linear(bert.config.hidden_size, 1)
        self.none = nn.Linear(bert.config.hidden_size, 1)
        for head, start in ((self.gate, gate), (self.none, none)):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, start)

    def forward(self, texts: Sequence[Text]) -> Encoded:
        device = self.bert.embeddings.word_embeddings.weight.device
        lengths = torch.tensor([len(text.ids) for text in texts])
        newest = torch.tensor([text.newest for text in texts])
        owner = torch.repeat_interleave(lengths)
        place = torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]
        before = (place >= newest[owner]).long()
        ids = torch.tensor([id for text in texts for id in text.ids])
        hidden = self._hidden(ids.to(device), place.to(device), before.to(device), lengths)

        owner, before = owner.to(device), before.to(device)
        said = _means(hidden, owner, 1 - before, len(texts))
        context = _means(hidden, owner, before, len(texts))
        heading = normalize(said, dim=-1)
        vectors = normalize(said + torch.sigmoid(self.gate(heading)) * context, dim=-1)
        return Encoded(vectors=vectors, none=self.none(heading)[:, 0])

    def _hidden(self, ids: Tensor, place: Tensor, before: Tensor, lengths: Tensor) -> Tensor:
        """The last layer's hidden states, float32 [tokens, d]."""
        embeddings = self.bert.embeddings
        x = embeddings.word_embeddings(ids) + embeddings.position_embeddings(place)
        x = embeddings.LayerNorm(x + embeddings.token_type_embeddings(before))
        groups = _groups(lengths, x.device)
        for layer in self.bert.encoder.layer:
            attention = layer.attention
            mixed = self._attend(x.bfloat16(), attention.self, groups)
            x = attention.output.LayerNorm(_product(mixed, attention.output.dense).float() + x)
            inner = gelu(_product(x.bfloat16(), layer.intermediate.dense))
            x = layer.output.LayerNorm(_product(inner, layer.output.dense).float() + x)
        return x

    def _attend(self, x: Tensor, attention: nn.Module, groups: _Groups) -> Tensor:
        heads = self.bert.config.num_attention_heads
        parts = (attention.query, attention.key, attention.value)
        weight = torch.cat([part.weight for part in parts]).bfloat16()
        bias = torch.cat([part.bias for part in parts]).bfloat16()
        # One gather for all groups: the gradient of one for each would write the whole row of tokens every time.
        gathered = linear(x, weight, bias)[groups.gather].split(groups.sizes)
        outputs: list[Tensor] = []
        for rows, mask in zip(gathered, groups.masks, strict=True):
            query, key, value = rows.view(*mask.shape, 3, heads, -1).permute(2, 0, 3, 1, 4)
            scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(2, 3)
            scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
            outputs.append((torch.softmax(scores, -1) @ value).transpose(1, 2).reshape(len(rows), -1))
        return torch.cat(outputs)[groups.back]


class _Groups(msgspec.Struct, frozen=True, kw_only=True):
    """Texts sorted into groups of about one length, and how tokens get there and back."""

    gather: Tensor
    """For each place of each group's [texts, length], the token that stands there, or a stand-in where a text ends."""
    sizes: list[int]
    masks: list[Tensor]
    """Which places hold a token: bool [texts, length] for each group."""
    back: Tensor
    """For each token, its place."""


def _groups(lengths: Tensor, device: torch.device) -> _Groups:
    counts = lengths.tolist()
    starts = (lengths.cumsum(0) - lengths).tolist()
    members: list[list[int]] = [[]]
    for at in sorted(range(len(counts)), key=counts.__getitem__):
        group = members[-1]
        if len(group) == GROUP or (group and counts[at] > SLACK * counts[group[0]] + 3):
            members.append([at])
        else:
            group.append(at)
    gather, sizes, masks = [], [], []
    back = torch.empty(sum(counts), dtype=torch.long)
    done = 0
    for group in members:
        places = torch.arange(counts[group[-1]])[None]
        start = torch.tensor([starts[at] for at in group])[:, None]
        mask = places < torch.tensor([counts[at] for at in group])[:, None]
        index = start + places * mask
        back[index[mask]] = done + torch.arange(mask.numel()).view(mask.shape)[mask]
        gather.append(index.flatten())
        sizes.append(mask.numel())
        masks.append(mask.to(device))
        done += mask.numel()
    return _Groups(gather=torch.cat(gather).to(device), sizes=sizes, masks=masks, back=back.to(device))


def _product(x: Tensor, dense: nn.Linear) -> Tensor:
    return linear(x, dense.weight.bfloat16(), dense.bias.bfloat16())


def _means(hidden: Tensor, owner: Tensor, counted: Tensor, texts: int) -> Tensor:
    """The mean over each text's counted tokens, float32 [texts, d]; zero where there is none."""
    weight = counted.to(hidden.dtype)
    total = hidden.new_zeros(texts, hidden.shape[1]).index_add(0, owner, hidden * weight[:, None])
    return total / hidden.new_zeros(texts).index_add(0, owner, weight).clamp(min=1)[:, None]
