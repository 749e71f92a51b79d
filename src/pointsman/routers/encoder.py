"""The embedded router: a small sentence encoder in process, cosine to every policy, a calibrated probability.

A conversation is laid out as one text, its newest turn first and what was said before behind it (`Reader`), and
becomes one unit vector and the height that a cosine must reach to mean anything at all ("none"). Each text of a policy
becomes one vector too. The cosines, through a softmax, say which policy, and a logistic says whether any. Why it is
made so, and what else was tried: docs/decisions/0009-one-text-a-conversation.md.

The weights, and every constant fixed for them, are one folder (`Card`). Knows nothing of how they were made, of
models, or of decisions. onnxruntime and tokenizers are imported here and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
from tokenizers import Tokenizer

from pointsman.conversation import Conversation, Turn, trim, window
from pointsman.decision import PolicyScore, Scores
from pointsman.errors import RouterError, WeightsError
from pointsman.policy import Policy, PolicySet

_T = TypeVar("_T")
Floats: TypeAlias = npt.NDArray[np.float32]

WEIGHTS = Path(__file__).parent / "weights" / "minilm-l6-v2-pm1"

MOST_TURNS = 32
"""No more turns than these are looked at: a turn takes at least a handful of the tokens that there are."""


class Reading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is read. Whatever is longer than its budget of tokens is trimmed in the middle."""

    user: int
    """Tokens of the newest user turn, or of an example."""
    before: int
    """Tokens of what was said before it, all together: newest first, and a turn that does not fit ends it,"""
    before_user: int
    """a user turn cut to so many of them first,"""
    before_assistant: int
    """and an assistant turn to so many."""
    policy: int
    """Tokens of a policy's text."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How cosines become probabilities.

    Among themselves the policies share by softmax(cosine / temperature). Above them stands
    P(other) = sigmoid(bias - evidence * e + height * h - doubt * ln b): e is the best policy's cosine, h the height
    that the network gives for "none", and b the best policy's share, for a request that resembles many policies alike
    is often none of theirs.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0.001)]
    bias: float
    evidence: float
    height: float
    doubt: float


FORMAT = 2
"""Of the folder: which inputs and outputs the graph has, and what the card says. Another one is refused."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes with a weights file: where it is from, what it must be, and the constants that were fixed for it."""

    format: int = FORMAT
    name: str
    base: str
    licence: str
    source: str
    """Where the weights that training began with are from."""
    training: str
    data: str = ""
    """A digest of everything that they were trained on; README.md in the folder says more."""
    dimension: int
    max_tokens: int
    """The longest input that the weights take, the special tokens included."""
    policy_texts: tuple[str, ...]
    """Templates of `{id}`, `{name}` (the id's last part) and `{description}`. A policy's vector is their mean."""
    reading: Reading
    calibration: Calibration
    sha256: dict[str, str]
    """Digest of each file of the folder, by file name."""


class CalibrationFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `pointsman calibrate` writes: a calibration of one's own, for these weights."""

    weights: str
    """sha256 of the `encoder.onnx` that it was fitted for."""
    calibration: Calibration


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids as the network takes them. The first `newest` are the turn that is asked; the rest was said before."""

    ids: list[int]
    newest: int


class Reader:
    """Conversations and policies to token ids, cut to the card's budgets. Serving and training both read with it.

    Raises WeightsError if the tokenizer is not of the BERT family.

    `[CLS] newest turn [SEP]`, then for each turn before, the newest of them first, `role: text [SEP]`. The newest turn
    comes first so that it stands where a lone text does, and so that what does not fit is what is oldest.
    """

    def __init__(self, tokenizer: Tokenizer, card: Card) -> None:
        self._tokenizer = tokenizer
        self._card = card
        self._start, self._end = (self._special(name) for name in ("[CLS]", "[SEP]"))
        self._roles = {role: self._ids(f"{role}:") for role in ("user", "assistant")}

    def text(self, text: str, budget: int) -> Text:
        """A text that stands alone."""
        ids = [self._start, *self._cut(text, min(budget, self._card.max_tokens - 2)), self._end]
        return Text(ids=ids, newest=len(ids))

    def policy(self, text: str) -> Text:
        """A text of a policy."""
        return self.text(text, self._card.reading.policy)

    def conversation(self, turns: Sequence[Turn]) -> Text:
        """A conversation whose last turn is the one asked."""
        reading = self._card.reading
        newest = self.text(turns[-1].text, reading.user)
        before: list[int] = []
        left = min(reading.before, self._card.max_tokens - newest.newest)
        for turn in reversed(turns[:-1]):
            role = "user" if turn.role == "user" else "assistant"
            budget = reading.before_user if role == "user" else reading.before_assistant
            part = [*self._roles[role], *self._cut(turn.text, budget), self._end]
            if len(part) > left:
                break
            before += part
            left -= len(part)
        return Text(ids=newest.ids + before, newest=newest.newest)

    def offsets(self, text: str) -> Sequence[tuple[int, int]]:
        """The (start, end) of each token in `text`, special tokens left out: what `conversation.trim` asks for."""
        return self._tokenizer.encode(_encodable(text), add_special_tokens=False).offsets

    def _cut(self, text: str, budget: int) -> list[int]:
        # Trimming is by characters, and a cut text may tokenise into a few more than it was cut to.
        return self._ids(trim(_encodable(text), budget, self.offsets))[:budget]

    def _special(self, name: str) -> int:
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise WeightsError(f"the tokenizer has no {name}, so it is not one of the BERT family")
        return found

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


class _Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """A policy set as vectors: [policies, d], and per policy its description's and its examples' [1 + examples, d]."""

    ids: tuple[str, ...]
    vectors: Floats
    examples: dict[int, tuple[tuple[str, ...], Floats]]


class Encoder:
    """A `Scorer` on the CPU. Make it with `load`; safe to share among threads.

    The same conversation and policy set give bit-identical scores on one machine, whatever was asked before: every
    text is encoded in a run of its own, since dynamic int8 quantisation takes one scale per run and texts in a batch
    would shift each other's vectors.
    """

    def __init__(
        self,
        *,
        card: Card,
        tokenizer: Tokenizer,
        session: onnxruntime.InferenceSession,
        calibration: Calibration | None = None,
    ) -> None:
        self.card = card
        self.calibration = card.calibration if calibration is None else calibration
        self.id = f"encoder/{card.name}@{card.sha256['encoder.onnx'][:8]}"
        if self.calibration != card.calibration:
            self.id += f"+{hashlib.sha256(msgspec.json.encode(self.calibration)).hexdigest()[:6]}"
        self._reader = Reader(tokenizer, card)
        self._session = session
        # A vector of 384 floats with its key takes about 1.8 kB, so at most 15 MB each. Policies have their own, lest
        # busy traffic push them out. Conversations' keys are digests: no conversation's text is kept.
        self._conversations = _Lru[tuple[Floats, float]](8192)
        self._texts = _Lru[Floats](8192)
        # 500 policies are 0.8 MB; inline policies make a set per caller.
        self._sets = _Lru[_Compiled](64)
        # One worker: decisions of several calls queue up instead of fighting for the core that the gateway needs.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="pointsman-encoder")

    @classmethod
    def load(cls, folder: Path | None = None, *, calibration: Path | None = None, threads: int = 1) -> Encoder:
        """The encoder in `folder` (default: the one that ships), its files checked against its card. 0.1 s.

        `calibration` is a file of `pointsman calibrate`, if not the card's own is wanted. `threads` is how many cores
        one encoding may use. Raises WeightsError.
        """
        folder = folder or WEIGHTS
        card = read_card(folder)
        files = {name: _file(folder, name, card) for name in ("encoder.onnx", "tokenizer.json")}
        options = cast("Any", onnxruntime).SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Without this a waiting thread burns its core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
            session = onnxruntime.InferenceSession(files["encoder.onnx"], options, providers=["CPUExecutionProvider"])
            taken = {each.name for each in cast("Any", session).get_inputs()}
        except Exception as error:  # both libraries raise bare Exception classes of their own
            raise WeightsError(f"{folder}: onnxruntime or tokenizers cannot read the weights; {_MEND}") from error
        if taken != {"ids", "newest"}:
            raise WeightsError(f"{folder}: encoder.onnx takes {', '.join(sorted(taken))}, not ids and newest; {_MEND}")
        fixed = _calibration(calibration, card) if calibration else None
        return cls(card=card, tokenizer=tokenizer, session=session, calibration=fixed)

    async def prepare(self, policies: PolicySet) -> None:
        """Encode a policy set ahead of the first conversation: 6 ms a policy, once. Raises RouterError."""
        if policies.digest not in self._sets:
            # Text by text, so that other calls' decisions come in between, and a cancelled call's set stops here; what
            # was encoded is kept, and the next call goes on from there.
            for policy in policies:
                await self._work(self._description, policy)
                for example in policy.examples:
                    await self._work(self._example, example)
        await self._work(self._compile, policies)

    async def score(self, conversation: Conversation, policies: PolicySet) -> Scores:
        """`scores`, on the encoder's own thread. A call that is cancelled while it waits its turn never runs."""
        if policies.digest not in self._sets:
            await self.prepare(policies)
        return await self._work(self.scores, conversation, policies)

    async def close(self) -> None:
        """Stop the thread; calls that wait are cancelled. Nothing may be asked afterwards."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def scores(self, conversation: Conversation, policies: PolicySet) -> Scores:
        """A probability for every policy, in order, and for none of them; `score` is the cosine in [-1, 1].

        If nobody has said anything, all of it is on "none". Raises RouterError.
        """
        turns = window(conversation, MOST_TURNS)
        if not turns or not policies:
            nothing = tuple(PolicyScore(policy=id, score=0.0, probability=0.0) for id in policies.ids)
            return Scores(policies=nothing, other=1.0)
        compiled = self._compile(policies)
        vector, none = self._conversation(turns)
        scores = compiled.vectors @ vector
        shares, other = probabilities(scores, none, self.calibration)
        if not (np.isfinite(shares).all() and math.isfinite(other)):
            raise RouterError("the encoder gave a number that is none")
        return Scores(
            policies=tuple(
                PolicyScore(policy=id, score=float(score), probability=float(share), example=example)
                for id, score, share, example in zip(
                    compiled.ids, scores, shares, _nearest(compiled, vector), strict=True
                )
            ),
            other=other,
        )

    def reading(self, conversation: Conversation, policies: PolicySet) -> tuple[Floats, float] | None:
        """What `scores` makes probabilities of: each policy's cosine, float32 [policies], and the height of "none".

        None if nobody has said anything, or nothing is on offer. Raises RouterError.
        """
        turns = window(conversation, MOST_TURNS)
        if not turns or not policies:
            return None
        vector, none = self._conversation(turns)
        return self._compile(policies).vectors @ vector, none

    def embed(self, text: str) -> Floats:
        """A text's unit vector, float32 [d], read as it stands up to the weights' `max_tokens`. Raises RouterError."""
        return self._text(text, self.card.max_tokens)

    def offsets(self, text: str) -> Sequence[tuple[int, int]]:
        """The (start, end) of each token in `text`, special tokens left out: what `conversation.trim` asks for."""
        return self._reader.offsets(text)

    def _compile(self, policies: PolicySet) -> _Compiled:
        return self._sets.get(policies.digest, lambda: self._compile_anew(policies))

    def _compile_anew(self, policies: PolicySet) -> _Compiled:
        """One vector a policy: its description's, plus its examples' mean, which k of them let count k / (k + 1).

        That beat a plain mean, the nearest example and a ridge on top (docs/lab/LOG.md): a single example misleads.
        """
        vectors: list[Floats] = []
        examples: dict[int, tuple[tuple[str, ...], Floats]] = {}
        for at, policy in enumerate(policies):
            vector = self._description(policy)
            if policy.examples:
                shown = np.stack([self._example(text) for text in policy.examples])
                examples[at] = policy.examples, np.concatenate([vector[None], shown])
                vector = _unit(vector + len(shown) / (len(shown) + 1) * _unit(shown.sum(axis=0)))
            vectors.append(vector)
        return _Compiled(ids=policies.ids, vectors=np.stack(vectors), examples=examples)

    def _description(self, policy: Policy) -> Floats:
        texts = policy_texts(policy, self.card)
        return _unit(np.sum([self._text(text, self.card.reading.policy) for text in texts], axis=0))

    def _example(self, text: str) -> Floats:
        return self._text(text, self.card.reading.user)

    def _text(self, text: str, budget: int) -> Floats:
        """A lone text's vector. The key is the text's digest: trimming costs more than hashing, and memory less."""
        return self._texts.get((_digest(text), budget), lambda: self._encode(self._reader.text(text, budget))[0])

    def _conversation(self, turns: Sequence[Turn]) -> tuple[Floats, float]:
        # With lengths, so that no text can be written that reads like several turns.
        key = _digest("".join(f"{turn.role} {len(turn.text)} {turn.text}" for turn in turns))
        return self._conversations.get(key, lambda: self._encode(self._reader.conversation(turns)))

    def _encode(self, text: Text) -> tuple[Floats, float]:
        """Unit vector, float32 [d], and the height of "none": one run, no padding."""
        given = {"ids": np.asarray([text.ids], dtype=np.int64), "newest": np.asarray(text.newest, dtype=np.int64)}
        try:
            vectors, none = cast("Any", self._session).run(["vector", "none"], given)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise RouterError("onnxruntime could not encode a text") from error
        vector, height = cast("Floats", vectors)[0], float(none[0])
        if not (np.isfinite(vector).all() and math.isfinite(height)):
            raise RouterError("the encoder gave a number that is none")
        return vector, height

    async def _work(self, function: Callable[..., _T], *arguments: object) -> _T:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)
        except RuntimeError as error:  # ThreadPoolExecutor's word for "shut down"
            raise RouterError("the encoder is closed") from error
        return await future


def probabilities(cosines: Floats, none: float, fixed: Calibration) -> tuple[npt.NDArray[np.float64], float]:
    """Each policy's probability, float64 [policies], and that of none of them. The one place where they are made.

    `cosines` are the policies', float32 [policies], at least one; `none` is the height that the network gives.
    """
    best = float(cosines.max())
    shares = np.exp((cosines.astype(np.float64) - best) / fixed.temperature)
    shares /= shares.sum()
    logit = fixed.bias - fixed.evidence * best + fixed.height * none - fixed.doubt * math.log(shares.max())
    other = 0.5 * (1.0 + math.tanh(logit / 2))  # the logistic function, which does not overflow
    return shares * (1.0 - other), other


def policy_texts(policy: Policy, card: Card) -> list[str]:
    """The texts whose mean vector is the policy's: the card's templates, filled in. Training draws from them."""
    name = policy.action or policy.domain
    fields = {"{id}": _words(policy.id), "{name}": _words(name), "{description}": policy.description}
    return [_fill(template, fields) for template in card.policy_texts]


class _Lru(Generic[_T]):
    """The newest `size` values by key. Two threads may make the same value; they make it alike."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, _T] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            self._kept[key] = value
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value


