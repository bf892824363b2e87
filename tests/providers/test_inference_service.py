"""InferenceService from the stub to a scripted upstream and back, over real sockets: what goes well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.providers.openai_upstream import CHUNKS, KEY, REPLY, STREAM, config_of, sse, text_of
from tests.providers.serving import chat_of, complete_request, error_of, local_channel, read_stream, stream_request
from tests.upstream import (
    ScriptedUpstream,
    chunked,
    json_answer,
    sse_answer,
    sse_head,
    whole_answer,
)
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.providers.v1 import inference_service_pb2 as pb
from trunkline.providers.v1 import inference_service_pb2_grpc as pb_grpc
from trunkline.reply import fold


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture
async def stub(upstream: ScriptedUpstream) -> AsyncIterator[pb_grpc.InferenceServiceAsyncStub]:
    async with local_channel(config_of(upstream)) as channel:
        yield pb_grpc.InferenceServiceStub(channel)


async def test_an_answer_in_one_piece(upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub) -> None:
    upstream.answer(json_answer(REPLY))
    chat = chat_of("Say hello.", temperature=0.5, seed=7, vendor_switch={"on": True})
    response = await stub.CompleteChat(complete_request(chat))
    reply = response.reply
    assert (reply.id, reply.model, reply.created_seconds) == ("chatcmpl-1", "m-1-0613", 1750000000)
    assert reply.choices[0].message.parts[0].text.text == "Hello, wörld."
    assert reply.choices[0].finish_reason == chat_pb2.FINISH_REASON_STOP
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (9, 3)
    request = upstream.requests[0]
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"] == "trunkline"
    assert request.json == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "Say hello."}],
        "temperature": 0.5,
        "seed": 7,
        "vendor_switch": {"on": True},
    }


async def test_a_streamed_answer(upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub) -> None:
    upstream.answer(*sse_answer(STREAM))
    events, error = await read_stream(stub, stream_request())
    assert error is None
    reply = fold(events)
    assert reply.choices[0].message.parts[0].text.text == "Hello, wörld."
    assert reply.choices[0].finish_reason == chat_pb2.FINISH_REASON_STOP
    assert reply.usage.total_tokens == 12
    assert upstream.requests[0].json["stream"] is True
    assert upstream.requests[0].json["stream_options"] == {"include_usage": True}


async def test_events_that_arrive_together_leave_together_and_none_waits_for_the_next(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    upstream.answer(
        sse_head(),
        chunked(sse(*CHUNKS[:1])),
        gates[0],
        chunked(sse(*CHUNKS[1:3])),
        gates[1],
        chunked(sse(CHUNKS[3])),
        chunked(sse(CHUNKS[4])[:-9]),
        gates[2],
        chunked(sse(CHUNKS[4])[-9:] + sse(b"[DONE]")),
        chunked(),
    )
    call = stub.StreamChat(stream_request())
    first = await call.read()
    assert isinstance(first, pb.StreamChatResponse)
    assert first.events[0].WhichOneof("event") == "started"
    gates[0].set()
    second = await call.read()
    assert isinstance(second, pb.StreamChatResponse)
    assert text_of(list(second.events)) == "Hello, wörld."
    gates[1].set()
    gates[2].set()
    rest: list[ChatEvent] = []
    async for message in call:
        rest += message.events
    assert rest[-1].WhichOneof("event") == "usage_reported"


async def test_the_end_does_not_wait_for_the_connection_and_the_connection_is_reused(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    gate = asyncio.Event()
    upstream.answer(sse_head(), *(chunked(sse(payload)) for payload in STREAM), gate, chunked())
    upstream.answer(json_answer(REPLY))
    _, error = await asyncio.wait_for(read_stream(stub, stream_request()), 1)
    assert error is None
    gate.set()
    await asyncio.sleep(0.05)
    await stub.CompleteChat(complete_request())
    assert len(upstream.connections) == 1


async def test_what_follows_the_terminal_event_is_not_read(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    upstream.answer(sse_head(), chunked(sse(*STREAM, b"not even JSON")), chunked())
    _, error = await read_stream(stub, stream_request())
    assert error is None


async def test_a_stream_cut_at_every_byte_of_its_text_reads_the_same(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    data = sse(*STREAM)
    for at in range(len(sse(*CHUNKS[:2])), len(sse(*CHUNKS[:3])), 3):
        upstream.answer(sse_head(), chunked(data[:at]), chunked(data[at:]), chunked())
        events, error = await read_stream(stub, stream_request())
        assert error is None
        assert text_of(events) == "Hello, wörld."


async def test_blank_lines_before_a_body_are_a_sign_of_life(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    head, _, body = json_answer(REPLY).partition(b"\r\n\r\n")
    head = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % (len(body) + 3))
    upstream.answer(head + b"\r\n\r\n", b"\n", b"\n", b"\n", body)
    response = await stub.CompleteChat(complete_request())
    assert response.reply.id == "chatcmpl-1"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "Application/JSON; charset=utf-8"])
async def test_a_stream_that_is_answered_in_one_piece_is_unfolded(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub, content_type: str
) -> None:
    upstream.answer(whole_answer(json.dumps(REPLY).encode(), content_type=content_type))
    events, error = await read_stream(stub, stream_request())
    assert error is None
    assert fold(events).usage.total_tokens == 12
    assert text_of(events) == "Hello, wörld."


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream"])
async def test_an_event_stream_under_another_type_is_read_as_one(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub, content_type: str
) -> None:
    upstream.answer(sse_head(headers={"content-type": content_type}), chunked(sse(*STREAM)), chunked())
    events, error = await read_stream(stub, stream_request())
    assert error is None
    assert text_of(events) == "Hello, wörld."


async def test_unknown_events_and_comments_are_passed_over(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    noise = b": keep-alive\n\nevent: ping\n\nid: 7\n\ndata:\n\n"
    upstream.answer(sse_head(), *(chunked(noise + sse(payload)) for payload in STREAM), chunked())
    events, error = await read_stream(stub, stream_request())
    assert error is None
    assert text_of(events) == "Hello, wörld."


async def test_a_stream_without_its_last_blank_line_is_complete(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    upstream.answer(sse_head(), chunked(sse(*STREAM).rstrip(b"\n")), chunked())
    _, error = await read_stream(stub, stream_request())
    assert error is None


async def test_an_unknown_provider_is_not_found(stub: pb_grpc.InferenceServiceAsyncStub) -> None:
    error = await error_of(stub.CompleteChat(complete_request(provider="nobody")))
    assert (error.name, error.metadata["resource"]) == ("RESOURCE_NOT_FOUND", "providers/nobody")


async def test_a_provider_without_its_credential_says_what_to_set(stub: pb_grpc.InferenceServiceAsyncStub) -> None:
    error = await error_of(stub.CompleteChat(complete_request(provider="groq")))
    assert error.name == "RESOURCE_NOT_FOUND"
    assert "GROQ_API_KEY" in error.message
    error = await error_of(stub.CompleteChat(complete_request(provider="openai_compatible")))
    assert "base_url" in error.message


async def test_a_request_without_a_model_is_invalid(stub: pb_grpc.InferenceServiceAsyncStub) -> None:
    error = await error_of(stub.CompleteChat(complete_request(model="")))
    assert (error.name, error.param) == ("INVALID_REQUEST", "target.model")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("provider", "members", "feature", "param"),
    [
        ("deepseek", {"response_format": SCHEMA}, "json_schema", "response_format"),
        ("deepseek", {"messages": [{"role": "user", "content": [IMAGE]}]}, "vision", "messages[0].content"),
        ("groq", {"messages": [{"role": "user", "content": [AUDIO]}]}, "audio_input", "messages[0].content"),
        ("groq", {"messages": [{"role": "user", "content": [FILE]}]}, "file_input", "messages[0].content"),
        ("groq", {"modalities": ["audio"], "audio": {"voice": "x", "format": "wav"}}, "audio_output", "modalities"),
    ],
)
async def test_what_a_provider_cannot_do_is_refused_by_name(
    upstream: ScriptedUpstream, provider: str, members: dict[str, Any], feature: str, param: str
) -> None:
    config = {provider: {"base_url": upstream.url, "api_key": KEY}}
    async with local_channel(config) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        error = await error_of(stub.CompleteChat(complete_request(chat_of(**members), provider)))
        _, stream_error = await read_stream(stub, stream_request(chat_of(**members), provider))
    assert stream_error is not None
    assert (error.name, error.metadata["feature"], error.param) == ("UNSUPPORTED_FEATURE", feature, param)
    assert (stream_error.name, stream_error.param) == (error.name, error.param)
    assert upstream.requests == []


async def test_an_openai_compatible_server_is_sent_everything(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    upstream.answer(json_answer(REPLY))
    await stub.CompleteChat(
        complete_request(chat_of(messages=[{"role": "user", "content": [IMAGE, AUDIO, FILE]}], response_format=SCHEMA))
    )
    assert upstream.requests[0].json["messages"][0]["content"] == [IMAGE, AUDIO, FILE]


async def test_warnings_reach_the_caller_in_both_forms(upstream: ScriptedUpstream) -> None:
    config = {"groq": {"base_url": upstream.url, "api_key": KEY}}
    upstream.answer(json_answer(REPLY))
    upstream.answer(*sse_answer(STREAM))
    upstream.answer(json_answer(REPLY))
    async with local_channel(config) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        chat = chat_of(logit_bias={"50256": -100})
        reply = (await stub.CompleteChat(complete_request(chat, "groq"))).reply
        assert [warning.param for warning in reply.warnings] == ["logit_bias"]
        for _ in range(2):
            events, error = await read_stream(stub, stream_request(chat, "groq"))
            assert error is None
            assert [warning.param for warning in fold(events).warnings] == ["logit_bias"]
    assert all("logit_bias" not in request.json for request in upstream.requests)


async def test_counting_tokens_where_the_format_cannot(stub: pb_grpc.InferenceServiceAsyncStub) -> None:
    request = pb.CountTokensRequest(chat=chat_of(), target=pb.Target(provider="acme", model="m"))
    error = await error_of(stub.CountTokens(request))
    assert (error.name, error.metadata["feature"]) == ("UNSUPPORTED_FEATURE", "count_tokens")


async def test_counting_tokens_with_anthropic(upstream: ScriptedUpstream) -> None:
    upstream.answer(json_answer({"input_tokens": 14}))
    async with local_channel({"anthropic": {"base_url": f"{upstream.url}/v1", "api_key": KEY}}) as channel:
        request = pb.CountTokensRequest(chat=chat_of(), target=pb.Target(provider="anthropic", model="claude-x"))
        response = await pb_grpc.InferenceServiceStub(channel).CountTokens(request)
    assert response.input_tokens == 14
    assert upstream.requests[0].target == "/v1/messages/count_tokens"
    assert upstream.requests[0].headers["x-api-key"] == KEY
    assert "authorization" not in upstream.requests[0].headers


async def test_the_demo_provider_needs_nothing_and_lets_others_work_while_it_streams() -> None:
    async with local_channel() as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        reply = (await stub.CompleteChat(complete_request(provider="demo", model="echo"))).reply
        assert reply.choices[0].finish_reason == chat_pb2.FINISH_REASON_STOP
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(count_turns())
        events, error = await read_stream(stub, stream_request(chat_of("one two three"), "demo", "echo"))
        task.cancel()
        assert error is None
        assert turns >= 3
        assert text_of(events)
        count = pb.CountTokensRequest(chat=chat_of(), target=pb.Target(provider="demo", model="echo"))
        assert (await stub.CountTokens(count)).input_tokens > 0


async def test_many_calls_at_once_leave_no_connection_in_use(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub
) -> None:
    upstream.always(*sse_answer(STREAM))
    results = await asyncio.gather(*(read_stream(stub, stream_request()) for _ in range(100)))
    assert all(error is None and text_of(events) == "Hello, wörld." for events, error in results)
    upstream.always(json_answer(REPLY))
    before = len(upstream.connections)
    await asyncio.gather(*(stub.CompleteChat(complete_request()) for _ in range(50)))
    assert len(upstream.connections) == before
