"""The training loop: it learns, it can be stopped anywhere and goes on to the same bits, and it spoils nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is in the extra `train`")
pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra `train`")

import msgspec  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

from pointsman.routers.encoder import Card, Reader  # noqa: E402
from pointsman.training import loop  # noqa: E402
from pointsman.training.loop import EVERY, Point, Trainer, TrainingError, read_curve, train  # noqa: E402
from pointsman.training.mixture import Mixture, deal, gather  # noqa: E402
from pointsman.training.network import Network  # noqa: E402
from pointsman.training.settings import Data, Evaluation, Plan  # noqa: E402
from pointsman.training.validation import Validation  # noqa: E402
from tests.training.conftest import IDS, asked, full_disk, put, row, turns  # noqa: E402

PLAN = Plan(steps=8, batch=4, rate=1e-3, warmup=2)
Make = Callable[..., Trainer]


@pytest.fixture
def mixture(data: Path) -> Mixture:
    return gather(Data(folders=(str(data),)))


@pytest.fixture
def trainer(tiny: Callable[..., Network], tokenizer: Tokenizer, card: Card) -> Make:
    def make(plan: Plan = PLAN, *, hidden: int = 32, **changes: Any) -> Trainer:
        return Trainer(tiny(hidden), tokenizer, msgspec.structs.replace(card, **changes), plan)

    return make


def interrupt() -> dict[str, float]:
    raise KeyboardInterrupt


def same(one: Trainer, other: Trainer) -> bool:
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return torch.equal(one.scale, other.scale) and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- learning


def test_it_learns_and_leaves_the_word_embeddings_alone(trainer: Make, mixture: Mixture, tmp_path: Path) -> None:
    made = trainer(Plan(steps=100, batch=8, rate=3e-3, warmup=5))
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    first, second = train(made, mixture, tmp_path)
    assert second.loss < 0.8 * first.loss
    moved = {name for name, tensor in made.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert set(before) - moved == {"bert.embeddings.word_embeddings.weight"}
    assert made.scale.exp().item() != pytest.approx(PLAN.scale)


def test_it_comes_to_know_which_policy_is_meant(
    trainer: Make, mixture: Mixture, data: Path, tokenizer: Tokenizer, card: Card
) -> None:
    made = trainer(Plan(steps=80, batch=12, rate=3e-3, warmup=5))
    validation = Validation(Evaluation(data=(str(data / "dev"),)), tokenizer, card)
    before = validation.measure(made.network)
    for _ in range(80):
        made.step(mixture)
    after = validation.measure(made.network)
    assert set(before) == set(after) == {"held turn", "held none"}
    assert after["held turn"] > before["held turn"] + 15
    assert after["held none"] > max(before["held none"], 70)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_the_cross_entropy_over_the_policies_and_none(
    trainer: Make, mixture: Mixture, tokenizer: Tokenizer, smoothing: float
) -> None:
    # One text a policy, so that there is nothing to draw.
    made = trainer(Plan(batch=6, smoothing=smoothing, strangers=0.5, scale=7.0), policy_texts=("{description}",))
    step = deal(mixture, 3, made.plan)
    reader = Reader(tokenizer, made.card)
    losses: list[float] = []
    with torch.inference_mode():
        policies = torch.cat([made.network([reader.policy(each.description)]).vectors for each in step.policies])
        for each, label in zip(step.examples, step.labels, strict=True):
            encoded = made.network([reader.conversation(each.turns)])
            told = torch.log_softmax(7.0 * torch.cat([policies @ encoded.vectors[0], encoded.none]), 0)
            losses.append(-float((1 - smoothing) * told[label] + smoothing * told.mean()))
        assert float(made.loss(step, random.Random(0))) == pytest.approx(sum(losses) / 6, abs=0.03)


def test_the_curve_has_a_line_every_so_often_and_at_the_end(trainer: Make, mixture: Mixture, tmp_path: Path) -> None:
    told: list[Point] = []
    figures = iter({"x turn": float(at)} for at in range(9))
    curve = train(
        trainer(msgspec.structs.replace(PLAN, steps=EVERY + 3)),
        mixture,
        tmp_path,
        measure=lambda: next(figures),
        measure_every=20,
        told=told.append,
    )
    assert [point.step for point in curve] == [20, 40, EVERY, EVERY + 3]
    assert [point.figures for point in curve] == [{"x turn": 0.0}, {"x turn": 1.0}, {}, {"x turn": 2.0}]
    assert told == curve == read_curve(tmp_path)
    assert curve[0].rate == pytest.approx(PLAN.rate * (1 - 19 / (EVERY + 3)))


# --- stopping and going on


@pytest.fixture
def whole(trainer: Make, mixture: Mixture, tmp_path: Path) -> Trainer:
    """A run that was never stopped."""
    made = trainer()
    train(made, mixture, tmp_path / "whole")
    assert made.done == PLAN.steps
    return made


def test_a_run_that_was_stopped_by_ctrl_c_goes_on_to_the_same_weights(
    trainer: Make, mixture: Mixture, whole: Trainer, tmp_path: Path
) -> None:
    work = tmp_path / "halves"
    for step in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            train(made := trainer(), mixture, work, measure=interrupt, measure_every=3)
        assert made.done == step
        assert not same(made, whole)
    curve = train(made := trainer(), mixture, work)
    assert made.done == PLAN.steps
    assert same(made, whole)
    assert [point.step for point in curve] == [PLAN.steps]


@pytest.mark.parametrize("place", ["before", "after"])
def test_ctrl_c_within_a_step_saves_no_half_of_it(
    trainer: Make, mixture: Mixture, whole: Trainer, tmp_path: Path, place: str
) -> None:
    work = tmp_path / "halves"
    with pytest.raises(KeyboardInterrupt):
        train(trainer(), mixture, work, measure=interrupt, measure_every=2)
    made = trainer()
    hook = made.optimiser.register_step_pre_hook if place == "before" else made.optimiser.register_step_post_hook
    hook(lambda *_: interrupt() if made.done == 5 else None)
    with pytest.raises(KeyboardInterrupt):
        train(made, mixture, work)
    train(again := trainer(), mixture, work)
    assert same(again, whole)


def test_ctrl_c_before_the_weights_move_loses_that_step_alone(
    trainer: Make, mixture: Mixture, whole: Trainer, tmp_path: Path
) -> None:
    made = trainer()
    made.scale.register_hook(lambda _gradient: interrupt() if made.done == 5 else None)
    with pytest.raises(KeyboardInterrupt):
        train(made, mixture, tmp_path / "halves")
    again = trainer()
    again.resume(tmp_path / "halves" / loop.STATE)
    assert again.done == 5
    train(again, mixture, tmp_path / "halves")
    assert same(again, whole)


def test_what_is_done_is_not_done_again(trainer: Make, mixture: Mixture, whole: Trainer, tmp_path: Path) -> None:
    state = tmp_path / "whole" / loop.STATE
    before = state.read_bytes(), state.stat().st_mtime_ns
    curve = train(made := trainer(), mixture, tmp_path / "whole", measure=interrupt, measure_every=1)
    assert same(made, whole)
    assert [point.step for point in curve] == [PLAN.steps]
    assert (state.read_bytes(), state.stat().st_mtime_ns) == before


def test_a_curve_that_is_ahead_of_the_state_is_cut(trainer: Make, mixture: Mixture, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(trainer(), mixture, tmp_path, measure=interrupt, measure_every=4)
    ahead = Point(step=5, loss=1.0, rate=1.0, scale=1.0, seconds=1.0)
    (tmp_path / loop.CURVE).write_bytes(msgspec.json.encode(ahead) + b"\n")
    assert [point.step for point in train(trainer(), mixture, tmp_path)] == [PLAN.steps]


# --- states that are not this run's


def refused(trainer: Trainer, mixture: Mixture, work: Path) -> str:
    with pytest.raises(TrainingError) as caught:
        train(trainer, mixture, work)
    assert trainer.done == 0
    return str(caught.value)


def test_the_state_of_another_plan_is_refused_and_says_what_differs(
    trainer: Make, mixture: Mixture, tmp_path: Path
) -> None:
    state = tmp_path / loop.STATE
    trainer().save(state)
    other = trainer(msgspec.structs.replace(PLAN, seed=1, rate=2e-3))
    mend = "give another --work, or delete it to begin anew"
    assert refused(other, mixture, tmp_path) == f"{state} was made with another rate, seed; {mend}"


@pytest.mark.parametrize(("changed", "said"), [("data", "other data"), ("source", "other starting weights")])
def test_the_state_of_a_run_on_other_data_or_weights_is_refused(
    trainer: Make, mixture: Mixture, tmp_path: Path, changed: str, said: str
) -> None:
    state = tmp_path / loop.STATE
    trainer().save(state)
    mend = "give another --work, or delete it to begin anew"
    assert refused(trainer(**{changed: "another"}), mixture, tmp_path) == f"{state} was made with {said}; {mend}"


def test_the_state_of_another_architecture_is_refused(trainer: Make, mixture: Mixture, tmp_path: Path) -> None:
    trainer().save(tmp_path / loop.STATE)
    said = refused(trainer(hidden=16), mixture, tmp_path)
    assert said == f"{tmp_path / loop.STATE} holds another architecture; give another --work"


@pytest.mark.parametrize("broken", ["empty", "half", "text", "list", "other"])
def test_a_broken_state_is_refused_and_left(trainer: Make, mixture: Mixture, tmp_path: Path, broken: str) -> None:
    state = tmp_path / loop.STATE
    if broken in ("list", "other"):
        torch.save([1, 2] if broken == "list" else {"weights": torch.ones(2)}, state)
    else:
        trainer().save(state)
        content = state.read_bytes()
        state.write_bytes({"empty": b"", "half": content[: len(content) // 2], "text": b"no state\n"}[broken])
    before = state.read_bytes()
    said = refused(trainer(), mixture, tmp_path)
    assert said == f"{state} cannot be read; delete it to begin anew, or give another --work"
    assert state.read_bytes() == before


def test_a_broken_curve_is_told(trainer: Make, mixture: Mixture, tmp_path: Path) -> None:
    (tmp_path / loop.CURVE).write_bytes(b'{"step": 50, "loss"')
    said = refused(trainer(), mixture, tmp_path)
    assert said.startswith(f"{tmp_path / loop.CURVE} cannot be read")
    assert said.endswith("delete it to go on without it")


# --- what goes wrong on the way


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_state_before_it(
    trainer: Make, mixture: Mixture, whole: Trainer, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        train(trainer(), mixture, work, measure=interrupt, measure_every=3)
    state = (work / loop.STATE).read_bytes()
    made = trainer()

    def spoil() -> dict[str, float]:
        made.network.bert.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
        return {}

    with pytest.raises(TrainingError, match=r"step 5 on (single|talk): the loss is nan, .*; lower plan.rate, or look"):
        train(made, mixture, work, measure=spoil, measure_every=5)
    assert made.done == 5
    assert (work / loop.STATE).read_bytes() == state
    train(again := trainer(), mixture, work)
    assert same(again, whole)


def test_a_loss_that_is_no_number_moves_no_weight(trainer: Make, mixture: Mixture) -> None:
    made = trainer()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    made.scale.data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="step 0 on"):
        made.step(mixture)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.network.state_dict().items())


def test_a_full_disk_leaves_the_state_before_it_and_the_run_can_go_on(
    trainer: Make, mixture: Mixture, whole: Trainer, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        train(trainer(), mixture, work, measure=interrupt, measure_every=3)
    state = (work / loop.STATE).read_bytes()
    with full_disk(20_000), pytest.raises(OSError, match="could not be written whole") as caught:
        train(trainer(), mixture, work)
    assert caught.value.filename == str(work / loop.STATE)
    assert (work / loop.STATE).read_bytes() == state
    assert sorted(file.name for file in work.iterdir()) == [loop.CURVE, loop.STATE]
    train(again := trainer(), mixture, work)
    assert same(again, whole)


def test_a_disk_without_room_for_the_curve_leaves_the_one_before(
    trainer: Make, mixture: Mixture, tmp_path: Path
) -> None:
    train(trainer(), mixture, tmp_path)
    before = (tmp_path / loop.CURVE).read_bytes()
    with full_disk(10), pytest.raises(OSError, match="File too large"):
        train(trainer(), mixture, tmp_path)
    assert (tmp_path / loop.CURVE).read_bytes() == before


# --- measuring on the way


def test_what_is_measured_is_what_the_network_says_of_each_turn(
    trainer: Make, tmp_path: Path, data: Path, tokenizer: Tokenizer, card: Card
) -> None:
    said = [f"{asked(id)} {more}" for id in IDS[:6] for more in ("please", "for me")]
    rows = [row(IDS[at // 2], text) for at, text in enumerate(said)] + [row(None, text) for text in ("bye", "thanks")]
    file = put(tmp_path / "held.jsonl", rows * 10)  # more than are encoded at once
    network = trainer().network
    evaluation = Evaluation(data=(str(file),), policies=str(data / "policies"))
    measured = Validation(evaluation, tokenizer, card).measure(network)

    reader = Reader(tokenizer, card)
    best: list[str] = []
    heights: list[float] = []
    with torch.inference_mode():
        offered = {
            id: normalize(
                torch.stack([network([reader.policy(text)]).vectors[0] for text in policy_words(id)]).sum(0), dim=-1
            )
            for id in IDS
        }
        for text in (*said, "bye", "thanks"):
            found = network([reader.conversation(turns(text))])
            cosines = {id: float(vector @ found.vectors[0]) for id, vector in offered.items()}
            best.append(max(cosines, key=cosines.__getitem__))
            heights.append(float(found.none) - max(cosines.values()))
    right = sum(id == IDS[at // 2] for at, id in enumerate(best[:12])) / 12
    above = sum(none > other for none in heights[12:] for other in heights[:12]) / 24
    assert measured["held turn"] == pytest.approx(100 * right, abs=9)  # one turn more or less: bf16
    assert measured["held none"] == pytest.approx(100 * above, abs=9)


def policy_words(id: str) -> tuple[str, str, str]:
    words = " ".join(id.split("."))
    return words, words, f"{id.split('.')[1]}: {words}"
