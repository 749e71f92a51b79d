"""The loop: every example through `Router.decide` in every setting that a Plan asks for. Knows no metric and no report.

What a router said is kept as it comes in a Journal beside the report, so that a run that was stopped goes on where it
was, and so that two reports can be compared turn by turn.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from pointsman import conversation, dataset, decision, router
from pointsman.dataset import Dataset, Example, Source, Taxonomy
from pointsman.errors import DataError, Problem
from pointsman.evals import robustness, scenarios
from pointsman.evals.contenders import Contender
from pointsman.evals.metrics import Answer, Outcome
from pointsman.evals.robustness import PERTURBATIONS, SIZE, perturbed
from pointsman.evals.scenarios import Case, Scenario, case

SIZES = (5, 10, 20)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is run. Together with the data and the routers it decides every figure but times.

    `sizes` are the numbers of policies on offer, None being the whole set. `limit` is how many examples of a source are
    drawn, `robustness` how many of them are also perturbed (0: none).
    """

    scenarios: tuple[Scenario, ...] = tuple(Scenario)
    sizes: tuple[int | None, ...] = (None, *SIZES)
    robustness: int = 0
    shots: int = 0
    """How many requests of the training part each policy was given as examples."""
    limit: int | None = None
    seed: int = 0
    threads: int = 1


