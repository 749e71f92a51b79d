"""The ASGI application: which path does what, and the runtime's life. Raw ASGI, for it stands under every token."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from pointsman.config import Config
from pointsman.dialects import openai_chat
from pointsman.errors import PointsmanError, RequestError
from pointsman.gateway import exchange
from pointsman.gateway.caller import Caller, CallerGone, Receive, Scope, Send
from pointsman.gateway.runtime import Runtime

log = logging.getLogger(__name__)

_ROUTES = {
    "/v1/chat/completions": ("POST", exchange.complete),
    "/v1/route": ("POST", exchange.route),
}


class App:
    """A gateway as an ASGI application.

    `load` gives the configuration when the server starts up, on its event loop; `make` turns it into a Runtime;
    `started` is called when all is ready for the first call.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        *,
        make: Callable[[Config], Runtime] = Runtime,
        started: Callable[[], object] = lambda: None,
    ) -> None:
        self._load = load
        self._make = make
        self._started = started
        self._runtime: Runtime | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(Caller(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            runtime = self._make(self._load())
            await runtime.start()
        except PointsmanError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._runtime = runtime
        self._started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._runtime = None
        await runtime.close()
        await send({"type": "lifespan.shutdown.complete"})

    def flush(self) -> None:
        """Write out what the exchange log still holds."""
        if self._runtime:
            self._runtime.flush()

    async def _http(self, caller: Caller) -> None:
        runtime = self._runtime
        try:
            if caller.path == "/healthz":
                await caller.respond(200, b'{"status":"ok"}', exchange.JSON)
            elif runtime is None:
                await caller.respond(503, b'{"status":"starting or stopping"}', exchange.JSON)
            elif caller.path == "/readyz":
                ready = msgspec.json.encode({"status": "ready", "config": runtime.config.digest})
                await caller.respond(200, ready, exchange.JSON)
            elif (found := _ROUTES.get(caller.path)) and found[0] == caller.method:
                await found[1](caller, runtime)
            else:
                await self._rest(caller, runtime)
        except CallerGone:
            return
        except RequestError as error:
            body = openai_chat.error(error.message, status=error.status, code=error.code, param=error.param)
            await caller.respond(error.status, body, exchange.JSON)
        except Exception as error:  # the last wall: a bug becomes a 500 that shows nothing
            # The type and place only: a message could quote the request.
            log.error("bug: %s at %s", type(error).__name__, _place(error))
            if not caller.started:
                body = openai_chat.error("the gateway failed", status=500, code="internal_error")
                await caller.respond(500, body, exchange.JSON)

    async def _rest(self, caller: Caller, runtime: Runtime) -> None:
        """The model list, and everything that is not here."""
        if caller.path in _ROUTES:
            await self._refuse_method(caller, _ROUTES[caller.path][0])
            return
        if caller.path != "/v1/models" and not caller.path.startswith("/v1/models/"):
            raise RequestError(f"there is nothing at {caller.path[:100]}", status=404, code="not_found")
        if caller.method != "GET":
            await self._refuse_method(caller, "GET")
            return
        exchange.admit(caller, runtime)
        names = ("auto", *runtime.config.aliases, *runtime.config.models)
        wanted = caller.path.removeprefix("/v1/models").removeprefix("/")
        if not wanted:
            await caller.respond(200, openai_chat.models(names), exchange.JSON)
        elif wanted in names:
            await caller.respond(200, openai_chat.model(wanted), exchange.JSON)
        else:
            message = f"there is no model {wanted[:100]!r} here; GET /v1/models lists them"
            raise RequestError(message, status=404, code="model_not_found")

    async def _refuse_method(self, caller: Caller, allowed: str) -> None:
        body = openai_chat.error(f"{caller.path[:100]} takes {allowed}", status=405, code="method_not_allowed")
        await caller.respond(405, body, [*exchange.JSON, (b"allow", allowed.encode())])


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace else "unknown"
