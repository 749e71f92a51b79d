"""Samples to a Markdown table and a JSON file. Knows the goals; knows nothing of how a sample was taken."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

YARDSTICK = "nginx"
_PACKAGES = ("pointsman", "uvicorn", "aiohttp", "uvloop", "httptools", "msgspec", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value of one round, or why there is none."""

    round: int
    target: str
    metric: str
    value: float | None = None
    void: str = ""

    def __str__(self) -> str:
        return f"{self.target:12} {self.metric:12} " + (f"VOID: {self.void}" if self.void else f"{self.value:,.3f}")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row. Where `ratio` is set the goal is a multiple of nginx, else a value in the row's own unit."""

    key: str
    title: str
    digits: int
    ratio: bool = True
    goal: float | None = None


METRICS = (
    Metric(key="cpu_2k", title="CPU µs a request, 2 KB", digits=1, goal=12),
    Metric(key="cpu_20k", title="CPU µs a request, 20 KB", digits=1),
    Metric(key="cpu_200k", title="CPU µs a request, 200 KB", digits=0),
    Metric(key="rps_2k", title="requests/s on one core, 2 KB", digits=0),
    Metric(key="p50_2k", title="latency p50 at saturation, ms, 2 KB", digits=2),
    Metric(key="cpu_chunk", title="CPU µs a chunk, 20 streams × 100/s", digits=1, goal=3),
    Metric(key="ttft_added", title="added time to the first token p50, ms", digits=2, ratio=False, goal=2),
    Metric(key="rss_idle", title="RSS idle, MiB, no encoder", digits=1, ratio=False, goal=60),
    Metric(key="rss_growth", title="RSS growth under 500 streams, MiB", digits=1, ratio=False, goal=40),
    Metric(key="rss_encoder", title="RSS idle, MiB, encoder loaded", digits=1, ratio=False),
    Metric(key="first_200", title="cold start to the first 200, s", digits=2, ratio=False),
    Metric(
        key="cold_start", title="cold start to the first 200 that the encoder routed, s", digits=2, ratio=False, goal=1
    ),
)

_NOTES = """\
Targets on one core, mock provider and load on another, loopback, no TLS, one worker each, rounds interleaved.
Median (least–most) over the rounds; a ratio is taken within each round, then its median. CPU is the scheduler's
count for the whole process tree. A request is a pinned model with a chat of that size and a 1 KB JSON answer, on
32 busy connections; chunks come 10 ms apart, 20 streams opened each second. RSS counts shared pages once for each
process. A round with a single error in it is void for that row. **Trust the ratios, not the absolute values.**
"""


def write(out: Path, samples: list[Sample], names: list[str], command: str) -> None:
    """`out` gets the table, the file beside it (.json) every sample."""
    about = surroundings(command)
    out.write_text(markdown(about, samples, names))
    raw = {"about": about, "samples": [asdict(sample) for sample in samples]}
    out.with_suffix(".json").write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")


def markdown(about: dict[str, str], samples: list[Sample], names: list[str]) -> str:
    lines = ["# What the gateway costs", "", *(f"- {key}: {value}" for key, value in about.items()), "", _NOTES]
    for name in names:
        if name != YARDSTICK:
            lines += table(name, samples)
    voids: dict[tuple[int, str, str], list[str]] = {}
    for s in samples:
        if s.void:
            voids.setdefault((s.round, s.target, s.void), []).append(s.metric)
    if voids:
        lines += ["## Void", ""]
        lines += [f"- round {at}, {who}, {', '.join(which)}: {why}" for (at, who, why), which in voids.items()]
        lines += [""]
    return "\n".join(lines)


def table(name: str, samples: list[Sample]) -> list[str]:
    """One target beside the yardstick."""
    made = [
        f"## {name}",
        "",
        f"| | {YARDSTICK} | {name} | × {YARDSTICK} | goal | met |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for metric in METRICS:
        base = values(samples, YARDSTICK, metric.key)
        theirs = values(samples, name, metric.key)
        ratios = [theirs[n] / base[n] for n in theirs if metric.ratio and base.get(n)]
        judged = ratios if metric.ratio else list(theirs.values())
        cells = [
            metric.title,
            spread(list(base.values()), metric.digits),
            spread(list(theirs.values()), metric.digits),
            spread(ratios, 2) if metric.ratio else "",
            f"≤ {metric.goal:g}" + (" ×" if metric.ratio else "") if metric.goal else "",
            verdict(judged, metric.goal),
        ]
        made.append(f"| {' | '.join(cells)} |")
    return [*made, ""]


def values(samples: list[Sample], target: str, metric: str) -> dict[int, float]:
    """By round, the void ones left out."""
    return {s.round: s.value for s in samples if (s.target, s.metric) == (target, metric) and s.value is not None}


def spread(found: list[float], digits: int) -> str:
    if not found:
        return "void"
    middle = f"{median(found):,.{digits}f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):,.{digits}f}–{max(found):,.{digits}f})"


def verdict(found: list[float], goal: float | None) -> str:
    if goal is None:
        return ""
    if not found:
        return "void"
    return "yes" if median(found) <= goal else "**no**"


def surroundings(command: str) -> dict[str, str]:
    """What a reader needs to judge the numbers; nothing that names the machine or where things lie on it."""
    return {
        "command": f"`{command}`",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{_cpu_model()}, Linux {platform.release().partition('-')[0]}",
        "versions": ", ".join(_versions()),
    }


def _cpu_model() -> str:
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{found[0].partition(':')[2].strip()}, {len(found)} cores" if found else platform.machine()


def _versions() -> list[str]:
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue  # a target of its own may run elsewhere
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return [*found, f"nginx {nginx.strip().rpartition('/')[2]}"]
