"""What a decision of the embedded router costs, beside one bare ONNX run over the same tokens. One thread.

    python benches/decision/bench.py

prints a Markdown report and writes it to RESULTS.md beside this file. Uses no network and no data but its own.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 60
WORDS = (  # noqa: SIM905 - prose reads better as prose
    "could you please look at the quarterly report and tell me which of our offices spent more on travel than it "
    "had planned and whether that was because of flights or hotels since the board wants to know before friday"
).split()
EXAMPLE = Path(__file__).parents[2] / "examples" / "assistant.yaml"  # twelve policies


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    vnni = any("avx512_vnni" in line or "avx_vnni" in line for line in lines)
    return f"{names[0] if names else platform.machine()}{', VNNI' if vnni else ''}"


def resident() -> float:
    """MB now, where the system says so; else the peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def load() -> None:
    """In a process of its own: load time and memory, printed."""
    began = time.perf_counter()
    from pointsman.routers.encoder import Encoder  # noqa: PLC0415

    imported, before = time.perf_counter(), resident()
    encoder = Encoder.load()
    loaded, after = time.perf_counter(), resident()
    for size in (16, 64, 128):
        encoder.embed(words(size))
    print(
        f"imports {1e3 * (imported - began):.0f} ms; load {1e3 * (loaded - imported):.0f} ms; resident {before:.0f} MB "
        f"after imports, {after:.0f} MB after load, {resident():.0f} MB after use"
    )


def words(count: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + at) % len(WORDS)] for at in range(count))


def times(run: Callable[[int], object]) -> tuple[float, float]:
    """(p50, p95) in ms over ROUNDS calls; a call gets its number so that it can say something new."""
    for at in range(3):
        run(-1 - at)
    taken: list[float] = []
    for at in range(ROUNDS):
        began = time.perf_counter()
        run(at)
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken), sorted(taken)[int(0.95 * len(taken))]


def measure() -> list[str]:
    import numpy as np  # noqa: PLC0415

    from pointsman import config  # noqa: PLC0415
    from pointsman.conversation import Conversation, Turn  # noqa: PLC0415
    from pointsman.policy import Policy, PolicySet  # noqa: PLC0415
    from pointsman.routers.encoder import Encoder  # noqa: PLC0415

    encoder = Encoder.load()
    fresh = iter(range(10**9))

    def new(tokens: int) -> str:
        """A text of `tokens` tokens that nobody has said before, the two special ones not counted."""
        number = next(fresh)
        text = " ".join([f"{chr(97 + number % 26)} {chr(97 + number // 26 % 26)} {number // 676}", words(tokens)])
        return text[: encoder.offsets(text)[tokens - 1][1]]

    def policies(count: int) -> PolicySet:
        return PolicySet(
            Policy(id=f"topic{at // 10}.kind{at}", description=f"Requests of kind {at} about subject {at // 10}.")
            for at in range(count)
        )

    def raw(*tokens: int) -> float:
        """One bare run for each text of so many tokens: the p50 of their sum, ms."""
        given = [
            {"ids": np.full((1, count), 2000, dtype=np.int64), "newest": np.asarray(count, dtype=np.int64)}
            for count in tokens
        ]
        return times(lambda _: [encoder._session.run(None, each) for each in given])[0]

    def dialogue(*tokens: int) -> list[Turn]:
        return [Turn(role=("user", "assistant")[at % 2], text=new(count)) for at, count in enumerate(tokens)]

    rows: list[str] = []

    def row(name: str, offered: PolicySet, make: Callable[[], list[Turn]]) -> None:
        encoder._compile(offered)
        made = [Conversation(turns=tuple(make())) for _ in range(ROUNDS + 3)]
        p50, p95 = times(lambda at: encoder.scores(made[at], offered))
        bare = raw(len(encoder._reader.conversation(made[0].turns).ids))
        rows.append(f"| {name} | {len(offered)} | {p50:.1f} | {p95:.1f} | {bare:.1f} | {p50 / bare:.2f} |")

    short = (14, 20) * 9
    long = (*short[:-1], 200)
    twelve = config.load(EXAMPLE, env=None).policies
    row("first turn, 30 tokens", twelve, lambda: dialogue(30))
    row("tenth turn: 14 tokens after a reply of 20", twelve, lambda: dialogue(*short, 14))
    row("tenth turn: 30 tokens after a reply of 200", twelve, lambda: dialogue(*long, 30))
    row("first turn, 128 tokens (read: 64)", twelve, lambda: dialogue(128))
    row("tenth turn, 128 tokens (read: 64, and 64 of before)", twelve, lambda: dialogue(*short, 128))
    for count in (5, 50, 200, 500):
        row("first turn, 30 tokens", policies(count), lambda: dialogue(30))
    asked = Conversation(turns=tuple(dialogue(*short, 30)))
    encoder.scores(asked, twelve)
    again, _ = times(lambda _: encoder.scores(asked, twelve))
    rows.append("")
    rows.append(f"The same conversation again, as in an agent's loop: {again:.2f} ms.")

    began = time.perf_counter()
    Encoder.load()._compile(twelve)
    cold = 1e3 * (time.perf_counter() - began)
    rows.append("")
    rows.append(f"A set of 12 policies never seen before, loading included: {cold:.0f} ms.")
    return rows


def main() -> None:
    if "--load" in sys.argv:
        load()
        return
    loads = subprocess.run([sys.executable, __file__, "--load"], check=True, capture_output=True, text=True).stdout
    report = "\n".join(
        [
            "# What a decision costs",
            "",
            f"`python benches/decision/bench.py`, {dt.datetime.now(dt.UTC):%Y-%m-%d}, {cpu()}, "
            f"Python {platform.python_version()}, one thread, {ROUNDS} rounds. Every round says something new.",
            "The twelve policies are those of examples/assistant.yaml.",
            "*bare* is the p50 of one ONNX run over as many tokens; what is above it is",
            "tokenising, hashing, trimming and scoring.",
            "",
            "| | policies | p50 ms | p95 ms | bare ms | p50 / bare |",
            "|---|--:|--:|--:|--:|--:|",
            *measure(),
            "",
            f"A fresh process: {loads.strip()}.",
            "",
        ]
    )
    Path(__file__).with_name("RESULTS.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()
