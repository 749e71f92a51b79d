"""What a decision of any router costs: latency, throughput, memory, cold start. Knows nothing of right and wrong.

Policies and texts are made up: strangers' policies from data/distractors.json, without examples, and plain English
words in no order. They are the same in every run, and within a run no text of a newest turn comes twice, so no cache
answers. Latency is what `Router.decide` measures, in this process, one decision at a time unless said otherwise.

    python -m pointsman.evals.cost NAME [POLICY_FILE]

is one fresh process that loads a router and decides, and says on stdout what memory that took (`Memory`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import TextIO

import msgspec

from pointsman.config import load
from pointsman.conversation import Conversation, Role, Turn
from pointsman.dataset import Dataset
from pointsman.decision import Reason
from pointsman.errors import PointsmanError
from pointsman.evals import contenders
from pointsman.evals.contenders import Contender
from pointsman.policy import Policy, PolicySet

# numpy is not imported here: a fresh process would pay for it where the router does not need it.

SIZES: Mapping[int, int] = {5: 20, 10: 20, 20: 10, 50: 5, 100: 3, 200: 2, 500: 2}
"""Numbers of policies on offer, and how many sets of that size are seen for the first time. A policy costs the embedded
router 6 ms once, so large sets are few."""

WORDS = (8, 32, 128, 512, 2048)
TURNS = (1, 2, 5, 10, 20, 50)
CALLERS = (1, 2, 4, 8, 16)

TEN = 10
"""Policies on offer where something else varies: a usual number for a policy file."""

DECISIONS = 200
"""Timed at each number of policies and of words. p99 then leaves the two slowest out."""
CONVERSATIONS = 50
"""Grown to the last of TURNS, every turn of them decided."""
SHARED = 400
"""Decisions at each number of callers."""
FURTHER = 1000
"""Decisions after the first, in the process whose memory is taken."""
PROCESSES = 5
"""Started for the cold start."""

WARM_UP = 3
"""Decisions that come before the timed ones, untimed. The first prepares the policy set."""

PARTS = len(SIZES) + len(WORDS) + 1 + len(CALLERS) + 1
"""How many times `cost` calls `advance`."""

Advance = Callable[[str], None]
"""Called as each part starts, with its name."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of one decision at one place of an axis, in ms.

    Percentiles are interpolated. Of fewer than a hundred decisions p99 is next to the slowest.
    """

    at: int
    """The number of policies, of words, or of the turn."""
    decisions: int
    p50: float
    p95: float
    p99: float


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """So many callers in one process, each of which asks anew as soon as it is answered."""

    callers: int
    decisions: int
    """Of all callers together."""
    per_second: float
    """Decisions made in a second, of all callers together."""
    p95: float
    """Latency of one decision as its caller sees it, in ms: waiting for the others included."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident MiB of a fresh process with ten policies. None where the system does not say.

    Where there is no /proc it is the highest so far.
    """

    imported: float | None
    """This package is imported, with what a router is made by; no router is."""
    loaded: float | None
    """The router is loaded, and has made its first decision."""
    later: float | None
    """It has made `decisions` more."""
    decisions: int


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """From the start of a process to its router's first decision, with ten policies: ms over so many processes.

    The interpreter's start, imports, loading and preparing the policies are all in it. Files are in the system's cache.
    """

    processes: int
    median: float
    slowest: float


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What decisions of one router cost on one machine."""

    router: str
    """The name that it was asked for by."""
    id: str | None
    """Its id, which holds the digest of its weights."""
    by_policies: tuple[Point, ...]
    """`at` is the number of policies, seen before. A request is one turn of 25 to 35 words."""
    by_tokens: tuple[Point, ...]
    """`at` is the number of words in a request of one turn, with ten policies. Routers cut words into tokens unlike."""
    by_turn: tuple[Point, ...]
    """`at` is the user turn, from 1, of a conversation that grows by turns of 25 to 35 words and replies of 50 to 70.

    Ten policies. Each turn was decided before the next came, as in serving: what the router keeps of it is warm.
    """
    preparing: tuple[Point, ...]
    """`at` is the number of policies, in a set never seen before: one decision for each set, preparing it included."""
    throughput: tuple[Throughput, ...]
    """With ten policies, and requests as in `by_policies`."""
    memory: Memory
    cold_start: ColdStart


