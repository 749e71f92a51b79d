from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman.conversation import Conversation
from pointsman.dialects import openai_chat
from pointsman.dialects.openai_chat import Call, check_answer, check_stream
from pointsman.errors import BadAnswer, RequestError

# A busy machine is no finding.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


# Requests


@pytest.mark.parametrize("model", [7, True, ["auto"], {"name": "auto"}])
def test_a_model_that_is_no_text_is_refused(model: object) -> None:
    with pytest.raises(RequestError) as caught:
        Call(body(model=model))
    assert (caught.value.status, caught.value.param) == (400, "model")


@pytest.mark.parametrize(("model", "read"), [("auto", "auto"), ("", ""), (None, None)])
def test_the_model_is_what_the_caller_wrote(model: object, read: str | None) -> None:
    assert Call(body(model=model)).model == read
    assert Call(b"{}").model is None


@pytest.mark.parametrize(
    ("stream", "streams"), [(True, True), (False, False), (None, False), (1, False), ("true", False), ([], False)]
)
def test_only_true_asks_for_a_stream(stream: object, streams: bool) -> None:
    assert Call(body(stream=stream)).stream is streams


def test_half_a_character_is_read_and_goes_on_as_it_came() -> None:
    data = b'{"messages": [{"role": "user", "content": "half \\ud83d of it"}], "model": "auto"}'
    call = Call(data)
    assert call.conversation.turns[0].text == "half \ufffd of it"
    assert call.forwarded("m") == data.replace(b'"auto"', b'"m"')


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\ud83d", "\ufffd"),
        (r"\uDE82\uD83D", "\ufffd\ufffd"),
        (r"\ud83d\ude82", "🚂"),
        (r"\ud83d\ud83d\ude82", "\ufffd🚂"),
        (r"\\ud83d \ud83d", r"\ud83d" + " \ufffd"),
        (r"\"\ud83d\"", '"\ufffd"'),
    ],
)
def test_only_half_characters_are_marked(written: str, read: str) -> None:
    data = b'{"a\\ud83d": 1, "model": "%s", "b": "\\udE82"}' % written.encode()
    call = Call(data)
    assert call.model == read
    assert call.forwarded("m") == data.replace(b'"%s"' % written.encode(), b'"m"')


def test_messages_that_are_nested_without_end_are_refused_and_do_not_crash() -> None:
    for deep in (b"[" * 5_000, b'{"a":' * 5_000):
        close = (b"]" if deep.startswith(b"[") else b"}") * 5_000
        inside = b"0" if deep.startswith(b"{") else b""
        with pytest.raises(RequestError, match="deep"):
            assert Call(b'{"messages": ' + deep + inside + close + b"}").conversation is None


def test_numbers_keep_their_spelling() -> None:
    data = b'{"seed": 12345678901234567890123, "temperature": 1.0, "top_p": 1e-1, "model": "auto"}'
    assert Call(data).forwarded("m") == data.replace(b'"auto"', b'"m"')


def test_a_number_too_long_for_a_number_is_no_crash() -> None:
    assert Call(b'{"messages": [{"role": "user", "content": %s}]}' % (b"9" * 10_000)).forwarded("m")
    try:
        found = Call(b'{"messages": [{"role": "user", "content": %s}]}' % (b"9" * 10_000)).conversation
    except RequestError:
        return
    assert isinstance(found, Conversation)


@calm
@given(st.binary(max_size=60).map(lambda inside: b'{"messages":' + inside + b"}") | st.binary(max_size=60))
def test_any_bytes_are_a_call_or_a_request_error(data: bytes) -> None:
    with suppress(RequestError):
        call = Call(data)
        assert isinstance(call.conversation, Conversation)
        assert json.loads(call.forwarded("m"))["model"] == "m"


def test_inline_policies_are_read_and_never_forwarded() -> None:
    call = Call(b'{"policies": {"legal": {}}, "model": "auto"}')
    assert call.policies == {"legal": {}}
    assert call.forwarded("m") == b'{ "model": "m"}'