class Setting(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A scenario with so many policies on offer (0: the whole set), or a perturbation of fQfA."""

    scenario: Scenario
    size: int
    perturbation: str = ""

    @property
    def key(self) -> str:
        return f"{self.scenario.value}/{self.size or 'all'}" + (f"/{self.perturbation}" if self.perturbation else "")

    @classmethod
    def of(cls, key: str) -> Setting:
        """The setting of that `key`."""
        scenario, size, *rest = key.split("/")
        return cls(scenario=Scenario(scenario), size=0 if size == "all" else int(size), perturbation="".join(rest))


_BASE = Setting(scenario=Scenario.FQFA, size=SIZE)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A journal's line: what one router said to one example, by the key of each setting."""

    router: str
    by: str | None
    """The router's id: other weights are another router."""
    source: str
    id: str
    turns: int
    answers: dict[str, list[Answer]]
    offers: dict[str, str] = {}
    """A digest of the ids that were on offer, by the key of each setting but perturbations."""

    def outcomes(self, key: str) -> Iterator[Outcome]:
        """The answers in a setting as what metrics take."""
        for each in self.answers[key]:
            yield Outcome(id=self.id, turns=self.turns, **msgspec.structs.asdict(each))


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    """A journal's first line: what it belongs to."""

    journal: str


class Journal:
    """What routers said, a line an example, packed. As a context it can be written to, and holds what was said before.

    With `resume` the entries of an earlier run with the same fingerprint are taken over, but for one that was cut off;
    without it the file begins anew. No path: nothing is kept. Raises DataError if the file belongs to another run.
    """

    def __init__(self, path: Path | None, fingerprint: str, *, resume: bool = False) -> None:
        self._path = path
        self.fingerprint = fingerprint
        self._resume = resume
        self._entries: dict[tuple[str, str | None, str, str], Entry] = {}
        self._file: gzip.GzipFile | None = None

    def __enter__(self) -> Journal:
        if self._path:
            if self._resume and self._path.exists():
                for each in read_journal(self._path, self.fingerprint):
                    self._entries[each.router, each.by, each.source, each.id] = each
            # Written anew and whole, which also drops a last line that was cut off.
            self._file = gzip.open(self._fresh, "wb")
            self._write(_Header(journal=self.fingerprint), *self._entries.values())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()
            if error is None:
                self._settle()
            self._fresh.unlink(missing_ok=True)

    @property
    def _fresh(self) -> Path:
        path = self._path or Path()
        return path.with_name(path.name + ".new")

    def _settle(self) -> None:
        """Take the place of what was there: not before there is an answer, for a router may fail to load."""
        if self._path and self._fresh.exists():
            self._fresh.replace(self._path)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that is in it, also what an earlier run of other weights left."""
        return tuple(self._entries.values())

    def find(self, router: str, by: str | None, source: str, id: str) -> Entry | None:
        return self._entries.get((router, by, source, id))

    def add(self, entry: Entry) -> None:
        self._entries[entry.router, entry.by, entry.source, entry.id] = entry
        self._write(entry)
        self._settle()

    def _write(self, *lines: _Header | Entry) -> None:
        if self._file:
            self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
            self._file.flush()


def read_journal(path: Path, fingerprint: str | None = None) -> Iterator[Entry]:
    """The whole lines of a journal. Raises DataError if it is none, or not that of `fingerprint`."""
    try:
        lines = list(_whole_lines(path))
        header = msgspec.json.decode(lines[0] if lines else b"", type=_Header)
        if fingerprint is not None and header.journal != fingerprint:
            raise _foreign(path, "belongs to a run with another plan or other data", "run again without --resume")
        decoder = msgspec.json.Decoder(Entry)
        yield from map(decoder.decode, lines[1:])
    except OSError as error:
        raise _foreign(path, f"cannot be read: {error.strerror or error}", "it is written beside a report") from error
    except (msgspec.DecodeError, UnicodeDecodeError, zlib.error) as error:
        raise _foreign(path, f"is no journal of decisions: {error}", "run again without --resume") from error


def _whole_lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as stream, suppress(EOFError):  # a run that was killed leaves no end
        for line in stream:
            if line.endswith(b"\n"):
                yield line


def _foreign(path: Path, message: str, mend: str) -> DataError:
    return DataError([Problem(path="", message=message, mend=mend, file=str(path))])


def fingerprint(plan: Plan, data: Dataset, version: str) -> str:
    """16 hex digits over what decides a router's answers and what is right, but for the router: the journals' mark."""
    packed = msgspec.json.encode([plan, data.conversations, data.policies, version, _deciding(plan)])
    return hashlib.sha256(packed).hexdigest()[:16]


def _deciding(plan: Plan) -> str:
    """How cases are drawn and answers are chosen, by the source of what does it.

    So no answer to another question is taken over as if it were one to this.
    """
    modules = (conversation, decision, router, dataset, scenarios, robustness)
    sources = [Path(module.__file__ or "").read_bytes() for module in modules]
    drawn = msgspec.json.encode([plan.seed, plan.shots, robustness.texts_digest()])
    return hashlib.sha256(b"\n".join([drawn, *sources])).hexdigest()[:16]


def examples(source: Source, plan: Plan) -> list[Example]:
    """The examples of a source that the plan runs: all, or a sample of `limit`, in the order of the file."""
    return _sample(source.examples, plan.limit, plan.seed)


def _sample(these: Sequence[Example], count: int | None, seed: int) -> list[Example]:
    """`count` of them by the digests of their ids: the same whatever else is there, small samples part of large."""
    if count is None or len(these) <= count:
        return list(these)
    drawn = sorted(these, key=lambda each: hashlib.sha256(f"{seed}/{each.id}".encode()).digest())[:count]
    wanted = {each.id for each in drawn}
    return [each for each in these if each.id in wanted]


def cases(
    example: Example, taxonomy: Taxonomy, plan: Plan, *, robust: bool
) -> Iterator[tuple[Setting, Sequence[Case]]]:
    """Every setting of the plan that can be asked of the example, with the cases that make it up.

    With `robust` the perturbations are among them, and what they started from, under the perturbation "none".
    """
    for scenario in plan.scenarios:
        for size in plan.sizes:
            if made := case(example, taxonomy, scenario, size=size, seed=plan.seed):
                yield Setting(scenario=scenario, size=size or 0), [made]
    if not robust:
        return
    # A set that is no larger than SIZE is perturbed whole.
    base = case(example, taxonomy, Scenario.FQFA, size=SIZE, seed=plan.seed) or case(
        example, taxonomy, Scenario.FQFA, size=None, seed=plan.seed
    )
    if base is None:
        return
    yield msgspec.structs.replace(_BASE, perturbation="none"), [base]
    key = f"{plan.seed}/{example.policies}/{example.id}"
    for name in PERTURBATIONS:
        if told := perturbed(base, name, policies=example.policies, key=key):
            yield msgspec.structs.replace(_BASE, perturbation=name), told


async def run(
    contender: Contender,
    source: Source,
    taxonomies: Mapping[str, Taxonomy],
    plan: Plan,
    *,
    by: str | None,
    journal: Journal,
    advance: Callable[[], None] = lambda: None,
) -> list[Entry]:
    """One router (whose id is `by`) on one source, example by example.

    A router that fails or is late is judged by what a caller would get, the default, and its reasons say so. `advance`
    is called after each example.
    """
    entries: list[Entry] = []
    drawn = examples(source, plan)
    robust = {each.id for each in _sample(drawn, plan.robustness, plan.seed)} if plan.robustness else set[str]()
    for example in drawn:
        entry = journal.find(contender.name, by, source.name, example.id)
        if entry is None:
            asked = list(cases(example, taxonomies[example.policies], plan, robust=example.id in robust))
            entry = Entry(
                router=contender.name,
                by=by,
                source=source.name,
                id=example.id,
                turns=len(_user_turns(example)),
                answers={setting.key: [each async for each in _answers(contender, told)] for setting, told in asked},
                offers={setting.key: _offer(told[0]) for setting, told in asked if not setting.perturbation},
            )
            journal.add(entry)
        entries.append(entry)
        advance()
    return entries


async def _answers(contender: Contender, told: Sequence[Case]) -> AsyncIterator[Answer]:
    """One answer a target, policies by the names that they have in their set."""
    for each in told:
        turns = _user_turns(each)
        for target in each.targets:
            made = await contender.router.decide(each.upto(target.index), policies=each.offered)
            best = max(made.scores, key=lambda score: score.probability, default=None)
            yield Answer(
                turn=turns.index(target.index),
                gold=each.original(target.policy),
                kind=target.kind,
                chosen=each.original(made.policy),
                best=each.original(best.policy) if best else None,
                confidence=_round(made.confidence),
                other=_round(made.other),
                reason=made.reason.value,
                trapped=None if each.trap is None else made.policy == each.trap,
                ms=round(made.elapsed_ms, 3),
            )


def _offer(of: Case) -> str:
    return hashlib.sha256("\n".join(of.offered.ids).encode()).hexdigest()[:8]


def _user_turns(of: Example | Case) -> list[int]:
    return [at for at, message in enumerate(of.messages) if message.get("role") == "user"]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
