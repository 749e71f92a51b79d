"""Fine-tuning: batches that are what they say, a run that can stop and go on, and an average that is one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is in the extra `train`")
pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra `train`")

import numpy as np  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

from pointsman.conversation import Turn  # noqa: E402
from pointsman.routers.encoder import MINILM  # noqa: E402
from pointsman.training.finetune import Example, Plan, Pool, Tuner, draw, soup, sources, train  # noqa: E402

VERBS = ("book", "find", "cancel", "praise")
THINGS = ("hotel", "train", "table")
PLAN = Plan(steps=30, batch=8, rate=3e-3, warmup=2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sources: single turns of four actions in each of three domains; dialogues that end in thanks."""
    for folder in ("train", "policies"):
        (tmp_path / folder).mkdir()
    ids = [f"{thing}.{verb}" for thing in THINGS for verb in VERBS]
    single = [example(id, [" ".join(reversed(id.split(".")))]) for id in ids for _ in range(3)]
    talks = [example(id, [" ".join(reversed(id.split("."))), "yes", "thanks"]) for id in ids]
    for talk in talks:
        talk["turns"].append({"index": 2, "policy": None, "closing": True})
    for name, rows in (("single", single), ("talk", talks)):
        (tmp_path / "train" / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    described = [{"name": id, "description": " ".join(id.split("."))} for id in ids]
    (tmp_path / "policies" / "set.json").write_text(json.dumps({"name": "set", "policies": described}))
    return tmp_path


@pytest.fixture
def pool(data: Path) -> dict[str, list[Pool]]:
    return sources([data], ["single", "talk"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two small layers that has never seen a word, and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=40, intermediate_size=64, **sizes)).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "yes", "thanks", *VERBS, *THINGS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def example(policy: str, said: list[str]) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    return {"policies": "set", "messages": messages, "turns": [{"index": 0, "policy": policy}]}


def test_every_user_turn_is_an_example_with_what_was_said_before(pool: dict[str, list[Pool]]) -> None:
    assert {len(each.turns) for each in pool["talk"][0].examples[None]} == {3}
    assert {len(each.turns) for id in THINGS for each in pool["talk"][0].examples[f"{id}.book"]} == {1}


def test_a_step_lays_out_each_policy_once_half_of_them_alike_and_labels_hold(pool: dict[str, list[Pool]]) -> None:
    strangers = 0
    for at in range(100):
        step = draw(pool, at, PLAN)
        ids = [policy.id for policy in step.policies]
        assert len(set(ids)) == len(ids) >= 6
        assert len(step.examples) == PLAN.batch
        assert max(sum(policy.domain == domain for policy in step.policies) for domain in THINGS) >= 3
        for each, label in zip(step.examples, step.labels, strict=True):
            assert (ids[label] == each.policy) if label < len(ids) else (each.policy not in ids)
            strangers += label == len(ids)
    assert 0.05 < strangers / (100 * PLAN.batch) < 0.2


def test_a_step_depends_on_its_number_and_the_seed_alone(pool: dict[str, list[Pool]]) -> None:
    assert draw(pool, 7, PLAN) == draw(pool, 7, PLAN)
    assert draw(pool, 7, PLAN) != draw(pool, 8, PLAN)


def test_a_conversation_is_made_as_the_router_makes_it(checkpoint: Path) -> None:
    tuner = Tuner(checkpoint, MINILM, PLAN)
    roles = ("user", "assistant", "user")
    turns = tuple(Turn(role=role, text=text) for role, text in zip(roles, ("book hotel", "yes", "thanks"), strict=True))
    with torch.inference_mode():
        policies = tuner.encode([tuner.ids(text, 64) for text in ("hotel book", "train find")])
        ours = tuner.conversations([Example(turns=turns[:1], policy=None), Example(turns=turns, policy=None)], policies)
        each = tuner.encode([tuner.ids(turn.text, 64) for turn in turns]).numpy()
    reading = MINILM.reading
    relevance = np.maximum((each @ policies.numpy().T).max(1), reading.relevance)
    by_hand = np.array([reading.decay**2, reading.decay * reading.assistant, 1.0]) * relevance @ each
    assert ours[1].numpy() == pytest.approx(by_hand / np.linalg.norm(by_hand), abs=2e-2)  # bf16
    assert ours[0].numpy() == pytest.approx(each[0], abs=2e-2)


def test_it_learns_and_leaves_the_word_embeddings_alone(checkpoint: Path, pool: dict[str, list[Pool]]) -> None:
    tuner = Tuner(checkpoint, MINILM, PLAN)
    words = tuner.bert.embeddings.word_embeddings.weight.clone()
    losses = [tuner.step(pool) for _ in range(PLAN.steps)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert torch.equal(words, tuner.bert.embeddings.word_embeddings.weight)


def test_a_run_that_stopped_goes_on_to_the_same_weights(
    checkpoint: Path, pool: dict[str, list[Pool]], tmp_path: Path
) -> None:
    plan = Plan(steps=6, batch=4, rate=1e-3)
    (whole := tmp_path / "whole").mkdir()
    (halves := tmp_path / "halves").mkdir()
    train(once := Tuner(checkpoint, MINILM, plan), pool, whole)
    stopped = Tuner(checkpoint, MINILM, plan)
    for _ in range(3):
        stopped.step(pool)
    stopped.save(halves / "checkpoint.pt")
    train(twice := Tuner(checkpoint, MINILM, plan), pool, halves)
    assert twice.done == once.done == 6
    for ours, theirs in zip(twice.bert.parameters(), once.bert.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_another_plan_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    Tuner(checkpoint, MINILM, PLAN).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="another plan"):
        Tuner(checkpoint, MINILM, Plan(seed=1)).resume(tmp_path / "checkpoint.pt")


def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(
    checkpoint: Path, pool: dict[str, list[Pool]]
) -> None:
    tuner = Tuner(checkpoint, MINILM, PLAN)
    tuner.scale.data.fill_(float("nan"))
    before = [each.clone() for each in tuner.bert.parameters()]
    with pytest.raises(FloatingPointError, match=r"step 0 on .*: the loss is nan"):
        tuner.step(pool)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, tuner.bert.parameters(), strict=True))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_soup_holds_each_weight_at_its_share(checkpoint: Path, share: float) -> None:
    original, tuned = (BertModel.from_pretrained(checkpoint) for _ in range(2))
    with torch.no_grad():
        for each in tuned.parameters():
            each.add_(1.0)
    soup(original, tuned, share)
    for ours, theirs in zip(tuned.parameters(), original.parameters(), strict=True):
        assert ours.detach().numpy() == pytest.approx((theirs + share).detach().numpy(), abs=1e-6)