_MEND = "get the folder again (reinstall pointsman for the one that ships), or make it anew with `pointsman train`"


class _Format(msgspec.Struct):
    format: int = 1


def read_card(folder: Path) -> Card:
    """The card of a folder of weights. Raises WeightsError."""
    file = folder / "card.json"
    try:
        content = file.read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:
            said = f"{file} is of format {found}, and this version of pointsman reads {FORMAT}"
            raise WeightsError(f"{said}; train the weights anew with `pointsman train encoder`")
        return msgspec.json.decode(content, type=Card)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}; {_MEND}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} is not a card: {error}; {_MEND}") from error


def _calibration(file: Path, card: Card) -> Calibration:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=CalibrationFile)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} is no calibration: {error}; make it with `pointsman calibrate`") from error
    if found.weights != card.sha256.get("encoder.onnx"):
        mend = "leave it out, and run `pointsman calibrate` again"
        raise WeightsError(f"{file} was fitted for other weights than {card.name}; {mend}")
    return found.calibration


def _file(folder: Path, name: str, card: Card) -> bytes:
    """A file of the folder, if it is the one that the card describes."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise WeightsError(f"{folder / name} cannot be read: {error.strerror}; {_MEND}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256.get(name):
        raise WeightsError(f"{folder / name} is not the file that card.json describes (sha256 {found}); {_MEND}")
    return content


def _nearest(compiled: _Compiled, asked: Floats) -> list[str | None]:
    """For each policy the example that the conversation is nearest to, or None if its description is nearer."""
    found: list[str | None] = [None] * len(compiled.ids)
    for at, (texts, vectors) in compiled.examples.items():
        best = int((vectors @ asked).argmax())
        found[at] = texts[best - 1] if best else None
    return found


def _unit(vector: npt.NDArray[np.floating[Any]]) -> Floats:
    """`vector` at length one; zero stays zero."""
    length = float(np.linalg.norm(vector))
    return (vector / length if length else vector).astype(np.float32)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _words(id: str) -> str:
    """An id as people would say it."""
    return id.replace(".", " ").replace("_", " ").replace("-", " ")


def _fill(template: str, fields: dict[str, str]) -> str:
    """The template filled in; no `str.format`, which reads braces. `{description}` goes last and is not reread."""
    for field, value in sorted(fields.items(), key=lambda each: each[0] == "{description}"):
        template = template.replace(field, value)
    return template


def _encodable(text: str) -> str:
    """`text` with lone surrogates, which the tokenizer refuses, replaced one for one, so that offsets still hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
