"""What the front answers, held against OpenAI's own description of its API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.http.gateway import Gateway, RawClient, chat
from tests.http.scripted_router import KEY
from tests.http.test_sse import events_of
from tests.openai_spec import validator

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
MEMBERS: list[dict[str, Any]] = [{}, {"tools": TOOLS}, {"stream_options": {"include_usage": True}}]


@pytest.mark.parametrize("members", MEMBERS[:2], ids=["text", "tools"])
async def test_a_completion(gateway: Gateway, members: dict[str, Any]) -> None:
    schema = validator("CreateChatCompletionResponse")
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(**members))
        answer = await client.answer()
    assert answer.status == 200
    schema.validate(answer.json())


@pytest.mark.parametrize("members", MEMBERS, ids=["text", "tools", "usage"])
async def test_each_chunk_of_a_stream(gateway: Gateway, members: dict[str, Any]) -> None:
    schema = validator("CreateChatCompletionStreamResponse")
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(stream=True, **members))
        *chunks, done = events_of((await client.answer()).body)
    assert done == b"[DONE]"
    assert chunks
    for chunk in chunks:
        schema.validate(msgspec.json.decode(chunk))


@pytest.mark.parametrize(
    ("path", "name"),
    [("/v1/models", "ListModelsResponse"), ("/v1/models/gpt-4o", "Model"), ("/v1/models/nope", "ErrorResponse")],
)
async def test_models_and_errors(gateway: Gateway, path: str, name: str) -> None:
    schema = validator(name)
    async with RawClient.connected(gateway.port) as client:
        await client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
        schema.validate((await client.answer()).json())
