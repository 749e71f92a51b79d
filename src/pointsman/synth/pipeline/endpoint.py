"""Asking language models: through the journal, with patience, within a rate and a budget. Knows no pipeline.

Any endpoint that speaks OpenAI's chat completions, as the policy file's `providers` name it.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import msgspec

from pointsman.config import Provider, Timeouts
from pointsman.errors import BadAnswer, PointsmanError, UpstreamError
from pointsman.synth.pipeline.journal import Answer, Journal
from pointsman.synth.pipeline.prompts import Prompt
from pointsman.upstreams.client import Client

_PATH = "/chat/completions"
# What a server says when it is not our fault and may pass.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
# A provider that asks for more patience than this is down for today.
_LONGEST_WAIT = 120.0
_LONGEST_ANSWER = 4 * 1024 * 1024


class BudgetSpent(PointsmanError):
    """The next call could cost more than is left."""


class ModelGone(PointsmanError):
    """A model does not answer any more, or refuses us: going on would only fail again."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Of a million tokens, in and out, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt: int, completion: int) -> float:
        return (self.prompt * prompt + self.completion * completion) / 1_000_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How hard models are pressed, and when to give up."""

    concurrency: int = 8
    """Calls in flight to each model."""
    rate: float | None = None
    """Calls a minute to each model."""
    budget: float | None = None
    """What all calls of this folder may cost, those of earlier runs included."""
    timeout: float = 120.0
    """Seconds for one answer."""
    tries: int = 6
    """Of one call, before the model counts as gone."""


class Asker:
    """Asks models by name (`provider/model`). Make it on the running loop, and use it as a context.

    An answer that is in the journal is given at once. Raises BudgetSpent or ModelGone from `ask`; what was answered
    until then is in the journal.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        journal: Journal,
        *,
        prices: Mapping[str, Price],
        limits: Limits,
        told: Callable[[Answer], None] = lambda _answer: None,
    ) -> None:
        self._providers, self._journal, self._prices, self.limits, self._told = providers, journal, prices, limits, told
        self._client = Client(
            Timeouts(connect=10.0, first_byte=limits.timeout, idle=limits.timeout, total=limits.timeout)
        )
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._next: dict[str, float] = {}
        self._asked: dict[str, asyncio.Future[Answer]] = {}
        self.spent = sum(bill.cost for bill in journal.bill().values())
        self._reserved = 0.0
        self._in_flight = 0
        self._draining = False
        self._settled = asyncio.Condition()

    async def __aenter__(self) -> Asker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for asked in self._asked.values():
            asked.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        await self._client.close()

    async def ask(self, model: str, prompt: Prompt, *, seed: int, parent: str) -> Answer:
        """The model's answer. The same model, prompt and seed are asked once in the life of a journal."""
        key = _key(model, prompt, seed)
        if answer := self._journal.get(key):
            return answer
        if key not in self._asked:
            self._asked[key] = asyncio.ensure_future(self._ask(key, model, prompt, seed, parent))
        # A call that is under way is paid for: it comes to its end and into the journal, whoever still waits for it.
        return await asyncio.shield(self._asked[key])

    async def drain(self) -> None:
        """Start nothing more, and wait for what is under way: it is paid for, and goes into the journal."""
        self._draining = True
        async with self._settled:
            self._settled.notify_all()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def _ask(self, key: str, model: str, prompt: Prompt, seed: int, parent: str) -> Answer:
        price = self._prices.get(model, Price())
        async with self._slots.setdefault(model, asyncio.Semaphore(self.limits.concurrency)):
            # Three letters a token is low for most languages, and the whole answer may be used.
            reserve = price.of((len(prompt.system) + len(prompt.user)) // 3, prompt.max_tokens)
            async with self._settled:
                await self._settled.wait_for(lambda: self._affordable(reserve))
                self._reserved += reserve
                self._in_flight += 1
            try:
                text, prompt_tokens, completion_tokens = await self._patiently(model, prompt, seed)
                cost = price.of(prompt_tokens, completion_tokens)
                answer = Answer(
                    key=key,
                    step=prompt.step,
                    version=prompt.version,
                    model=model,
                    seed=seed,
                    parent=parent,
                    text=text,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    cost=cost,
                )
                self._journal.put(answer)
                self.spent += cost
            finally:
                async with self._settled:
                    self._reserved -= reserve
                    self._in_flight -= 1
                    self._settled.notify_all()
        self._told(answer)
        return answer

    def _affordable(self, reserve: float) -> bool:
        """Whether a call may go out; if only calls in flight stand in the way, not yet. Raises BudgetSpent."""
        if self._draining:
            raise BudgetSpent("nothing more is asked")
        budget = self.limits.budget
        if budget is None or self.spent + self._reserved + reserve <= budget:
            return True
        if self._in_flight and self.spent + reserve <= budget:
            return False
        raise BudgetSpent(f"the budget of {budget:g} is spent: {self.spent:.4f} so far")

    async def _patiently(self, model: str, prompt: Prompt, seed: int) -> tuple[str, int, int]:
        """Text and tokens of an answer, after as many tries as it takes and the limits allow."""
        rng = random.Random(f"{seed} {model}")  # noqa: S311 - jitter
        said = ""
        for attempt in range(1, self.limits.tries + 1):
            await self._pace(model)
            if self._draining:
                raise BudgetSpent("nothing more is asked")
            try:
                async with asyncio.timeout(self.limits.timeout):
                    return await self._call(model, prompt, seed)
            except _Passing as error:
                said, wait = str(error), error.wait
            except TimeoutError:
                said, wait = f"no answer within {self.limits.timeout:g} s", None
            except UpstreamError as error:
                said, wait = str(error), None
            if attempt < self.limits.tries and not self._draining:
                pause = wait if wait is not None else min(30.0, 0.5 * 2**attempt) * rng.uniform(0.5, 1.0)
                if pause > _LONGEST_WAIT:
                    raise ModelGone(f"{model} asks to wait {pause:.0f} s; run again then")
                await asyncio.sleep(pause)
        raise ModelGone(f"{model} does not answer: {said}, {self.limits.tries} times")

    async def _pace(self, model: str) -> None:
        """Wait for this call's place in the rate."""
        if self.limits.rate is None:
            return
        now = time.monotonic()
        place = max(now, self._next.get(model, now))
        self._next[model] = place + 60.0 / self.limits.rate
        await asyncio.sleep(place - now)

    async def _call(self, model: str, prompt: Prompt, seed: int) -> tuple[str, int, int]:
        """One call. Raises _Passing or UpstreamError for what may be tried again, and ModelGone for what may not."""
        provider, _, name = model.partition("/")
        body = {
            "model": name,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "temperature": prompt.temperature,
            "max_tokens": prompt.max_tokens,
            "seed": seed,
        }
        async with await self._client.open(self._providers[provider], _PATH, msgspec.json.encode(body), {}) as reply:
            content = b""
            while piece := await reply.read():
                content += piece
                if len(content) > _LONGEST_ANSWER:
                    raise BadAnswer("an answer of more than 4 MiB")
            if reply.status in _PASSING:
                raise _Passing(f"status {reply.status}", _retry_after(reply.headers))
            if reply.status != 200:
                # The body may repeat our key; the status is enough to go on.
                raise ModelGone(f"{model} refuses with status {reply.status}; check its name, key and base_url")
        return _read(content)


class _Passing(Exception):
    def __init__(self, message: str, wait: float | None) -> None:
        self.wait = wait
        super().__init__(message)


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


def _read(content: bytes) -> tuple[str, int, int]:
    try:
        made = msgspec.json.decode(content, type=_Completion)
        usage = made.usage or _Usage()
        return made.choices[0].message.content or "", usage.prompt_tokens, usage.completion_tokens
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
        raise BadAnswer("an answer that is no chat completion") from None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks us to wait (RFC 9110, 10.2.3: a number, or a date)."""
    said = headers.get("retry-after", "")
    if said.isdigit():
        return float(said)
    try:
        date = email.utils.parsedate_to_datetime(said)
    except (TypeError, ValueError):
        return None
    return max(0.0, date.timestamp() - time.time())


def _key(model: str, prompt: Prompt, seed: int) -> str:
    parts = (model, prompt.version, prompt.system, prompt.user, f"{prompt.temperature} {prompt.max_tokens} {seed}")
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
