"""The official OpenAI SDK against a gateway. The fixtures `base_url`, `api_key` and `sdk_models` say which one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.http.conftest import SdkModels

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say three short words"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Weather(BaseModel):
    """The schema of the structured answers."""

    city: str
    degrees: int


def needed(model: str | None) -> str:
    """Return the model's name, or skip when the gateway under test has none that behaves so."""
    if model is None:
        pytest.skip("this gateway has no model that does that")
    return model


@pytest.fixture
async def client(base_url: str, api_key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """Yield the SDK's client, without its retries."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=20) as client:
        yield client


async def test_create(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    completion = await client.chat.completions.create(model=sdk_models.chat, messages=QUESTION)
    (choice,) = completion.choices
    assert choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert completion.object == "chat.completion"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion._request_id


async def test_create_streamed(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    whole = await client.chat.completions.create(model=sdk_models.chat, messages=QUESTION)
    stream = await client.chat.completions.create(model=sdk_models.chat, messages=QUESTION, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]


async def test_create_streamed_with_usage(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    stream = await client.chat.completions.create(
        model=sdk_models.chat, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens > 0
    assert all(chunk.usage is None for chunk in chunks)


async def test_stream_helper(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    async with client.chat.completions.stream(model=sdk_models.chat, messages=QUESTION) as stream:
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()
    assert "content.delta" in kinds
    assert kinds.count("content.done") == 1
    assert completion.choices[0].message.content
    assert completion.choices[0].message.role == "assistant"


async def test_tools(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    model = needed(sdk_models.tools)
    completion = await client.chat.completions.create(model=model, messages=QUESTION, tools=[WEATHER])
    message = completion.choices[0].message
    assert completion.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    history: list[ChatCompletionMessageParam] = [
        *QUESTION,
        {"role": "assistant", "tool_calls": [_as_param(tool_call) for tool_call in message.tool_calls]},
        {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'},
    ]
    final = await client.chat.completions.create(model=model, messages=history, tools=[WEATHER])
    assert final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def _as_param(call: Any) -> Any:
    return call.model_dump()


async def test_tools_with_the_stream_helper(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    model = needed(sdk_models.tools)
    async with client.chat.completions.stream(model=model, messages=QUESTION, tools=[WEATHER]) as stream:
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"
    assert isinstance(call.function.parsed_arguments, dict)


async def test_parse_with_a_json_schema(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    model = needed(sdk_models.schema)
    completion = await client.chat.completions.parse(model=model, messages=QUESTION, response_format=Weather)
    assert isinstance(completion.choices[0].message.parsed, Weather)


async def test_stream_helper_with_a_json_schema(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    model = needed(sdk_models.schema)
    async with client.chat.completions.stream(model=model, messages=QUESTION, response_format=Weather) as stream:
        completion = await stream.get_final_completion()
    assert isinstance(completion.choices[0].message.parsed, Weather)


async def test_raw_response_headers(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=sdk_models.chat, messages=QUESTION, extra_headers={"x-request-id": "sdk-test-1"}
    )
    assert raw.headers["x-request-id"] == "sdk-test-1"
    assert raw.headers["x-trunkline-attempts"] == "1"
    assert raw.headers["x-trunkline-provider"]
    assert raw.headers["x-trunkline-deployment"]
    assert raw.parse().choices[0].message.content


async def test_streaming_response_headers(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    async with client.chat.completions.with_streaming_response.create(
        model=sdk_models.chat, messages=QUESTION, stream=True
    ) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-trunkline-provider"]
        lines = [line async for line in response.iter_lines()]
    assert "data: [DONE]" in lines


async def test_models(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    listed = [model.id async for model in client.models.list()]
    assert listed == sorted(listed)
    found = await client.models.retrieve(sdk_models.chat)
    assert found.id == sdk_models.chat
    assert found.object == "model"


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_unknown_model_raises_not_found(
    client: openai.AsyncOpenAI, sdk_models: SdkModels, stream: bool
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model=sdk_models.unknown, messages=QUESTION, stream=stream)
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


async def test_a_wrong_key_raises_authentication_error(base_url: str, sdk_models: SdkModels) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-wrong", max_retries=2) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model=sdk_models.chat, messages=QUESTION)
    assert caught.value.code == "invalid_api_key"
    assert "sk-wrong" not in str(caught.value)


async def test_a_bad_request_names_the_member(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=sdk_models.chat, messages=QUESTION, extra_body={"messages": 7})
    assert caught.value.param == "messages"


async def test_a_rate_limit_raises_its_class(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model=needed(sdk_models.rate_limited), messages=QUESTION)
    assert caught.value.type == "rate_limit_error"


async def test_an_overloaded_upstream_raises_a_status_error(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model=needed(sdk_models.overloaded), messages=QUESTION)
    assert caught.value.status_code == 503


async def test_a_stream_that_breaks_raises_after_its_content(client: openai.AsyncOpenAI, sdk_models: SdkModels) -> None:
    stream = await client.chat.completions.create(
        model=needed(sdk_models.breaks_midstream), messages=QUESTION, stream=True
    )
    assert (await anext(stream)).choices
    with pytest.raises(openai.APIError) as caught:
        [chunk async for chunk in stream]
    assert caught.value.code == "stream_truncated"
