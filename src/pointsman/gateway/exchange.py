"""The life of one call in seven verbs: admit, read, decide, plan, attempt, relay, settle.

`complete` and `live` string them together; each is one function below (reading is `Call`). Nothing is retried once the
caller has a byte.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType

import msgspec

from pointsman.config import Config, inline_policies
from pointsman.conversation import Conversation
from pointsman.decision import Decision
from pointsman.dialects import openai_chat
from pointsman.dialects.openai_chat import Call
from pointsman.dialects.sse import Events
from pointsman.errors import ConfigError, ConnectFailed, RequestError, UpstreamError, UpstreamTimeout
from pointsman.gateway.caller import Caller, CallerGone, Headers
from pointsman.gateway.journal import Record
from pointsman.gateway.patience import Patience
from pointsman.gateway.runtime import Runtime
from pointsman.upstreams.client import Reply
from pointsman.upstreams.health import UNREACHABLE, retry_after

log = logging.getLogger(__name__)

# A whole answer is read before the caller sees a byte of it, so that a broken one can fail over. Up to here: the
# longest completions are under 1 MiB, but an image or audio in base64 is not.
WHOLE_ANSWER = 8 * 1024 * 1024
# Errors are short; what is longer than this is cut off with the connection.
WHOLE_ERROR = 256 * 1024
# A caller that opens a request and trickles its body must not hold it open for ever.
BODY_SECONDS = 60.0
# Seconds for a caller to take the error event that ends a stream; one that reads nothing does not get it.
LAST_WORD = 1.0

# What of a caller's request goes on to a provider. Not its authorization, cookies, address or our own headers.
_FORWARDED = frozenset((b"openai-beta", b"idempotency-key", b"traceparent", b"tracestate"))
# What of a provider's answer comes back. Not its cookies, hop-by-hop headers, server or organization.
_REFUSAL = ("retry-after", "retry-after-ms", "x-request-id", "openai-processing-ms", "openai-version")
_RETURNED = (*_REFUSAL, "content-type", "content-encoding")
_RETURNED_PREFIX = "x-ratelimit-"

# It travels in a header and in the log.
LONGEST_MODEL = 200

JSON: Headers = [(b"content-type", b"application/json")]


class Exchange:
    """One call, from its caller to its answer, and what is known of it so far; settled exactly once."""

    def __init__(self, caller: Caller, runtime: Runtime) -> None:
        self.id = os.urandom(12).hex()
        self.caller = caller
        self.runtime = runtime
        self.patience = Patience(runtime.config.gateway.timeouts, runtime.watchdog)
        self.began = time.perf_counter()
        self.decision: Decision | None = None
        self.model: str | None = None
        self.attempts = 0
        self.status = 0
        self.outcome = "complete"


class Answer:
    """A provider's answer, accepted: `body` is there, and `rest` still has more of it to read, if any."""

    def __init__(self, model: str, reply: Reply, body: bytes, rest: Reply | None = None) -> None:
        self.model = model
        self.status = reply.status
        self.headers = reply.headers
        self.body = body
        self.rest = rest

    @property
    def refused(self) -> bool:
        """Whether another model may do better: the provider is busy, broken or slow."""
        return self.status in (408, 429) or self.status >= 500

    @property
    def events(self) -> bool:
        """Whether it is an event stream that can be read on its way through."""
        kind = self.headers.get("content-type", "").lower()
        return kind.startswith("text/event-stream") and "content-encoding" not in self.headers

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rest:
            self.rest.close()


async def complete(caller: Caller, runtime: Runtime) -> None:
    """`POST /v1/chat/completions`."""

    async def work(exchange: Exchange, call: Call) -> None:
        exchange.decision = await decide(call, runtime)
        models = plan(exchange.decision, runtime)
        async with await attempt(call, models, exchange) as answer:
            await relay(answer, exchange)

    await live(Exchange(caller, runtime), work)


async def route(caller: Caller, runtime: Runtime) -> None:
    """`POST /v1/route`: the decision alone; the body is a chat completion's."""

    async def work(exchange: Exchange, call: Call) -> None:
        exchange.decision = await decide(call, runtime)
        exchange.status = 200
        await caller.respond(
            200, msgspec.json.encode(exchange.decision), [*JSON, *marks(exchange, exchange.decision.model)]
        )

    await live(Exchange(caller, runtime), work)


async def live(exchange: Exchange, work: Callable[[Exchange, Call], Awaitable[None]]) -> None:
    """The frame around every call: it is admitted and read, worked on while the caller is there, and settled."""
    caller, runtime = exchange.caller, exchange.runtime
    try:
        admit(caller, runtime)
        call = Call(await body(exchange))
        async with caller.present():
            await work(exchange, call)
    except CallerGone:
        exchange.status, exchange.outcome = 499, "caller_gone"
    except (RequestError, UpstreamError) as error:
        await refuse(error, exchange)
    except BaseException as error:
        # A bug, or a stop that could wait no longer for this call.
        exchange.status = exchange.status or 500
        exchange.outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "internal_error"
        raise
    finally:
        settle(exchange)


