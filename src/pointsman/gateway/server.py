"""The gateway under uvicorn: limits, workers, signals. Knows nothing of what the app does."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from pointsman import config
from pointsman.config import Config
from pointsman.gateway import logs
from pointsman.gateway.app import App

# uvicorn has no limit on header bytes with httptools and keeps megabytes of them. nginx takes 32 KiB, Apache 8 KiB a
# line, node 16 KiB; long bearer tokens and trace baggage fit into this.
HEADER_BYTES = 64 * 1024

# Longer than the pools of usual clients keep a connection, so that they close it and not we under their request.
KEEP_ALIVE_SECONDS = 75

# Streams that are open when a stop is asked for may go on this long.
GRACE_SECONDS = 30

# A worker process is told by its environment which file it serves: uvicorn starts workers from an import string.
POLICY_FILE = "POINTSMAN_POLICY_FILE"


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with a limit on the bytes of a request's head."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # What arrived may have ended the head and begun the body; only a head that is still open can be too long.
        if self._in_head and self._head_bytes > HEADER_BYTES and not self.transport.is_closing():
            body = b"the request's headers are too large"
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n%s" % (len(body), body))
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()


def create_app() -> App:
    """The app of a worker process: it serves the policy file that its environment names."""
    _keep_large_buffers()
    logs.configure()

    def load() -> Config:
        loaded = config.load(Path(os.environ[POLICY_FILE]), env=os.environ)
        logs.hide(loaded.secrets)
        return loaded

    return App(load)


def settings(app: App | str, *, workers: int = 1) -> uvicorn.Config:
    """How uvicorn is set up here; `app` is an App, or the import string of a factory for worker processes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def serve(path: Path, sock: socket.socket, *, workers: int) -> None:
    """Serve a policy file on a listening socket until SIGINT or SIGTERM; open streams may finish first."""
    os.environ[POLICY_FILE] = str(path)
    made = settings("pointsman.gateway.server:create_app", workers=workers)
    if workers == 1:
        uvicorn.Server(made).run(sockets=[sock])
    else:
        logs.configure()
        Multiprocess(made, sockets=[sock]).run()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port` (0: any free one). Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.set_inheritable(True)
    return sock


def _keep_large_buffers() -> None:
    """glibc maps and unmaps every buffer over 128 KiB, which doubles the cost of a 200 KiB body; raise the threshold.

    The same as MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_, which would have to be set before the process starts.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from musl
    if mallopt:
        mmap_threshold, trim_threshold = -3, -1
        mallopt(mmap_threshold, 32 * 1024 * 1024)
        mallopt(trim_threshold, 64 * 1024 * 1024)