async def cost(
    name: str,
    *,
    config: Path | None = None,
    threads: int = 1,
    scale: float = 1.0,
    advance: Advance = lambda _: None,
) -> Cost:
    """What decisions of the router of that name cost (`contenders.find`).

    `config` is the policy file of "configured". `scale` multiplies how many decisions everything is measured on; there
    is always one at least. Raises PointsmanError if there is no such router, or if it fails at any decision.
    """
    contender = _find(name, config, threads)
    bench = _Bench(contender, scale, advance)
    try:
        id = await contender.identify()
        preparing, by_policies = await bench.policies()
        ten = await bench.prepared(TEN)
        by_tokens = await bench.words(ten)
        by_turn = await bench.turns(ten)
        throughput = await bench.throughput(ten)
    finally:
        await contender.router.close()
    # Last, and one by one: nothing of this process may take their cores.
    advance("fresh processes")
    memory, cold_start = await _fresh(name, config, threads, scale)
    return Cost(
        router=name,
        id=id,
        by_policies=by_policies,
        by_tokens=by_tokens,
        by_turn=by_turn,
        preparing=preparing,
        throughput=throughput,
        memory=memory,
        cold_start=cold_start,
    )


def _find(name: str, config: Path | None, threads: int) -> Contender:
    loaded = load(config, env=None) if config else None
    return contenders.find(name, Dataset(sources=(), taxonomies={}), config=loaded, threads=threads)


def _scaled(decisions: int, scale: float) -> int:
    return max(1, round(decisions * scale))


def _point(at: int, times: Sequence[float]) -> Point:
    # `quantiles` wants two; of one time all percentiles are that time.
    cuts = statistics.quantiles(times if len(times) > 1 else [*times, *times], n=100, method="inclusive")
    p50, p95, p99 = (round(cuts[percent - 1], 3) for percent in (50, 95, 99))
    return Point(at=at, decisions=len(times), p50=p50, p95=p95, p99=p99)


# In this process ------------------------------------------------------------------------------------------------------


class _Bench:
    """One router, loaded, under measurement."""

    def __init__(self, contender: Contender, scale: float, advance: Advance) -> None:
        self._contender = contender
        self._scale = scale
        self._advance = advance
        self._material = _Material()

    async def policies(self) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
        """Latency by number of policies: in sets never seen before, and in one that was."""
        new: list[Point] = []
        known: list[Point] = []
        for size, often in SIZES.items():
            self._advance(f"{size} policies")
            sets = [self._material.policies(size) for _ in range(_scaled(often, self._scale))]
            new.append(_point(size, [await _decide(self._contender, self._material.request(), each) for each in sets]))
            await self._warm(sets[-1])
            known.append(_point(size, await self._times(self._requests(DECISIONS), sets[-1])))
        return tuple(new), tuple(known)

    async def words(self, policies: PolicySet) -> tuple[Point, ...]:
        """Latency by words in the newest turn."""
        points: list[Point] = []
        for words in WORDS:
            self._advance(f"turns of {words} words")
            points.append(_point(words, await self._times(self._requests(DECISIONS, words), policies)))
        return tuple(points)

    async def turns(self, policies: PolicySet) -> tuple[Point, ...]:
        """Latency by turn of growing conversations."""
        self._advance(f"conversations of {TURNS[-1]} turns")
        times: dict[int, list[float]] = {turn: [] for turn in TURNS}
        for _ in range(_scaled(CONVERSATIONS, self._scale)):
            for turn, conversation in enumerate(self._material.growing(TURNS[-1]), 1):
                taken = await _decide(self._contender, conversation, policies)
                if turn in times:
                    times[turn].append(taken)
        return tuple(_point(turn, taken) for turn, taken in times.items())

    async def throughput(self, policies: PolicySet) -> tuple[Throughput, ...]:
        """Decisions a second by number of callers."""
        found: list[Throughput] = []
        for callers in CALLERS:
            self._advance(f"{callers} callers" if callers > 1 else "1 caller")
            found.append(await self._shared(callers, policies))
        return tuple(found)

    async def prepared(self, size: int) -> PolicySet:
        """A policy set that the router has seen."""
        policies = self._material.policies(size)
        await self._warm(policies)
        return policies

    async def _warm(self, policies: PolicySet) -> None:
        await self._times([self._material.request() for _ in range(WARM_UP)], policies)

    def _requests(self, decisions: int, words: int | None = None) -> list[Conversation]:
        return [self._material.request(words) for _ in range(_scaled(decisions, self._scale))]

    async def _times(self, requests: Sequence[Conversation], policies: PolicySet) -> list[float]:
        return [await _decide(self._contender, request, policies) for request in requests]

    async def _shared(self, callers: int, policies: PolicySet) -> Throughput:
        # All texts beforehand: making one up would take the callers' time.
        requests = [self._material.request() for _ in range(max(callers, _scaled(SHARED, self._scale)))]
        began = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._times(requests[at::callers], policies)) for at in range(callers)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        taken = time.perf_counter() - began
        times = [each for task in tasks for each in task.result()]
        return Throughput(
            callers=callers,
            decisions=len(times),
            per_second=round(len(times) / taken, 2),
            p95=_point(callers, times).p95,
        )


