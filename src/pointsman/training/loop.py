"""The training loop: a mixture and a network in, a trained network out. Knows no file of data and no export.

Every so many steps it writes where it stands into its folder, so that a run that was stopped goes on to the very same
weights: steps are dealt by their number, and nothing else is random.
"""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pointsman.errors import PointsmanError
from pointsman.routers.encoder import Card, Reader, Text, policy_texts
from pointsman.training.mixture import Mixture, Step, deal
from pointsman.training.network import Network
from pointsman.training.settings import Plan

STATE = "state.pt"
CURVE = "curve.jsonl"
EVERY = 50
"""Steps between two lines of the curve, and between two states on disk."""


class TrainingError(PointsmanError):
    """Training cannot go on: what it would give is worth nothing."""


class Point(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the learning curve."""

    step: int
    loss: float
    """The mean since the line before."""
    rate: float
    scale: float
    seconds: float
    """Since the run began, or went on."""
    figures: dict[str, float] = {}
    """What was measured at this step (`validation.measure`)."""


class Trainer:
    """A network under training, with its optimiser and the learned scale of cosines."""

    def __init__(self, network: Network, tokenizer: Tokenizer, card: Card, plan: Plan) -> None:
        self.network, self.card, self.plan = network, card, plan
        # eval() turns dropout off: one pass over varied data does not overfit, and averaging does the rest.
        network.eval()
        # A third of the weights, and words that the data never say must stay beside those that they do.
        network.bert.embeddings.word_embeddings.requires_grad_(False)
        self.device = network.gate.weight.device
        self.scale = nn.Parameter(torch.tensor(plan.scale, device=self.device).log())
        reader = Reader(tokenizer, card)
        # Every conversation comes again and again; so does every policy.
        self._conversation = functools.cache(reader.conversation)
        self._policy = functools.cache(reader.policy)
        heads = [self.scale, *network.gate.parameters(), *network.none.parameters()]
        kept = {id(each) for each in heads}
        self.weights = [each for each in network.parameters() if each.requires_grad and id(each) not in kept]
        self.optimiser = torch.optim.AdamW(
            [{"params": self.weights, "lr": 1.0}, {"params": heads, "lr": 100.0, "weight_decay": 0.0}],
            weight_decay=0.01,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser,
            lambda at: plan.rate * min((at + 1) / plan.warmup, 1.0) * max(0.0, 1.0 - at / plan.steps),
        )
        self.done = 0
        self.whole = True
        """Not so while a step is taken: what would be saved then is half of one."""

    def loss(self, step: Step, rng: random.Random) -> Tensor:
        """Cross-entropy over the step's policies and "none", each policy by one of its texts, drawn."""
        policies = [self._policy(rng.choice(policy_texts(policy, self.card))) for policy in step.policies]
        conversations: list[Text] = [self._conversation(each.turns) for each in step.examples]
        encoded = self.network([*conversations, *policies])
        count = len(conversations)
        cosines = encoded.vectors[:count] @ encoded.vectors[count:].T
        logits = self.scale.exp() * torch.cat([cosines, encoded.none[:count, None]], 1)
        return cross_entropy(logits, torch.tensor(step.labels, device=self.device), label_smoothing=self.plan.smoothing)

    def step(self, mixture: Mixture) -> float:
        """One step of descent and its loss. Raises TrainingError, and leaves the weights, if that is no number."""
        step = deal(mixture, self.done, self.plan)
        loss = self.loss(step, random.Random(f"{self.plan.seed} {self.done} texts"))  # noqa: S311
        self.optimiser.zero_grad()
        loss.backward()
        length = nn.utils.clip_grad_norm_(self.weights, 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(length)):
            said = f"step {self.done} on {step.source}: the loss is {loss.item()}, its gradient {length.item()}"
            raise TrainingError(f"{said}; lower plan.rate, or look at that source")
        self.whole = False
        self.optimiser.step()
        self.schedule.step()
        self.done += 1
        self.whole = True
        return loss.item()

    @property
    def _learned(self) -> dict[str, str]:
        return {"data": self.card.data, "starting weights": self.card.source}

    def save(self, file: Path) -> None:
        """Write where the run stands. Raises OSError, and leaves what was there before."""
        state = {
            "plan": msgspec.to_builtins(self.plan),
            "learned": self._learned,
            "done": self.done,
            "network": self.network.state_dict(),
            "scale": self.scale.data,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        part = file.with_suffix(".part")
        try:
            torch.save(state, part)
        except RuntimeError as error:  # what torch makes of a full disk
            part.unlink(missing_ok=True)
            raise OSError(28, f"could not be written whole ({str(error).splitlines()[0]})", str(file)) from error
        part.replace(file)

    def resume(self, file: Path) -> None:
        """Go on from there. Raises TrainingError if it cannot be read or is another run's."""
        try:
            state = torch.load(file, weights_only=True, map_location=self.device)
            theirs, network = dict(state["plan"]), state["network"]
        except Exception as error:  # torch raises a dozen kinds
            raise TrainingError(f"{file} cannot be read; delete it to begin anew, or give another --work") from error
        plan: dict[str, object] = msgspec.to_builtins(self.plan)
        if theirs != plan:
            different = ", ".join(name for name, value in plan.items() if theirs.get(name) != value)
            said = f"{file} was made with another {different or 'plan'}"
            raise TrainingError(f"{said}; give another --work, or delete it to begin anew")
        try:
            self.network.load_state_dict(network)
        except RuntimeError as error:
            raise TrainingError(f"{file} holds another architecture; give another --work") from error
        learned: dict[str, str] = state.get("learned", self._learned)
        for name, value in self._learned.items():
            if learned.get(name) != value:
                said = f"{file} was made with other {name}"
                raise TrainingError(f"{said}; give another --work, or delete it to begin anew")
        self.done = state["done"]
        self.scale.data = state["scale"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


def train(
    trainer: Trainer,
    mixture: Mixture,
    work: Path,
    *,
    measure: Callable[[], dict[str, float]] | None = None,
    measure_every: int = 500,
    told: Callable[[Point], None] = lambda _point: None,
) -> list[Point]:
    """All steps of the plan that are not done yet. Gives the learning curve, earlier parts of the run included.

    `work` is the run's folder: `state.pt` and `curve.jsonl`. Ctrl-C writes the state, and is raised again.
    """
    work.mkdir(parents=True, exist_ok=True)
    saved = work / STATE
    if saved.exists():
        trainer.resume(saved)
    curve = [point for point in read_curve(work) if point.step <= trainer.done]
    _write_curve(work, curve)
    began = time.monotonic()
    losses: list[float] = []
    with _kept(trainer, saved):
        while trainer.done < trainer.plan.steps:
            rate = trainer.schedule.get_last_lr()[0]
            losses.append(trainer.step(mixture))
            last = trainer.done == trainer.plan.steps
            measured = measure() if measure and (trainer.done % measure_every == 0 or last) else {}
            if trainer.done % EVERY == 0 or last or measured:
                point = Point(
                    step=trainer.done,
                    loss=round(sum(losses) / len(losses), 4),
                    rate=rate,
                    scale=round(trainer.scale.exp().item(), 2),
                    seconds=round(time.monotonic() - began, 1),
                    figures=measured,
                )
                losses = []
                curve.append(point)
                # In this order: a line that is ahead of the state is dropped when the run goes on.
                _write_curve(work, curve)
                trainer.save(saved)
                told(point)
    return curve


def read_curve(work: Path) -> list[Point]:
    """The learning curve of a run's folder; empty if there is none. Raises TrainingError."""
    file = work / CURVE
    try:
        return [msgspec.json.decode(line, type=Point) for line in file.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{file} cannot be read: {error}; delete it to go on without it") from error


def _write_curve(work: Path, curve: list[Point]) -> None:
    part = work / f"{CURVE}.part"
    part.write_bytes(b"".join(msgspec.json.encode(point) + b"\n" for point in curve))
    part.replace(work / CURVE)


@contextlib.contextmanager
def _kept(trainer: Trainer, file: Path) -> Iterator[None]:
    """The state is written on Ctrl-C; within a step only while its weights are untouched, and its work is then lost."""
    try:
        yield
    except KeyboardInterrupt:
        if trainer.whole:
            trainer.save(file)
        raise
