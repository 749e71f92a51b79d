"""The network under training gives what `transformers` gives, for each text as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is in the extra `train`")
pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra `train`")

from torch.nn.functional import normalize  # noqa: E402

from pointsman.routers.encoder import Text  # noqa: E402
from pointsman.training.network import GROUP, Encoded, Network  # noqa: E402
from tests.training.conftest import WORDS  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

Make = Callable[..., Network]


def texts(count: int, *, seed: int = 0, most: int = 40) -> list[Text]:
    """Texts of words by chance, of any length; half of them with something said before."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    found: list[Text] = []
    for at in range(count):
        ids = [2, *(number(4, len(WORDS)) for _ in range(number(1, most))), 3]
        found.append(Text(ids=ids, newest=len(ids) if at % 2 else number(1, len(ids))))
    return found


def encoded(network: Network, these: Sequence[Text]) -> Encoded:
    with torch.inference_mode():
        return network(these)


def hidden(network: Network, text: Text) -> Tensor:
    """The last hidden states by `transformers`, float32."""
    before = [int(at >= text.newest) for at in range(len(text.ids))]
    with torch.inference_mode():
        return network.bert(
            input_ids=torch.tensor([text.ids]), token_type_ids=torch.tensor([before])
        ).last_hidden_state[0]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(normalize(one, dim=-1) @ normalize(other, dim=-1))


def test_texts_differ_so_that_what_follows_says_something(tiny: Make) -> None:
    vectors = encoded(tiny(), texts(20)).vectors
    assert float((vectors @ vectors.T).fill_diagonal_(0).mean()) < 0.8


def test_a_lone_texts_vector_is_the_mean_of_what_transformers_gives(tiny: Make) -> None:
    network = tiny()
    for text in texts(12):
        lone = Text(ids=text.ids, newest=len(text.ids))
        found = encoded(network, [lone])
        assert found.vectors.dtype == found.none.dtype == torch.float32
        assert float(found.vectors[0].norm()) == pytest.approx(1, abs=1e-5)
        assert cosine(found.vectors[0], hidden(network, lone).mean(0)) > 0.999


def test_what_was_said_before_joins_the_mean_through_the_gate_alone(tiny: Make) -> None:
    network = tiny()
    text = Text(ids=[2, 21, 18, 3, 4, 6, 20, 17, 3], newest=4)
    states = hidden(network, text)
    said, context = states[:4].mean(0), states[4:].mean(0)
    assert cosine(said, context) < 0.95
    with torch.no_grad():
        network.gate.weight.normal_(generator=torch.Generator().manual_seed(0))
        for bias in (-40.0, -1.0, 0.5, 40.0):
            network.gate.bias.fill_(bias)
            opened = torch.sigmoid(network.gate(normalize(said, dim=-1)))
            vector = encoded(network, [text]).vectors[0]
            assert cosine(vector, said + opened * context) > 0.999
            if bias == -40:
                assert cosine(vector, said) > 0.999


def test_none_reads_the_newest_turn_alone_and_neither_gate_nor_what_was_said_before(tiny: Make) -> None:
    network = tiny()
    with torch.no_grad():
        network.none.weight.normal_(generator=torch.Generator().manual_seed(0))
    for text in texts(8):
        heading = normalize(hidden(network, text)[: text.newest].mean(0), dim=-1)
        with torch.no_grad():
            expected = float(network.none(heading))
        network.gate.bias.data.add_(1.0)
        assert float(encoded(network, [text]).none) == pytest.approx(expected, abs=0.03)


def test_the_heads_begin_where_they_are_told_and_read_nothing_yet(tiny: Make) -> None:
    network = Network(tiny().bert, gate=-0.5, none=0.3)
    assert encoded(network, texts(5)).none.tolist() == pytest.approx([0.3] * 5)
    assert network.gate.bias.tolist() == [-0.5]
    assert not network.gate.weight.any()


def test_a_text_in_a_mixed_batch_is_what_it_is_alone(tiny: Make) -> None:
    network = tiny()
    mixed = texts(3 * GROUP, most=60)
    assert len({len(text.ids) for text in mixed}) > 30
    together = encoded(network, mixed)
    for at, text in enumerate(mixed):
        alone = encoded(network, [text])
        assert cosine(together.vectors[at], alone.vectors[0]) > 0.999
        assert float(together.none[at]) == pytest.approx(float(alone.none[0]), abs=0.02)


def test_many_texts_of_one_length_are_each_what_they_are_alone(tiny: Make) -> None:
    network = tiny()
    same = [Text(ids=text.ids[:6], newest=6) for text in texts(200) if len(text.ids) > 6][: GROUP + 5]
    assert len(same) == GROUP + 5
    together = encoded(network, same)
    for at, text in enumerate(same):
        assert cosine(together.vectors[at], encoded(network, [text]).vectors[0]) > 0.999


def gradient(network: Network, these: Sequence[Text], aim: Tensor) -> Tensor:
    network.zero_grad()
    found = network(these)
    ((found.vectors * aim).sum() + found.none.sum()).backward()
    return torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])


def test_the_gradient_of_a_batch_is_the_sum_of_its_texts(tiny: Make) -> None:
    network = tiny()
    mixed = texts(GROUP + 8)
    aim = torch.randn(len(mixed), 32, generator=torch.Generator().manual_seed(1))
    together = gradient(network, mixed, aim)
    alone = sum(gradient(network, [text], aim[at : at + 1]) for at, text in enumerate(mixed))
    assert cosine(together, alone) > 0.995
    assert float(together.norm() / alone.norm()) == pytest.approx(1, abs=0.03)
