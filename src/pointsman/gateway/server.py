"""The gateway under uvicorn: settings, workers, signals. Knows nothing of what the app does."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from pointsman import config
from pointsman.config import Config
from pointsman.gateway import logs
from pointsman.gateway.app import App
from pointsman.gateway.protocol import Http

# Connections that may wait to be accepted, as uvicorn has it.
BACKLOG = 2048

# Longer than the pools of usual clients keep a connection, so that they close it and not we under their request.
KEEP_ALIVE_SECONDS = 75

# Streams that are open when a stop is asked for may go on this long.
GRACE_SECONDS = 30

# A worker process is told by its environment which file it serves: uvicorn starts workers from an import string. It is
# a copy of the policy file: a worker that is started anew must serve what the others do, whatever became of the file.
POLICY_FILE = "POINTSMAN_POLICY_FILE"
# Where the file itself lies: paths in it are taken from there.
POLICY_FOLDER = "POINTSMAN_POLICY_FOLDER"


class Workers(Multiprocess):
    """uvicorn's worker processes, which nobody can reach any more once they are told to stop."""

    def terminate_all(self) -> None:
        # Callers would wait in a queue that no worker takes from, instead of going elsewhere.
        for sock in self.sockets:
            sock.close()
        super().terminate_all()


def create_app() -> App:
    """The app of a worker process: it serves the policy file that its environment names."""
    _keep_large_buffers()
    logs.configure()

    def load() -> Config:
        folder = os.environ.get(POLICY_FOLDER)
        loaded = config.load(
            Path(os.environ[POLICY_FILE]), env=os.environ, beside=Path(folder) if folder is not None else None
        )
        logs.hide(loaded.secrets)
        return loaded

    app = App(load, started=_freeze)
    # A second signal skips uvicorn's shutdown; what the log still holds must get out.
    atexit.register(app.flush)
    return app


def settings(app: App | str, *, workers: int = 1) -> uvicorn.Config:
    """How uvicorn is set up here; `app` is an App, or the import string of a factory for worker processes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=Http,
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


def serve(policies: bytes, sock: socket.socket, *, workers: int, beside: Path) -> None:
    """Serve a policy file's content on a listening socket until SIGINT or SIGTERM; open streams may finish first.

    Paths in it are taken from the folder `beside`.
    """
    with tempfile.NamedTemporaryFile(prefix="pointsman-", suffix=".yaml") as copy:
        copy.write(policies)
        copy.flush()
        os.environ[POLICY_FILE] = copy.name
        os.environ[POLICY_FOLDER] = str(beside.resolve())
        _run(sock, workers=workers)


def _run(sock: socket.socket, *, workers: int) -> None:
    made = settings("pointsman.gateway.server:create_app", workers=workers)
    # uvicorn raises the signal once more when it has stopped; who was asked to stop, and did, has not failed.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stopped)
    if workers == 1:
        uvicorn.Server(made).run(sockets=[sock])
    else:
        logs.configure()
        supervisor = Workers(made, sockets=[sock])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            sys.exit(STARTUP_FAILURE)


def _stopped(number: int, frame: FrameType | None) -> None:
    """Nothing is left to do."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any free one). Raises OSError.

    Who connects from here on waits until the gateway has started, and is not refused.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, or asyncio does not take it for TCP: it would leave Nagle's algorithm on, and each answer
    # on a kept connection would wait 40 ms for the other side's delayed acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.set_inheritable(True)
    return sock


def _freeze() -> None:
    """Take what start-up made out of the garbage collector's sight, and let it run less often.

    Modules, weights and tokenizers live as long as the process; to walk them again and again costs a tenth of the CPU,
    and a full collection stalls every stream. Calls free what they make by reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


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
