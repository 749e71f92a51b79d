"""The router: one conversation in, one Decision out, always. Knows no wire format and no provider.

Serving, `explain`, `route` and evaluation all call `Router.decide`. Whatever goes wrong in it, the default model
answers and the decision's reason says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType

from pointsman.config import Config
from pointsman.conversation import Conversation
from pointsman.decision import Choice, Decision, Reason, Scores, choose
from pointsman.errors import RouterError
from pointsman.policy import PolicySet
from pointsman.routers import Scorer

log = logging.getLogger(__name__)


class Router:
    """Routes conversations by a policy set. As an async context it is warmed on entering, and closed on leaving.

    `load` makes the scorer; it is called once, on another thread, when the first conversation needs it (or by `warm`),
    so that a gateway without policies never pays for a model. `deadline` is in seconds.
    """

    def __init__(
        self,
        load: Callable[[], Scorer],
        *,
        policies: PolicySet,
        default: tuple[str, ...],
        deadline: float = 0.25,
        min_confidence: float = 0.0,
    ) -> None:
        if not default:
            raise ValueError("a router needs a default model")
        self.policies = policies
        self._load = load
        self._loading: asyncio.Future[Scorer] | None = None
        self._default = default
        self._deadline = deadline
        self._min_confidence = min_confidence

    async def __aenter__(self) -> Router:
        await self.warm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def warm(self) -> None:
        """Load the scorer and prepare the policy set, so that the first conversation need not wait for it.

        Nothing to do without policies. Raises RouterError.
        """
        if self.policies:
            scorer = await self._scorer()
            await scorer.prepare(self.policies)

    async def close(self) -> None:
        """Let go of the scorer's threads and connections."""
        if self._loading:
            loaded = (await asyncio.gather(self._loading, return_exceptions=True))[0]
            if not isinstance(loaded, BaseException):
                await loaded.close()

    async def decide(
        self, conversation: Conversation, *, policies: PolicySet | None = None, pinned: str | None = None
    ) -> Decision:
        """The decision for this conversation. Never raises, but for cancellation.

        `policies` replaces the router's own for this one call. `pinned` is a model that the caller asked for by name.
        """
        began = time.perf_counter()
        offered = self.policies if policies is None else policies
        if pinned is not None:
            return self._decision(began, offered, Reason.PINNED, models=(pinned,))
        if not offered:
            return self._decision(began, offered, Reason.NO_POLICIES)
        if not conversation.readable:
            return self._decision(began, offered, Reason.NO_MATCH)
        router: str | None = None
        try:
            async with asyncio.timeout(self._deadline):
                scorer = await self._scorer()
                router = scorer.id
                scores = _checked(await scorer.score(conversation, offered), offered)
        except TimeoutError:
            return self._decision(began, offered, Reason.TIMEOUT, router=router)
        except Exception as error:  # a router may fail in any way; a request must not
            # The type alone: a message might quote the conversation.
            log.warning("router failed: %s", type(error).__name__)
            return self._decision(began, offered, Reason.ROUTER_FAILED, router=router)
        choice = choose(scores, offered, min_confidence=self._min_confidence)
        models = offered[choice.policy].models if choice.policy else ()
        return self._decision(began, offered, choice.reason, choice=choice, scores=scores, router=router, models=models)

    def _decision(
        self,
        began: float,
        offered: PolicySet,
        reason: Reason,
        *,
        choice: Choice | None = None,
        scores: Scores | None = None,
        router: str | None = None,
        models: tuple[str, ...] = (),
    ) -> Decision:
        """A Decision for `models`, or for the default if there are none."""
        models = models or self._default
        return Decision(
            policy=choice.policy if choice else None,
            model=models[0],
            fallbacks=models[1:],
            reason=reason,
            confidence=choice.confidence if choice else None,
            runner_up=choice.runner_up if choice else None,
            scores=scores.policies if scores else (),
            other=scores.other if scores else None,
            router=router,
            policy_set=offered.digest,
            elapsed_ms=(time.perf_counter() - began) * 1000,
        )

    async def _scorer(self) -> Scorer:
        # Shielded: a call that runs into its deadline while the weights load must not stop the loading for the others.
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        return await asyncio.shield(self._loading)


def build(config: Config, *, threads: int = 1) -> Router:
    """The router that a policy file asks for: the embedded one. `threads` is how many cores one decision may use."""

    def load() -> Scorer:
        from pointsman.routers.encoder import Encoder  # noqa: PLC0415 - onnxruntime costs 40 MiB; only who routes pays

        return Encoder.load(config.routing.weights, calibration=config.routing.calibration, threads=threads)

    return Router(
        load,
        policies=config.policies,
        default=config.default,
        deadline=config.routing.deadline,
        min_confidence=config.routing.min_confidence,
    )


def _checked(scores: Scores, policies: PolicySet) -> Scores:
    """`scores`, if they are a distribution over just these policies. Raises RouterError."""
    if tuple(each.policy for each in scores.policies) != policies.ids:
        raise RouterError("scores do not cover the policies on offer")
    # A NaN is in no range.
    if not all(
        0 <= probability <= 1 for probability in (scores.other, *(each.probability for each in scores.policies))
    ):
        raise RouterError("a probability is out of range")
    return scores
