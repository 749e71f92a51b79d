"""The official openai SDK as a client of the real gateway over a real socket; the providers are fakes."""

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from pointsman.testing import FakeRouter, FakeUpstream, Status, Text, ToolCall, gateway

POLICIES = """
version: 1
providers:
  fake: {{base_url: "{url}", key: "${{KEY}}"}}
default: fake/small
aliases: {{best: fake/large}}
policies:
  legal:
    description: Contracts and the law.
    models: [fake/lawyer, fake/spare]
    actions:
      summarization:
        description: Shorten a legal document.
        models: [fake/writer]
  code:
    description: Write programs.
    models: [fake/coder]
"""
WORDS = {"shorten": "legal.summarization", "contract": "legal", "program": "code"}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def client(upstream: FakeUpstream) -> AsyncIterator[AsyncOpenAI]:
    policies = POLICIES.format(url=upstream.url)
    async with (
        gateway(policies, env={"KEY": "sk-provider-key"}, router=FakeRouter(WORDS)) as url,
        AsyncOpenAI(base_url=url, api_key="sk-caller-key", max_retries=0) as made,
    ):
        yield made


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_a_call_goes_to_the_model_of_its_policy(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    reply = await client.chat.completions.create(model="auto", messages=said("please shorten this"))
    assert reply.choices[0].message.content == "This is writer speaking."
    assert [call.model for call in upstream.calls] == ["writer"]
    assert upstream.calls[0].headers["authorization"] == "Bearer sk-provider-key"


async def test_the_headers_tell_how_it_was_decided(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="auto", messages=said("a contract"))
    marks = {name.removeprefix("x-pointsman-"): value for name, value in raw.headers.items() if "pointsman" in name}
    assert marks["policy"] == "legal"
    assert marks["model"] == "fake/lawyer"
    assert marks["reason"] == "matched"
    assert marks["confidence"] == "0.900"
    assert float(marks["decision-ms"]) >= 0
    assert len(marks["exchange"]) == 24
    assert len(marks["config"]) == 12


async def test_a_stream_comes_in_its_pieces(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="auto", messages=said("a program"), stream=True)
    pieces = [chunk.choices[0].delta.content async for chunk in stream]
    assert pieces == ["This ", "is ", "coder ", "speaking.", None]


async def test_tools_pass_both_ways(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.script("coder", ToolCall("run", '{"command": "ls"}'))
    tools = [{"type": "function", "function": {"name": "run", "parameters": {"type": "object", "properties": {}}}}]
    whole = await client.chat.completions.create(model="auto", messages=said("a program"), tools=tools)
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"command": "ls"}'
    assert upstream.calls[0].json["tools"] == tools

    stream = await client.chat.completions.create(model="auto", messages=said("a program"), tools=tools, stream=True)
    calls = [chunk.choices[0].delta.tool_calls or [] async for chunk in stream]
    assert "".join(part.function.arguments for parts in calls for part in parts) == '{"command": "ls"}'


async def test_an_agents_tool_loop_stays_with_its_user_turn(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    messages = [
        *said("a program that lists files"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "run", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "this contract is void; shorten it"},
    ]
    await client.chat.completions.create(model="auto", messages=messages)
    assert upstream.calls[0].model == "coder"
    assert upstream.calls[0].json["messages"] == messages


async def test_images_pass_untouched(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    parts = [
        {"type": "text", "text": "what contract is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}},
    ]
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": parts}]
    )
    assert raw.headers["x-pointsman-policy"] == "legal"
    assert upstream.calls[0].json["messages"][0]["content"] == parts


async def test_inline_policies_replace_the_files_for_one_call(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    inline = {"code": {"description": "Anything with programs.", "models": ["fake/inline"]}}
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=said("a program"), extra_body={"policies": inline}
    )
    assert raw.headers["x-pointsman-model"] == "fake/inline"
    assert "policies" not in upstream.calls[0].json
    again = await client.chat.completions.create(model="auto", messages=said("a program"))
    assert again.model == "coder"


async def test_wrong_inline_policies_are_named_one_by_one(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    inline = {"code": {"description": "", "models": ["nowhere/x"]}, "l.w": {"description": 3}}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="auto", messages=said("a program"), extra_body={"policies": inline})
    for part in (
        "policies.code.description: is empty",
        "unknown provider `nowhere`",
        "`l.w` cannot name a domain",
        "should be text",
    ):
        assert part in caught.value.message
    assert caught.value.param == "policies"
    assert upstream.calls == []


@pytest.mark.parametrize(("asked", "answered"), [("best", "large"), ("fake/anything-new", "anything-new")])
async def test_a_model_can_be_pinned(client: AsyncOpenAI, asked: str, answered: str) -> None:
    raw = await client.chat.completions.with_raw_response.create(model=asked, messages=said("a contract"))
    assert raw.headers["x-pointsman-reason"] == "pinned"
    assert "x-pointsman-policy" not in raw.headers
    assert raw.parse().model == answered


async def test_an_unknown_model_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="GET /v1/models lists them"):
        await client.chat.completions.create(model="gpt-99", messages=said("hello"))


async def test_the_models_are_listed(client: AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert listed == [
        "auto",
        "best",
        "fake/lawyer",
        "fake/spare",
        "fake/writer",
        "fake/coder",
        "fake/small",
        "fake/large",
    ]
    assert (await client.models.retrieve("fake/coder")).owned_by == "fake"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("fake/nobody")


async def test_the_next_model_answers_when_the_first_refuses(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.script("lawyer", Status(503))
    raw = await client.chat.completions.with_raw_response.create(model="auto", messages=said("a contract"))
    assert raw.headers["x-pointsman-model"] == "fake/spare"
    assert raw.headers["x-pointsman-policy"] == "legal"


async def test_a_refusal_of_every_model_keeps_its_status_and_retry_after(
    client: AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.script("coder", Status(429, {"retry-after": "7"}))
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="auto", messages=said("a program"))
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.response.headers["x-pointsman-policy"] == "code"


async def test_a_stream_that_breaks_off_raises_in_the_sdk(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.script("coder", Text("one two three four", end="reset", after=2))
    stream = await client.chat.completions.create(model="auto", messages=said("a program"), stream=True)
    seen = []
    with pytest.raises(openai.APIError, match="fake/coder"):
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before the error counts
    assert seen == ["one ", "two "]


async def test_a_gateway_with_keys_asks_for_one(upstream: FakeUpstream) -> None:
    policies = POLICIES.format(url=upstream.url) + 'gateway: {keys: ["${OURS}"]}\n'
    env = {"KEY": "sk-provider-key", "OURS": "sk-ours"}
    async with gateway(policies, env=env, router=FakeRouter(WORDS)) as url:
        async with AsyncOpenAI(base_url=url, api_key="sk-wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.chat.completions.create(model="auto", messages=said("hello"))
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()
        assert upstream.calls == []
        async with AsyncOpenAI(base_url=url, api_key="sk-ours", max_retries=0) as friend:
            assert (await friend.chat.completions.create(model="auto", messages=said("hello"))).model == "small"
    assert "sk-ours" not in str(upstream.calls[0].headers)


async def test_route_gives_the_decision_alone(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    decision = await client.post("/route", body={"messages": said("a contract")}, cast_to=dict[str, object])
    assert decision["policy"] == "legal"
    assert decision["fallbacks"] == ["fake/spare"]
    assert [score["policy"] for score in decision["scores"]] == ["legal", "legal.summarization", "code"]
    assert upstream.calls == []
