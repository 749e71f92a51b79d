"""R64: secrets are planted wherever one can be, every kind of call is made, and every sink is searched."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import quote

from pointsman.testing import Behaviour, Body, Bytes, FakeUpstream, Received, Status, Text, Wire
from tests.wire import call, chat, connection

KEY = "sk-canary-key/of+the=provider"
CALLER = "canary-key-of-the-callers"
HEADER = "canary-in-a-header"
QUERY = "canary/in+the=query"
PASSWORD = "canary-password"
BYSTANDER = "canary-of-somebody-else-in-the-environment"
CANARIES = (KEY, CALLER, HEADER, QUERY, PASSWORD, BYSTANDER)

FILE = """
version: 1
providers:
  fake: {{base_url: "{url}?key=${{QUERY}}", key: "${{KEY}}", headers: {{x-team: "${{HEADER}}"}}}}
  user: {{base_url: "http://canary:${{PASSWORD}}@127.0.0.1:{port}/v1?key=${{QUERY}}"}}
  gone: {{base_url: "http://canary:${{PASSWORD}}@127.0.0.1:{gone}/v1?key=${{QUERY}}"}}
  lost: {{base_url: "http://${{KEYHOST}}.invalid/v1?key=${{QUERY}}", key: "${{KEY}}"}}
  tls: {{base_url: "https://127.0.0.1:{port}/v1?key=${{QUERY}}", key: "${{KEY}}"}}
default: fake/any
gateway: {{keys: ["${{CALLER}}"], timeouts: {{connect: 1, first_byte: 1, idle: 1, total: 5}}}}
"""


class Echo:
    """Says back all it was told: the address and every header, in the body and in headers, with this status."""

    def __init__(self, status: int, *, page: bool = False) -> None:
        self.status = status
        self.page = page

    async def answer(self, call: Received, wire: Wire) -> None:
        heard = f"{call.path} {json.dumps(call.headers)} {KEY} {HEADER} {QUERY} {PASSWORD}"
        escaped = f"{KEY} {HEADER} {QUERY}".replace("/", "\\/")
        said = json.dumps({"message": f"Incorrect key: {KEY}, {quote(KEY, safe='')}, {heard}"})
        body = f'{{"error": {said}, "escaped": "{escaped}"}}'
        headers = {
            "content-type": "text/html" if self.page else "application/json",
            "x-request-id": f"{KEY}-{HEADER}",
            "x-ratelimit-key": KEY,
            "retry-after": PASSWORD,
            "location": f"http://127.0.0.1:1/{KEY}",
            "set-cookie": KEY,
            "x-echo": heard,
        }
        await wire.whole(self.status, heard.encode() if self.page else body.encode(), headers)


async def test_r64_no_secret_reaches_a_log_an_answer_or_a_header(tmp_path: Path) -> None:
    sse = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-request-id: %s\r\n\r\n"
    )
    faults: dict[str, Behaviour] = {
        "fine": Text(),
        **{f"says-{status}": Echo(status) for status in (200, 301, 400, 401, 403, 404, 429, 500, 503)},
        **{f"page-{status}": Echo(status, page=True) for status in (200, 401, 500)},
        "dies": Bytes((), end="reset"),
        "stalls": Bytes((), end="hang"),
        "breaks": Bytes((sse % KEY.encode(), b"3\r\n:\n\n\r\n"), end="cut", pace=0.05),
        "no-http": Bytes((f"{KEY} {HEADER}\r\n\r\n".encode(),)),
        "no-json": Body(f"<html>{KEY}</html>".encode(), "text/html"),
        "long": Status(500, body=KEY.encode() * 20_000),
        "any": Text(),
    }
    async with FakeUpstream() as upstream:
        for model, behaviour in faults.items():
            upstream.script(model, behaviour)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            gone = taken.getsockname()[1]
        file = tmp_path / "pointsman.yaml"
        file.write_text(FILE.format(url=upstream.url, port=upstream.port, gone=gone))
        env = {"KEY": KEY, "CALLER": CALLER, "HEADER": HEADER, "QUERY": QUERY, "PASSWORD": PASSWORD}
        command = [sys.executable, "-X", "dev", "-m", "pointsman", "serve", "-c", str(file), "--port", "0"]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ) | env | {"KEYHOST": "canary-host", "CANARY": BYSTANDER},
        )
        assert process.stdout
        assert process.stderr
        said: list[str] = []
        while not (found := re.search(r"on (http://\S+)", said[-1] if said else "")):
            said.append((await process.stderr.readline()).decode())
            assert said[-1], said
        url = found[1]

        heard: list[str] = []
        authorized = f"authorization: Bearer {CALLER}\r\ntraceparent: 00-1\r\n"
        for model in (*(f"fake/{name}" for name in faults), "user/fine", "user/says-401", "gone/a", "lost/a", "tls/a"):
            for stream in (False, True):
                got = await call(url, chat(model=model, stream=stream), authorized)
                heard.append(f"{model} {stream} {got.status} {got.headers} {got.body.decode()}")
        wrong = [
            call(url, chat(), "authorization: Bearer canary-of-a-stranger\r\n"),
            call(url, chat(), f"authorization: Bearer {KEY}\r\n"),
            call(url, b"{", authorized),
            call(url, chat(model="nobody/x"), authorized),
            call(url, chat(policies={"p": {"description": 7, "models": "nobody/x"}}), authorized),
            call(url, b"", authorized, path=f"/v1/nothing?key={quote(CALLER)}"),
        ]
        heard += [f"{got.status} {got.headers} {got.body.decode()}" for got in await asyncio.gather(*wrong)]
        async with connection(url) as wire:
            for path in ("/healthz", "/readyz", "/v1/models", "/v1/models/fake/any"):
                await wire.send(f"GET {path} HTTP/1.1\r\nhost: gateway\r\n{authorized}\r\n".encode())
                heard.append(repr(await wire.answer()))
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 10)
        said += [out.decode(), err.decode()]

    # The calls were made and were answered: what follows looks at something.
    sent = {each.model for each in upstream.calls}
    assert sent >= set(faults)
    assert all(KEY in each.headers["authorization"] for each in upstream.calls if each.model == "dies")
    log = "".join(said)
    assert log.count('"outcome":') >= 2 * len(faults)
    for sink in (log, *heard):
        for canary in CANARIES:
            spellings = {canary, quote(canary), quote(canary, safe=""), canary.replace("/", "\\/")}
            for spelled in spellings:
                assert spelled not in sink, (spelled, sink)
    assert "canary-of-a-stranger" not in log + "".join(heard)
