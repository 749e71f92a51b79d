"""What the gateway costs, beside an nginx that only passes through. One command, one table.

    python benches/gateway/bench.py [--rounds 3] [--quick] [--out benches/gateway/RESULTS.md]

The targets run on one core, a mock provider and the load on another. Every point is taken from all targets in
turn, and in the opposite order in every other round, so that a busy minute of the machine hits all of them.
Trust the ratios; the absolute times are the machine's.

Does not know: TLS, a real network, several workers, what a decision costs (only pinned models are timed).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from itertools import zip_longest
from pathlib import Path
from statistics import median
from subprocess import SubprocessError

import load
import report
import targets
from bodies import conversation
from report import Sample
from targets import Running, Target, TargetError

SIZES = {"2k": 2_000, "20k": 20_000, "200k": 200_000}
CONNECTIONS = 32
STREAMS_PER_SECOND = 20.0  # each lasts a second: 20 at a time
CROWD = 500
SETTLE = 0.3  # seconds for what wrk left in flight to be over: it must not fall into the next count
ROUTED_BADLY = {"timeout", "router_failed"}  # decided without the encoder: it is not loaded yet


class VoidError(Exception):
    """A point that must not be counted, and why."""


@dataclass(frozen=True)
class Plan:
    """What is the same in every round."""

    folder: Path
    gateway_core: int
    upstream: int
    seconds: float


def main() -> int:
    options = parse()
    ours, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the children
    compared = [targets.NGINX, *options.target]
    if not options.without_pointsman:
        compared.insert(1, targets.pointsman())
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        with targets.upstream(folder, core=load_core) as upstream:
            plan = Plan(folder=folder, gateway_core=ours, upstream=upstream, seconds=2 if options.quick else 5)
            for number in range(1, options.rounds + 1):
                for sample in one_round(number, compared, plan):
                    print(f"round {number}/{options.rounds}  {sample}", flush=True)
                    samples.append(sample)
    report.write(options.out, samples, [target.name for target in compared], shown_command(options))
    print(f"written: {options.out} and {options.out.with_suffix('.json')}")
    return 1 if any(sample.void for sample in samples) else 0


def one_round(number: int, compared: list[Target], plan: Plan) -> Iterator[Sample]:
    """Every point once for every target."""
    order = compared if number % 2 else compared[::-1]

    def point(one: Running, metrics: tuple[str, ...], measure: Callable[[], tuple[float, ...]]) -> Iterator[Sample]:
        values, void = (), ""
        try:
            one.check()
            values = measure()
        except (VoidError, TargetError, OSError, HTTPException, SubprocessError) as error:
            void = " ".join((str(error) or repr(error)).split())
        for metric, value in zip_longest(metrics, values):
            yield Sample(round=number, target=one.name, metric=metric, value=value, void=void)

    with contextlib.ExitStack() as stack:
        running: list[Running] = []
        for target in order:
            one = stack.enter_context(start(target, plan, number, "routed.yaml"))
            yield from point(one, ("cold_start", "first_200", "rss_encoder"), lambda one=one: cold_start(one))
            running.append(one)
        for size in SIZES:
            metrics = (f"cpu_{size}", f"rps_{size}", f"p50_{size}")
            for one in running:
                yield from point(one, metrics, lambda one=one, size=size: saturation(one, size, plan))
        for one in running:
            yield from point(one, ("cpu_chunk", "ttft_added"), lambda one=one: streams(one, plan))
    for target in order:
        with start(target, plan, number, "pinned.yaml") as one:
            yield from point(one, ("rss_idle", "rss_growth"), lambda one=one: memory(one, plan))


def start(target: Target, plan: Plan, number: int, policy: str) -> contextlib.AbstractContextManager[Running]:
    folder = plan.folder / f"{number}-{target.name}-{policy.removesuffix('.yaml')}"
    return target.running(folder, core=plan.gateway_core, upstream=plan.upstream, policy=policy)


# The points


def cold_start(one: Running) -> tuple[float, float, float]:
    """Seconds from the start to the first 200 that the router chose, to the first 200 at all; MiB then."""
    first = None
    while True:
        status, headers = try_post(one, conversation(2_000, model="auto"))
        now = time.perf_counter() - one.started
        if status == 200:
            first = first or now
            if headers.get("x-pointsman-reason") not in ROUTED_BADLY:
                return now, first, one.rss_mib()
        if now > 60:
            raise VoidError(f"no routed 200 within a minute; the last answer was {status}, {headers}")
        time.sleep(0.002)


def saturation(one: Running, size: str, plan: Plan) -> tuple[float, float, float]:
    """CPU µs a request, requests a second, median latency in ms, with every connection busy."""
    body = plan.folder / f"{size}.json"
    body.write_bytes(conversation(SIZES[size], model="fast/echo"))
    check_answer(one, body.read_bytes())
    load.saturate(one.port, body, seconds=1, connections=CONNECTIONS)  # warms pools and caches
    time.sleep(SETTLE)
    seen, used = upstream_requests(plan), one.cpu_ns()
    result = load.saturate(one.port, body, seconds=plan.seconds, connections=CONNECTIONS)
    time.sleep(SETTLE)
    used, seen = one.cpu_ns() - used, upstream_requests(plan) - seen
    one.check()
    if result.errors or not result.requests:
        raise VoidError(f"{result.errors} of {result.requests} requests failed")
    # What was in flight when wrk walked away reached the upstream unanswered: that much more is right, less never.
    if not result.requests <= seen <= result.requests + CONNECTIONS:
        raise VoidError(f"{result.requests} answers, but {seen} calls upstream")
    return used / 1000 / seen, result.requests / result.seconds, result.p50_ms


def streams(one: Running, plan: Plan) -> tuple[float, float]:
    """CPU µs a chunk, and what the median time to the first event is longer than directly, in ms.

    The streams that go directly are opened between the others: what slows the load slows both.
    """
    count = int(STREAMS_PER_SECOND * plan.seconds)
    through = opening(one.port, chunks=100, every_ms=10, count=count, per_second=STREAMS_PER_SECOND)
    directly = opening(plan.upstream, chunks=2, every_ms=1, count=count, per_second=STREAMS_PER_SECOND, after=0.02)
    warm_up = opening(one.port, chunks=3, every_ms=10, count=20, per_second=40)
    sound(load.stream(warm_up)[0], warm_up)
    used = one.cpu_ns()
    ours, direct = load.stream(through, directly)
    used = one.cpu_ns() - used
    one.check()
    sound(ours, through)
    sound(direct, directly)
    return used / 1000 / ours.chunks, median(ours.ttft_ms) - median(direct.ttft_ms)


def memory(one: Running, plan: Plan) -> tuple[float, float]:
    """MiB after the first answer, and how much more at the worst moment of 500 streams at once."""
    targets.wait_for(one.port, seconds=30)
    until = time.monotonic() + 30
    while try_post(one, conversation(2_000, model="fast/echo"))[0] != 200:
        if time.monotonic() > until:
            raise VoidError("no 200 within half a minute")
        time.sleep(0.01)
    time.sleep(0.5)
    idle = one.rss_mib()
    worst = [idle]
    chunks = int(plan.seconds) * 5 + 5  # the crowd takes a second to gather
    crowd = opening(one.port, chunks=chunks, every_ms=200, count=CROWD, per_second=CROWD)
    sound(load.stream(crowd, beside=lambda: worst.append(one.rss_mib()))[0], crowd)
    one.check()
    return idle, max(worst) - idle


# What the points are made of


def try_post(one: Running, body: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers of one call; 0 while nobody listens."""
    one.check()
    try:
        status, headers, _ = load.post(one.port, body)
    except OSError:
        return 0, {}
    return status, headers


