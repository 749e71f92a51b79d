"""The routers that can be measured, by name. Knows how each is made, and nothing of what is asked of it.

encoder, encoder@FOLDER       the embedded router; with the weights in FOLDER
configured                    the router of the policy file given with -c
most-frequent, word-overlap   baselines that read no meaning
cosine-last, cosine-all       an encoder's cosine to the newest turn, to the whole conversation; @FOLDER as above
nearest-example               the nearest example of each policy; @FOLDER as above
FILE.py:NAME, module:NAME     anybody's: NAME() gives a `pointsman.routers.Scorer`
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import cast

import msgspec

from pointsman import router
from pointsman.config import Config
from pointsman.conversation import read
from pointsman.dataset import Dataset
from pointsman.decision import Reason
from pointsman.errors import PointsmanError
from pointsman.policy import Policy, PolicySet
from pointsman.router import Router
from pointsman.routers import Scorer

DEADLINE = 600.0
"""Seconds. Nobody waits for a measurement; what a deadline would cost is read off the latencies."""

DEFAULT = "nobody/default"
"""The model of "none of them" where no policy file names one. Nothing is called."""


_PROBE = PolicySet([Policy(id="anything", description="Anything at all.")])
"""So that warming a router loads it, which tells at once if it cannot be loaded."""


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A router to be measured, under the name it was asked for; what is less likely than `min_confidence` is "none"."""

    name: str
    router: Router
    min_confidence: float = 0.0

    async def identify(self) -> str | None:
        """The router's id, which names its method, weights and threshold. Loads it.

        Raises PointsmanError if it cannot be loaded or cannot decide.
        """
        try:
            await self.router.warm()
        except Exception as error:  # anybody's router may fail in any way, and the command must say which
            said = str(error) if isinstance(error, PointsmanError | OSError) else f"{type(error).__name__}: {error}"
            raise PointsmanError(f"the router {self.name!r} cannot be loaded: {said}") from error
        decision = await self.router.decide(read("hello"), policies=_PROBE)
        if decision.reason in (Reason.ROUTER_FAILED, Reason.TIMEOUT):
            raise PointsmanError(f"the router {self.name!r} cannot decide ({decision.reason.value}); the log says more")
        return f"{decision.router} from {self.min_confidence:g}" if self.min_confidence else decision.router


_Make = Callable[[Path | None, Dataset, int], Scorer]


def _encoder(folder: Path | None, _data: Dataset, threads: int) -> Scorer:
    from pointsman.routers.encoder import Encoder  # noqa: PLC0415 - onnxruntime costs 40 MiB; only who routes pays

    return Encoder.load(folder, threads=threads)


def _cosine(reads: str, *, examples: bool = False) -> _Make:
    def make(folder: Path | None, _data: Dataset, threads: int) -> Scorer:
        from pointsman.evals import baselines  # noqa: PLC0415
        from pointsman.routers.encoder import Encoder  # noqa: PLC0415

        read = {"last": baselines.last_turn, "all": baselines.all_turns}[reads]
        name = "nearest-example" if examples else f"cosine-{reads}"
        return baselines.Cosine(Encoder.load(folder, threads=threads), read, name=name, examples=examples)

    return make


def _most_frequent(_folder: Path | None, data: Dataset, _threads: int) -> Scorer:
    from pointsman.evals.baselines import MostFrequent  # noqa: PLC0415

    labels = [label.policy for source in data.sources for example in source.examples for label in example.turns]
    policies = Counter(policy for policy in labels if policy is not None)
    domains = Counter(policy.partition(".")[0] for policy in labels if policy is not None and "." in policy)
    return MostFrequent(policies + domains)


def _word_overlap(_folder: Path | None, _data: Dataset, _threads: int) -> Scorer:
    from pointsman.evals.baselines import WordOverlap  # noqa: PLC0415

    return WordOverlap()


_MAKERS: Mapping[str, _Make] = {
    "encoder": _encoder,
    "most-frequent": _most_frequent,
    "word-overlap": _word_overlap,
    "cosine-last": _cosine("last"),
    "cosine-all": _cosine("all"),
    "nearest-example": _cosine("last", examples=True),
}


def find(name: str, data: Dataset, *, config: Config | None = None, threads: int = 1) -> Contender:
    """The contender of that name. Raises PointsmanError if there is none; loading happens when it is first used."""
    if name == "configured":
        if config is None:
            raise PointsmanError("the router 'configured' is a policy file's; give one with -c")
        routing = msgspec.structs.replace(config.routing, deadline=DEADLINE)
        built = router.build(msgspec.structs.replace(config, routing=routing), threads=threads)
        return Contender(name=name, router=built, min_confidence=routing.min_confidence)
    kind, _, folder = name.partition("@")
    if kind in _MAKERS:
        make = _MAKERS[kind]
        return _contender(name, lambda: make(Path(folder) if folder else None, data, threads))
    if ":" in name:
        return _contender(name, _outside(name))
    known = ", ".join([*_MAKERS, "configured"])
    raise PointsmanError(f"there is no router {name!r}; there are {known}, or write FILE.py:NAME for your own")


def _contender(name: str, load: Callable[[], Scorer]) -> Contender:
    made = Router(load, policies=_PROBE, default=(DEFAULT,), deadline=DEADLINE)
    return Contender(name=name, router=made)


def _outside(name: str) -> Callable[[], Scorer]:
    """The factory at `FILE.py:NAME` or `module:NAME`. Raises PointsmanError."""
    place, _, attribute = name.rpartition(":")
    try:
        made = getattr(_module(place), attribute)
    except Exception as error:  # its own code runs, and may raise anything
        raise PointsmanError(f"the router {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(made):
        raise PointsmanError(f"the router {name!r} cannot be made: {attribute} is nothing that can be called")
    return cast("Callable[[], Scorer]", made)


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place)
    # As if it were run: it may import its neighbours, and its classes look their module up.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(place)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