def admit(caller: Caller, runtime: Runtime) -> None:
    """Raises RequestError unless the caller may call: 401 without one of the policy file's keys, where it has any."""
    if not runtime.keys:
        return
    scheme, _, key = caller.header(b"authorization").partition(" ")
    bearer = key.strip() if scheme.lower() == "bearer" else ""
    # Either will do: the openai SDK always sends the first, with something in it.
    if not runtime.knows(bearer) and not runtime.knows(caller.header(b"x-api-key")):
        raise RequestError("this gateway needs a valid key", status=401, code="invalid_api_key")


async def body(exchange: Exchange) -> bytes:
    """The request's body. Raises RequestError if it is too large or too slow in coming."""
    try:
        with exchange.patience.at_most(BODY_SECONDS):
            return await exchange.caller.body(exchange.runtime.config.gateway.max_body)
    except TimeoutError:
        raise RequestError("the body did not arrive in time", status=408, code="request_timeout") from None


async def decide(call: Call, runtime: Runtime) -> Decision:
    """The decision for a call. Raises RequestError if it asks for a model or policies that cannot be."""
    pinned = pin(call.model, runtime.config)
    if pinned is not None:
        return await runtime.router.decide(Conversation(), pinned=pinned)
    inline = call.policies
    if inline is None:
        return await runtime.router.decide(call.conversation)
    try:
        policies = inline_policies(inline, runtime.config)
    except ConfigError as error:
        said = "; ".join(problem.located() for problem in error.problems)
        raise RequestError(said, code="invalid_policies", param="policies") from None
    return await runtime.router.decide(call.conversation, policies=policies)


def pin(model: str | None, config: Config) -> str | None:
    """The `provider/name` that a caller asks for by name or alias; None if it asks to be routed."""
    if model in (None, "", "auto"):
        return None
    assert model is not None  # noqa: S101 - just seen
    if model in config.aliases:
        return config.aliases[model]
    provider, _, name = model.partition("/")
    if provider in config.providers and name and name.isprintable() and len(model) <= LONGEST_MODEL:
        return model
    mend = "ask for `auto`, an alias, or `provider/name` of a configured provider; GET /v1/models lists them"
    raise RequestError(
        f"there is no model {model[:100]!r} here; {mend}", status=404, code="model_not_found", param="model"
    )


def plan(decision: Decision, runtime: Runtime) -> tuple[str, ...]:
    """The models to try, in order: the preferred one, then its fallbacks; those that rest come last."""
    return runtime.health.ordered((decision.model, *decision.fallbacks))


async def attempt(call: Call, models: Sequence[str], exchange: Exchange) -> Answer:
    """The first usable answer; if every model fails, the last refusal that a provider wrote. Raises UpstreamError."""
    runtime = exchange.runtime
    refusal: Answer | None = None
    failures: list[tuple[str, UpstreamError]] = []
    for model in models:
        exchange.attempts += 1
        try:
            answer = await ask(model, call, exchange)
        except UpstreamError as error:
            log.warning("exchange=%s model=%s failed: %s", exchange.id, model, error)
            failures.append((model, error))
            if isinstance(error, ConnectFailed):
                runtime.health.rest(model, UNREACHABLE)
        else:
            exchange.model = model
            if not answer.refused:
                return answer
            log.warning("exchange=%s model=%s answered %d", exchange.id, model, answer.status)
            runtime.health.rest(model, retry_after(answer.headers, wall=time.time))
            refusal = answer
        if exchange.patience.over:
            break
    if refusal:
        return refusal
    said = "; ".join(f"{model}: {error}" for model, error in failures)
    raise type(failures[-1][1])(said)


async def ask(model: str, call: Call, exchange: Exchange) -> Answer:
    """One model's answer, read as far as it takes to know that it is one. Raises UpstreamError."""
    runtime, caller = exchange.runtime, exchange.caller
    headers = {name.decode(): given.decode("latin-1") for name, given in caller.headers if name in _FORWARDED}
    provider, name = runtime.provider(model)
    try:
        with exchange.patience.first_byte():
            reply = await runtime.client.open(provider, "/chat/completions", call.forwarded(name), headers)
            try:
                return await accept(model, reply, call, exchange.patience)
            except BaseException:
                reply.close()
                raise
    except TimeoutError:
        raise UpstreamTimeout("no answer in time") from None


async def accept(model: str, reply: Reply, call: Call, patience: Patience) -> Answer:
    """`reply` as an Answer, once its beginning (of a stream) or all of it (else) has proved sound."""
    if 300 <= reply.status < 400:
        raise UpstreamError(f"answered with a redirect ({reply.status})")
    sound = 200 <= reply.status < 300
    encoded = "content-encoding" in reply.headers
    if sound and call.stream:
        first = await reply.read()
        if not encoded:
            openai_chat.check_stream(reply.headers.get("content-type", ""), first)
        return Answer(model, reply, first, rest=reply)
    limit = WHOLE_ANSWER if sound else WHOLE_ERROR
    body = bytearray()
    while piece := await reply.read():
        body += piece
        if len(body) > limit:
            if sound:
                return Answer(model, reply, bytes(body), rest=reply)
            reply.close()
            break
        patience.renew_idle()
    if sound and not encoded:
        openai_chat.check_answer(bytes(body))
    return Answer(model, reply, bytes(body))