async def _decide(contender: Contender, conversation: Conversation, policies: PolicySet) -> float:
    """The ms that one decision took. Raises PointsmanError where the router gave none: that time says nothing."""
    decision = await contender.router.decide(conversation, policies=policies)
    if decision.reason in (Reason.ROUTER_FAILED, Reason.TIMEOUT):
        said = f"{decision.reason.value}, {len(policies)} policies, {len(conversation.turns)} messages"
        raise PointsmanError(f"the router {contender.name!r} made no decision ({said}); the log says more")
    return decision.elapsed_ms


# In fresh processes ---------------------------------------------------------------------------------------------------


async def _fresh(name: str, config: Path | None, threads: int, scale: float) -> tuple[Memory, ColdStart]:
    command = [sys.executable, "-m", "pointsman.evals.cost", f"--threads={threads}"]
    names = ["--", name, *([str(config)] if config else [])]
    # Decisions after the first are asked of one process only: the others are there for their start.
    first, memory = await _process(name, [*command, f"--further={_scaled(FURTHER, scale)}", *names])
    others = [(await _process(name, [*command, *names]))[0] for _ in range(_scaled(PROCESSES, scale) - 1)]
    starts = [first, *others]
    median, slowest = round(statistics.median(starts), 1), round(max(starts), 1)
    return memory, ColdStart(processes=len(starts), median=median, slowest=slowest)


async def _process(name: str, command: Sequence[str]) -> tuple[float, Memory]:
    """The ms until the process said its first line, and what it said last."""
    # Complaints go to a file: a talkative router would fill a pipe that nobody reads, and stop.
    with tempfile.TemporaryFile() as complaints:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=complaints
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            async with asyncio.timeout(contenders.DEADLINE):
                await process.stdout.readline()
            taken = (time.perf_counter() - began) * 1000
            said = await process.stdout.read()
            await process.wait()
        except BaseException as error:  # a cancelled measurement must leave no process behind
            if process.returncode is None:
                process.kill()
            # To the end of its pipe, or the pipe outlives the event loop.
            await process.stdout.read()
            await process.wait()
            if not isinstance(error, TimeoutError):
                raise
            late = f"no decision within {contenders.DEADLINE:.0f} s in a process of its own"
            raise PointsmanError(f"the router {name!r} made {late}") from error
        complaints.seek(0)
        complained = complaints.read().decode(errors="replace").strip()
    if process.returncode or not said:
        *_, last = ["none", *complained.splitlines()]
        why = f"exit status {process.returncode}; last words: {last}"
        raise PointsmanError(f"the router {name!r} failed in a process of its own: {why}")
    return taken, msgspec.json.decode(said, type=Memory)