# Answers


@pytest.mark.parametrize(
    "answer",
    [b'{"choices": []}', b'{"error": null, "choices": [1]}', b" {}\n", b'{"usage": null}', b'{"errors": 1}'],
)
def test_an_object_without_an_error_is_an_answer(answer: bytes) -> None:
    check_answer(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"<html>", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"choices": [', "not a JSON object"),
        (b'{"a": 1} {"b": 2}', "not a JSON object"),
        (b'{"a": ' + b"[" * 100_000, "not a JSON object"),
        (b'{"error": "overloaded"}', "error with status 200"),
        (b'{"error": {"message": "x"}}', "error with status 200"),
        (b'{"\\u0065rror": {}}', "error with status 200"),
        (b'{"error": false}', "error with status 200"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_named_and_not_quoted(answer: bytes, said: str) -> None:
    with pytest.raises(BadAnswer, match=said):
        check_answer(answer)


@calm
@given(st.binary())
def test_any_bytes_are_an_answer_or_a_bad_one(answer: bytes) -> None:
    try:
        check_answer(answer)
        assert isinstance(json.loads(answer.decode(errors="replace")), dict)
    except BadAnswer:
        pass


@calm
@given(st.text(), st.binary())
def test_any_bytes_are_a_stream_or_a_bad_one(content_type: str, first: bytes) -> None:
    try:
        check_stream(content_type, first)
    except BadAnswer:
        assert not first.strip(b" \r\n\t") or b"error" in first or content_type.startswith("text/html")


SSE = "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    "first",
    [
        b'data: {"choices": []}\n\n',
        b": ping\n\n",
        b"\n",
        b'{"choices": []}',
        b'data: {"error": null, "choices": []}\n\n',
        b'data: {"id": "error", "choices": []}\n\n',
        b"d",
    ],
)
def test_what_may_become_a_stream_passes(first: bytes) -> None:
    check_stream(SSE, first)


@pytest.mark.parametrize(
    ("content_type", "first", "said"),
    [
        (SSE, b"", "empty"),
        ("text/html", b"<html>", "web page"),
        ("Text/HTML; charset=utf-8", b"<html>", "web page"),
        (SSE, b'data: {"error": {"message": "x"}}\n\n', "begins with an error"),
        (SSE, b'data:{"error":"x"}\n\n', "begins with an error"),
        (SSE, b'\r\n\r\ndata: { "error" : {} }\n\n', "begins with an error"),
        ("application/json", b'{"error": {"message": "x"}}', "begins with an error"),
    ],
)
def test_what_cannot_become_a_stream_is_refused(content_type: str, first: bytes, said: str) -> None:
    with pytest.raises(BadAnswer, match=said):
        check_stream(content_type, first)


# What we write ourselves


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
        (500, "server_error"),
        (504, "server_error"),
    ],
)
def test_an_error_is_written_as_the_api_writes_them(status: int, kind: str) -> None:
    written = json.loads(openai_chat.error('a "quoted"\nword', status=status, code="c", param="p"))
    assert written == {"error": {"message": 'a "quoted"\nword', "type": kind, "param": "p", "code": "c"}}


@calm
@given(st.text())
def test_an_error_event_is_one_event_whatever_it_says(message: str) -> None:
    event = openai_chat.error_event(message, code="c")
    before, said, after, end = event.split(b"\n\n")[0], event[2:-2], event[-2:], b""
    assert (before, after, end) == (b"", b"\n\n", b"")
    assert b"\n" not in said
    assert b"\r" not in said
    assert json.loads(said.removeprefix(b"data: "))["error"]["message"] == message


def test_the_model_list_names_who_owns_what() -> None:
    listed = json.loads(openai_chat.models(["auto", "fake/a/b"]))
    assert [(each["id"], each["owned_by"]) for each in listed["data"]] == [("auto", "pointsman"), ("fake/a/b", "fake")]
    assert json.loads(openai_chat.model("fake/a/b")) == listed["data"][1]