def check_answer(one: Running, body: bytes) -> None:
    """A fast error page must not pass for a fast gateway."""
    status, _, answer = load.post(one.port, body)
    if status != 200 or b'"chatcmpl-bench"' not in answer:
        raise VoidError(f"answered {status}: {answer[:200]!r}")


def opening(
    port: int, *, chunks: int, every_ms: int, count: int, per_second: float, after: float = 0.0
) -> load.Opening:
    """Streams of 2 KB conversations, the first chunk at once and the others `every_ms` apart."""
    return load.Opening(
        port=port,
        body=conversation(2_000, model=f"fast/s{chunks}x{every_ms}", stream=True),
        chunks=chunks,
        seconds=chunks * every_ms / 1000,
        count=count,
        per_second=per_second,
        after=after,
    )


def sound(result: load.Streams, asked: load.Opening) -> None:
    """All streams came, each with all its events; else the point is void."""
    if result.errors or len(result.ttft_ms) != asked.count:
        seen = f"{len(result.errors)} errors, {len(result.ttft_ms)} of {asked.count} streams"
        raise VoidError(f"{seen}; {', '.join(result.errors[:1])}")


def upstream_requests(plan: Plan) -> int:
    return json.loads(load.get(plan.upstream, "/"))["requests"]


# The edge


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="2 s a point and not 5: for a look, not for the record")
    parser.add_argument(
        "--out", type=Path, default=targets.HERE / "RESULTS.md", help="the table; raw values beside it as .json"
    )
    parser.add_argument(
        "--target",
        type=further_target,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="compare this as well; {port}, {upstream} (a port) and {policy} (a file) are filled in",
    )
    parser.add_argument("--without-pointsman", action="store_true", help="only nginx and what --target names")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def further_target(text: str) -> Target:
    name, _, command = text.partition("=")
    if not command:
        raise argparse.ArgumentTypeError("should be NAME=COMMAND")
    return Target(name, tuple(shlex.split(command)))


def shown_command(options: argparse.Namespace) -> str:
    """The command without what is of this machine only."""
    shown = f"python benches/gateway/bench.py --rounds {options.rounds}" + (" --quick" if options.quick else "")
    shown += " --without-pointsman" if options.without_pointsman else ""
    return shown + "".join(f" --target {target.name}=…" for target in options.target)


def cores() -> tuple[int, int]:
    """One core for the targets, one for the load."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        sys.exit("needs two cores: one for the targets, one for the load and the mock provider")
    return allowed[0], allowed[1]


def raise_file_limit() -> None:
    """500 streams are 1,000 sockets in a gateway; the children inherit this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
