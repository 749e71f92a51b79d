"""The exchange log never holds up a call, and a worker that is started anew serves what the others do."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pointsman.gateway.journal import BATCH, Journal, Record
from tests.wire import Answer, connection, request, until

FILE = "version: 1\nproviders: {local: {base_url: http://127.0.0.1:9/v1}}\ndefault: local/small\n"


def record(number: int) -> Record:
    return Record(time=0.0, exchange=str(number), config="c", status=200, outcome="complete", ms=1.0)


async def test_lines_go_out_in_batches_and_none_twice() -> None:
    out: list[bytes] = []
    journal = Journal(out.append)
    for number in range(BATCH + 3):
        journal.note(record(number))
    assert len(out) == 1
    journal.flush()
    journal.flush()
    lines = b"".join(out).splitlines()
    assert [json.loads(line)["exchange"] for line in lines] == [str(number) for number in range(BATCH + 3)]


async def test_a_sink_that_fails_costs_lines_and_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    def full(lines: bytes) -> None:
        raise OSError

    journal = Journal(full)
    with caplog.at_level(logging.ERROR):
        for number in range(BATCH):
            journal.note(record(number))
    assert f"lost {BATCH} lines" in caplog.text


@asynccontextmanager
async def serving(file: Path, *options: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """A gateway whose stdout nobody reads."""
    unread, out = os.pipe()
    command = [sys.executable, "-m", "pointsman", "serve", "-c", str(file), "--port", "0", *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=asyncio.subprocess.PIPE)
    os.close(out)
    assert process.stderr
    try:
        async with asyncio.timeout(20):
            while not (found := re.search(r"on (http://\S+)", (await process.stderr.readline()).decode())):
                pass
        draining = asyncio.create_task(process.stderr.read())
        yield process, found[1]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()
            await draining
    finally:
        os.close(unread)
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_log_that_nobody_reads_holds_up_no_call(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(FILE)
    async with serving(file) as (process, url), connection(url) as wire:
        for _ in range(1500):  # 200 KB of lines; a pipe takes 64
            await wire.send(request(b"{"))
            assert (await wire.answer()).status == 400
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="workers are found in /proc")
async def test_workers_serve_the_file_as_it_was_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(FILE)
    async with serving(file, "--workers", "2") as (process, url):
        before = await ready(url)
        file.write_text("broken: [")
        child = children(process.pid)[-1]
        os.kill(child, signal.SIGKILL)
        await until(lambda: child not in children(process.pid))
        for _ in range(20):
            assert (await ready(url)).json["config"] == before.json["config"]
            await asyncio.sleep(0.1)
        assert process.returncode is None


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def ready(url: str) -> Answer:
    async with connection(url) as wire:
        await wire.send(b"GET /readyz HTTP/1.1\r\nhost: gateway\r\n\r\n")
        return await wire.answer()