async def _live(contender: Contender, further: int, imported: float | None, out: TextIO) -> None:
    """A fresh process's life. The first line says that a decision was made: whoever started it takes the time."""
    material = _Material()
    policies = material.policies(TEN)
    try:
        await _decide(contender, material.request(), policies)
        out.write('{"decided":1}\n')
        out.flush()
        loaded = _resident()
        for _ in range(further):
            await _decide(contender, material.request(), policies)
        memory = Memory(imported=imported, loaded=loaded, later=_resident(), decisions=further)
    finally:
        await contender.router.close()
    out.write(msgspec.json.encode(memory).decode() + "\n")
    out.flush()


def _resident() -> float | None:
    """MiB of this process in memory."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return round(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None
    # KiB everywhere but on macOS, which gives bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def main() -> None:
    """One fresh process: `_live` on the command line's router."""
    imported = _resident()
    parser = argparse.ArgumentParser(prog="python -m pointsman.evals.cost", description="The cost of a fresh process.")
    parser.add_argument("name", help="the router, as `pointsman eval` names it")
    parser.add_argument("config", nargs="?", type=Path, help='the policy file of "configured"')
    parser.add_argument("--threads", type=int, default=1, help="cores that one encoding may use")
    parser.add_argument("--further", type=int, default=0, help="decisions after the first")
    asked = parser.parse_args()
    # A router may print. Its words go to stderr, at the level of file descriptors, for native libraries print too.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        with out:
            asyncio.run(_live(_find(asked.name, asked.config, asked.threads), asked.further, imported, out))
    except PointsmanError as error:
        sys.exit(str(error))


# Policies and texts ---------------------------------------------------------------------------------------------------

VOCABULARY = (  # noqa: SIM905 - prose reads better as prose
    "a about after again all also always and another answer any ask away back because before begin best better between "
    "book both bring build buy by call can careful change check city clear close code cold compare copy correct could "
    "country customer day decide different do document draw early easy email end enough every example explain family "
    "few file find first follow food for friend from garden get give go good great group help her here hold home hour "
    "how idea if important in into invoice job just keep kind know language large last late learn leave less letter "
    "like line list little long look lost make many market meeting message might money month more morning most move "
    "music must my name near need new next night no not now number of often old on once only open or order other our "
    "out over page part pay people photo place plan please point price problem program put question quick read ready "
    "reason report right road room run same say school second see sell send short should show simple small some soon "
    "start still stop story such summary table take talk tell text than that the their then there these thing think "
    "this ticket time to today together too town travel try turn under understand until up use very wait want warm "
    "water way week well what when where which while who why window with without word work world write year yet you"
).split()


class _Material:
    """Policies and texts that nobody saw before: each is made up when it is asked for, in the same order every run."""

    def __init__(self) -> None:
        self._rng = random.Random(0)  # noqa: S311 - reproducible is the point
        self._marks = count(1)

    def policies(self, size: int) -> PolicySet:
        """A new set: strangers' policies, with a number of its own in each, so that none was in an earlier set."""
        made: list[Policy] = []
        while len(made) < size:
            mark = next(self._marks)
            strangers = _strangers()
            drawn = self._rng.sample(strangers, min(size - len(made), len(strangers)))
            made += [Policy(id=f"{each.id}_{mark}", description=f"{each.description}, {mark}") for each in drawn]
        return PolicySet(made)

    def request(self, words: int | None = None) -> Conversation:
        """One user turn of so many words, or of about thirty."""
        return Conversation(turns=(self._turn("user", words or self._rng.randint(25, 35)),))

    def growing(self, turns: int) -> list[Conversation]:
        """A conversation after each of its user turns."""
        said: list[Turn] = []
        grown: list[Conversation] = []
        for _ in range(turns):
            said.append(self._turn("user", self._rng.randint(25, 35)))
            grown.append(Conversation(turns=tuple(said)))
            said.append(self._turn("assistant", self._rng.randint(50, 70)))
        return grown

    def _turn(self, role: Role, words: int) -> Turn:
        return Turn(role=role, text=" ".join(self._rng.choices(VOCABULARY, k=words)))


@cache
def _strangers() -> list[Policy]:
    """Policies of trades that few have."""
    return msgspec.json.decode((Path(__file__).parent / "data" / "distractors.json").read_bytes(), type=list[Policy])


if __name__ == "__main__":
    main()
