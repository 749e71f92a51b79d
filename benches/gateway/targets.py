"""Programs under test: start one on a core, read what it has used so far, end it with all its children.

Linux only. Knows nothing of load or of what the numbers mean.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

HERE = Path(__file__).parent
_PAGE = os.sysconf("SC_PAGE_SIZE")


class TargetError(Exception):
    """A target did not start, or ended by itself; the text is the end of what it said."""


@dataclass(frozen=True)
class Target:
    """How to start a program. `{port}`, `{upstream}` and `{policy}` in the command are filled in at the start."""

    name: str
    command: tuple[str, ...]

    @contextlib.contextmanager
    def running(self, folder: Path, *, core: int, upstream: int, policy: str) -> Iterator[Running]:
        """The target, from its start to its end. It lives in `folder` and may write there."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"port": str(free_port()), "upstream": str(upstream)}
        policy_file = fill(HERE / policy, folder / policy, values)
        fill(HERE / "nginx.conf", folder / "nginx.conf", values)
        said = folder / "output.txt"
        command = [part.format(**values, policy=policy_file, folder=folder) for part in self.command]
        started = time.perf_counter()
        with said.open("wb") as output:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # one group, so that nothing it starts outlives it
            )
        try:
            yield Running(name=self.name, process=process, port=int(values["port"]), started=started, said=said)
        finally:
            end(process)


@dataclass(frozen=True)
class Running:
    """A started target: its whole process tree."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    started: float
    said: Path

    def check(self) -> None:
        """Raises if it has ended."""
        if (status := self.process.poll()) is not None:
            raise TargetError(f"{self.name} ended with {status}: ...{self.said.read_text(errors='replace')[-800:]}")

    def cpu_ns(self) -> int:
        """CPU time of all its processes, from the scheduler's own counters.

        A process' CPU clock holds the threads that have ended too; a child process that has ended is lost.
        """
        return sum(time.clock_gettime_ns(_cpu_clock(pid)) for pid in self._tree())

    def rss_mib(self) -> float:
        """Resident memory of all its processes; pages that they share count once for each."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._tree())
        return pages * _PAGE / 2**20

    def _tree(self) -> list[int]:
        pids = [self.process.pid]
        for pid in pids:  # grows while it is walked
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        return pids


def _cpu_clock(pid: int) -> int:
    """clock_getcpuclockid(3), which Python has for threads only: the process' scheduler clock (CPUCLOCK_SCHED)."""
    return (~pid << 3) | 2


NGINX = Target("nginx", ("nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf"))


def pointsman() -> Target:
    """The `pointsman` that belongs to this Python, else the one on the PATH."""
    beside = Path(sys.executable).with_name("pointsman")
    program = str(beside) if beside.exists() else shutil.which("pointsman") or "pointsman"
    serve = "serve -c {policy} --host 127.0.0.1 --port {port} --workers 1"
    return Target("pointsman", (program, *serve.split()))


@contextlib.contextmanager
def upstream(folder: Path, *, core: int) -> Iterator[int]:
    """The mock provider, compiled and started; its port."""
    program = folder / "upstream"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "upstream.c")], check=True)
    port = free_port()
    process = subprocess.Popen(["taskset", "-c", str(core), str(program), str(port)], start_new_session=True)
    try:
        wait_for(port)
        yield port
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks the whole group to stop, and does not ask twice."""
    for how, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if how is signal.SIGTERM:
                continue  # the leader is gone; the kill is for children that stayed behind


def fill(template: Path, made: Path, values: dict[str, str]) -> Path:
    made.write_text(Template(template.read_text()).substitute(values))
    return made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(port: int, *, seconds: float = 5.0) -> None:
    """Until something listens."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.002)
        else:
            return