async def relay(answer: Answer, exchange: Exchange) -> None:
    """The answer to the caller, piece by piece as it comes. After the first byte a failure is a stream event."""
    caller, runtime = exchange.caller, exchange.runtime
    exchange.status = answer.status
    if answer.status >= 400:
        headers = [*returned(answer, runtime, _REFUSAL), *JSON, *marks(exchange, answer.model)]
        await caller.respond(answer.status, error_body(answer, runtime), headers)
        return
    headers = [*returned(answer, runtime, _RETURNED), *marks(exchange, answer.model)]
    if answer.rest is None:
        await caller.respond(answer.status, answer.body, headers)
        return
    await caller.start(answer.status, headers)
    events = Events() if answer.events else None
    try:
        with exchange.patience.total() as patience:
            piece = answer.body
            while piece:
                if ready := events.feed(piece) if events else piece:
                    # A caller may be slow, but not for ever: it holds a connection of the provider's.
                    patience.total()
                    await caller.write(ready)
                patience.renew_idle()
                piece = await answer.rest.read()
    except (UpstreamError, TimeoutError) as error:
        failure = error if isinstance(error, UpstreamError) else UpstreamTimeout("the stream stalled")
        exchange.outcome = failure.code
        log.warning("exchange=%s model=%s broke off: %s", exchange.id, answer.model, failure)
        if events:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD):
                    await caller.write(openai_chat.error_event(f"{answer.model}: {failure}", code=failure.code))
        return  # and never `finish`: a clean end would make what came look complete
    await caller.finish(events.rest if events else b"")


def returned(answer: Answer, runtime: Runtime, names: tuple[str, ...]) -> Headers:
    """Those of a provider's headers that a caller gets, without our secrets."""
    given = ((name.lower(), value) for name, value in answer.headers.items())
    return [
        (name.encode(), runtime.scrubbed(value.encode("utf-8", "surrogateescape")))
        for name, value in given
        if name in names or name.startswith(_RETURNED_PREFIX)
    ]


def marks(exchange: Exchange, model: str | None = None) -> Headers:
    """Our own headers: which call this was, how it was decided, and which model answers."""
    headers: Headers = [
        (b"x-pointsman-exchange", exchange.id.encode()),
        (b"x-pointsman-config", exchange.runtime.config.digest.encode()),
    ]
    decision = exchange.decision
    if decision is None:
        return headers
    headers += [
        (b"x-pointsman-reason", decision.reason.value.encode()),
        (b"x-pointsman-decision-ms", f"{decision.elapsed_ms:.1f}".encode()),
    ]
    if model is not None:
        headers.append((b"x-pointsman-model", model.encode("utf-8")))
    if decision.policy is not None:
        headers.append((b"x-pointsman-policy", decision.policy.encode()))
    if decision.confidence is not None:
        headers.append((b"x-pointsman-confidence", f"{decision.confidence:.3f}".encode()))
    return headers


def error_body(answer: Answer, runtime: Runtime) -> bytes:
    """A provider's refusal, without our secrets; in the caller's dialect, whatever the provider sent."""
    if openai_chat.is_error(answer.body):
        return runtime.scrubbed(answer.body)
    said = openai_chat.complaint(answer.body)
    message = f"{answer.model} answered {answer.status}" + (f": {said}" if said else "")
    body = openai_chat.error(message, status=answer.status, code="upstream_error")
    return runtime.scrubbed(body)


async def refuse(error: RequestError | UpstreamError, exchange: Exchange) -> None:
    """An error of the caller's or of every provider's, as an answer in the caller's dialect."""
    exchange.status, exchange.outcome = error.status, error.code
    headers = [*JSON, *marks(exchange)]
    if error.status in (408, 413):
        # The rest of the body was not read: what follows on this connection could be mistaken for a request.
        headers.append((b"connection", b"close"))
    param = error.param if isinstance(error, RequestError) else None
    body = openai_chat.error(str(error), status=error.status, code=error.code, param=param)
    await exchange.caller.respond(error.status, body, headers)


def settle(exchange: Exchange) -> None:
    """Write down what happened, once, whatever happened."""
    decision = exchange.decision
    exchange.runtime.journal.note(
        Record(
            time=time.time(),
            exchange=exchange.id,
            config=exchange.runtime.config.digest,
            status=exchange.status,
            outcome=exchange.outcome,
            policy=decision.policy if decision else None,
            model=exchange.model,
            reason=decision.reason.value if decision else None,
            confidence=decision.confidence if decision else None,
            attempts=exchange.attempts,
            decision_ms=round(decision.elapsed_ms, 2) if decision else 0.0,
            ms=round((time.perf_counter() - exchange.began) * 1000, 2),
        )
    )
