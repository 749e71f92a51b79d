"""OpenAI chat completions: a request read and rewritten, errors and lists written. Knows no HTTP and no config.

Source: the OpenAI API reference, `POST /v1/chat/completions`. Only what routing needs is typed; the rest stays bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

import msgspec

from pointsman.conversation import Conversation, read
from pointsman.dialects.splice import Body
from pointsman.errors import BadAnswer, RequestError

# Fields of ours in the body; a provider never sees them.
OWN_FIELDS = ("policies",)


class Call:
    """A parsed request. Raises RequestError if it is none."""

    def __init__(self, data: bytes) -> None:
        self._body = Body(data)
        model = self._body.get("model")
        if model is not None and not isinstance(model, str):
            raise RequestError("`model` must be text", param="model")
        self.model = model
        """The model as the caller wrote it; None if there is none."""
        self.stream = self._body.get("stream") is True

    @cached_property
    def conversation(self) -> Conversation:
        return read(self._body.get("messages"))

    @property
    def policies(self) -> object | None:
        """The inline policies, decoded but not checked; None if the body has none."""
        return self._body.get("policies")

    def forwarded(self, model: str) -> bytes:
        """The body for a provider: `model` as it names the model, without our fields, the rest untouched."""
        return self._body.rewritten(replace={"model": model}, remove=OWN_FIELDS)


class _Answer(msgspec.Struct):
    """What tells an answer from something else that came with a 200."""

    error: msgspec.Raw = msgspec.Raw(b"null")


_ANSWER = msgspec.json.Decoder(_Answer)


def check_answer(body: bytes) -> None:
    """Raises BadAnswer if a whole, non-streaming 200 body is not an answer."""
    if not body.strip():
        raise BadAnswer("the answer is empty")
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("the answer is not a JSON object") from None
    if bytes(answer.error) != b"null":
        raise BadAnswer("the answer is an error with status 200")


class _Complaint(msgspec.Struct):
    """Where other servers put what they have to say: FastAPI, older vLLM."""

    message: str | None = None
    detail: str | None = None


_COMPLAINT = msgspec.json.Decoder(_Complaint)


def is_error(body: bytes) -> bool:
    """Whether a body is an error as the OpenAI API writes them: an object with `error` in it."""
    try:
        return bytes(_ANSWER.decode(body).error) != b"null"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def complaint(body: bytes) -> str:
    """What a refusal of another shape says, shortened; empty if that cannot be told."""
    try:
        found = _COMPLAINT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return (found.message or found.detail or "")[:500]


_STREAMED_ERROR = re.compile(rb'\s*(?:data:\s*)?\{\s*"error"\s*:\s*[^n\s]')


def check_stream(content_type: str, first: bytes) -> None:
    """Raises BadAnswer if what a 200 begins with is no stream. `first` is its first chunk, empty at the end.

    A plain JSON answer passes: there are servers that do not stream, and SDKs read what they send.
    """
    if not first:
        raise BadAnswer("the stream is empty")
    if content_type.lower().startswith("text/html"):
        raise BadAnswer("the answer is a web page")
    if _STREAMED_ERROR.match(first):
        raise BadAnswer("the stream begins with an error")


def error(message: str, *, status: int, code: str, param: str | None = None) -> bytes:
    """An error body as the OpenAI API writes them."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def error_event(message: str, *, code: str) -> bytes:
    """An error in the middle of a stream; what SDKs raise on. The blank line first ends an event that was cut short."""
    return b"\n\ndata: " + error(message, status=502, code=code) + b"\n\n"


def models(names: Iterable[str]) -> bytes:
    """The answer of `GET /v1/models`."""
    return msgspec.json.encode({"object": "list", "data": [_model(name) for name in names]})


def model(name: str) -> bytes:
    """The answer of `GET /v1/models/{model}`."""
    return msgspec.json.encode(_model(name))


def _model(name: str) -> dict[str, object]:
    provider = name.partition("/")[0] if "/" in name else "pointsman"
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}
