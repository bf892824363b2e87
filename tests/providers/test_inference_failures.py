"""InferenceService when the upstream misbehaves, is slow, or is not waited for: typed errors, and nothing left open."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from services.providers.config import ProvidersConfig
from services.providers.dialects.base import HttpCall
from services.providers.server import register
from services.runtime.interceptors import instrument
from tests.providers.openai_upstream import CHUNKS, KEY, config_of, sse, text_of
from tests.providers.serving import complete_request, error_of, local_channel, read_stream, stream_request
from tests.upstream import (
    CUT,
    RESET,
    STALL,
    ScriptedUpstream,
    Step,
    chunked,
    json_answer,
    sse_head,
    whole_answer,
)
from trunkline.providers.v1 import inference_service_pb2_grpc as pb_grpc


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture
async def stub(upstream: ScriptedUpstream) -> AsyncIterator[pb_grpc.InferenceServiceAsyncStub]:
    async with local_channel(config_of(upstream)) as channel:
        yield pb_grpc.InferenceServiceStub(channel)


# An upstream's answer to a stream, the text that the caller still gets, and the reason it then gets.
BAD_STREAMS: list[Any] = [
    pytest.param(
        (whole_answer(b"<html>login</html>", content_type="text/html; charset=utf-8"),),
        "",
        "UPSTREAM_MALFORMED_REPLY",
        id="HTML",
    ),
    pytest.param(
        (whole_answer(b"\n<!doctype html>", content_type="application/octet-stream"),),
        "",
        "UPSTREAM_MALFORMED_REPLY",
        id="HTML under another name",
    ),
    pytest.param((sse_head(), chunked(sse(*CHUNKS[:2])), CUT), "Hello, ", "STREAM_TRUNCATED", id="cut"),
    pytest.param(
        (sse_head(), chunked(sse(*CHUNKS[:2]) + sse(CHUNKS[2])[:40]), CUT),
        "Hello, ",
        "STREAM_TRUNCATED",
        id="cut in the middle of an event",
    ),
    pytest.param(
        (sse_head(), chunked(sse(*CHUNKS[:2])), chunked()),
        "Hello, ",
        "STREAM_TRUNCATED",
        id="a clean end without the terminal event",
    ),
    pytest.param(
        (sse_head(), chunked(sse(*CHUNKS[:2]) + sse(CHUNKS[2])[:40]), chunked()),
        "Hello, ",
        "STREAM_TRUNCATED",
        id="a clean end in the middle of an event",
    ),
    pytest.param(
        (sse_head(), chunked(sse(*CHUNKS[:2]) + sse(CHUNKS[2])[: sse(CHUNKS[2]).index(b"\xc3") + 1]), chunked()),
        "Hello, ",
        "STREAM_TRUNCATED",
        id="a clean end in the middle of a character",
    ),
    pytest.param(
        (sse_head(), chunked(sse(*CHUNKS[:2]) + b'data: {"choices":[{"delta":{"content":"\xc3"}}]}\n\n'), STALL),
        "Hello, ",
        "UPSTREAM_MALFORMED_REPLY",
        id="half a character",
    ),
    pytest.param(
        (sse_head(), chunked(sse(*CHUNKS[:2], b"{broken")), STALL),
        "Hello, ",
        "UPSTREAM_MALFORMED_REPLY",
        id="an event that is not JSON",
    ),
    pytest.param((sse_head(), chunked()), "", "STREAM_TRUNCATED", id="nothing"),
    pytest.param((sse_head(), chunked(b": ping\n\n"), CUT), "", "STREAM_TRUNCATED", id="comments"),
    pytest.param(
        (sse_head(), chunked(sse(*CHUNKS[:2], b'{"error":{"message":"Overloaded","code":503}}')), STALL),
        "Hello, ",
        "UPSTREAM_OVERLOADED",
        id="an error in the middle",
    ),
    pytest.param(
        (sse_head(), chunked(sse(b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}')), STALL),
        "",
        "UPSTREAM_RATE_LIMITED",
        id="an error first",
    ),
    pytest.param(
        (sse_head(), chunked(b'event: error\ndata: {"error":{"message":"x","code":503}}\n\n'), STALL),
        "",
        "UPSTREAM_OVERLOADED",
        id="an error event by name",
    ),
    pytest.param(
        (json_answer({"error": {"message": "no credit", "code": "insufficient_quota"}}),),
        "",
        "UPSTREAM_RATE_LIMITED",
        id="an error in one piece with a 200",
    ),
    pytest.param(
        (json_answer({"error": {"message": "wait"}}, status=429, headers={"Retry-After": "7"}),),
        "",
        "UPSTREAM_RATE_LIMITED",
        id="a status",
    ),
    pytest.param((CUT,), "", "UPSTREAM_UNREACHABLE", id="cut before the head"),
    pytest.param((RESET,), "", "UPSTREAM_UNREACHABLE", id="reset before the head"),
]


@pytest.mark.parametrize(("steps", "text", "reason"), BAD_STREAMS)
async def test_a_bad_stream_ends_in_a_typed_error_after_what_came_before_it(
    upstream: ScriptedUpstream,
    stub: pb_grpc.InferenceServiceAsyncStub,
    steps: tuple[Step, ...],
    text: str,
    reason: str,
) -> None:
    upstream.answer(*steps)
    events, error = await asyncio.wait_for(read_stream(stub, stream_request()), 2)
    assert error is not None
    assert text_of(events) == text
    assert (error.name, error.metadata["provider"]) == (reason, "acme")
    assert KEY not in f"{error} {error.metadata}"


BAD_ANSWERS: list[Any] = [
    ((whole_answer(b"<html>", content_type="text/html"),), "UPSTREAM_MALFORMED_REPLY", "200"),
    ((whole_answer(b"<html>"),), "UPSTREAM_MALFORMED_REPLY", None),
    ((whole_answer(b'{"id":1'),), "UPSTREAM_MALFORMED_REPLY", None),
    ((whole_answer(b""),), "UPSTREAM_MALFORMED_REPLY", None),
    ((whole_answer(b'{"choices":[{"message":{"content":"\xc3"}}]}'),), "UPSTREAM_MALFORMED_REPLY", None),
    ((json_answer({"error": {"code": "invalid_api_key"}}, status=401),), "UPSTREAM_REJECTED_CREDENTIALS", "401"),
    ((whole_answer(b"<html>", status=502, content_type="text/html"),), "UPSTREAM_OVERLOADED", "502"),
    ((json_answer({"error": {"code": "context_length_exceeded"}}, status=400),), "CONTEXT_LENGTH_EXCEEDED", "400"),
    ((json_answer({"error": "out of memory"}),), "UPSTREAM_OVERLOADED", None),
    ((CUT,), "UPSTREAM_UNREACHABLE", None),
]


@pytest.mark.parametrize(("steps", "reason", "status"), BAD_ANSWERS)
async def test_a_bad_answer_is_a_typed_error(
    upstream: ScriptedUpstream,
    stub: pb_grpc.InferenceServiceAsyncStub,
    steps: tuple[Step, ...],
    reason: str,
    status: str | None,
) -> None:
    upstream.answer(*steps)
    error = await error_of(stub.CompleteChat(complete_request()))
    assert (error.name, error.metadata["provider"]) == (reason, "acme")
    assert error.metadata.get("upstream_status") == status
    assert KEY not in f"{error} {error.metadata}"


async def test_retry_after_is_handed_on(upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub) -> None:
    upstream.always(json_answer({"error": {"message": "wait"}}, status=429, headers={"Retry-After": "7"}))
    error = await error_of(stub.CompleteChat(complete_request()))
    assert error.retry_after == 7
    _, stream_error = await read_stream(stub, stream_request())
    assert stream_error is not None
    assert stream_error.retry_after == 7


async def test_silence_times_out(upstream: ScriptedUpstream) -> None:
    upstream.always(sse_head(), chunked(sse(*CHUNKS[:2])), STALL)
    async with local_channel(config_of(upstream, idle_timeout=0.1)) as channel:
        events, error = await read_stream(pb_grpc.InferenceServiceStub(channel), stream_request())
    assert error is not None
    assert (error.name, error.metadata["phase"], text_of(events)) == ("UPSTREAM_TIMEOUT", "idle", "Hello, ")


@pytest.mark.parametrize("steps", [(STALL,), (sse_head(), chunked(sse(*CHUNKS[:2])), STALL)])
async def test_the_deadline_of_the_call_bounds_the_upstream(
    upstream: ScriptedUpstream, stub: pb_grpc.InferenceServiceAsyncStub, steps: tuple[Step, ...]
) -> None:
    upstream.always(*steps)
    _, error = await asyncio.wait_for(read_stream(stub, stream_request(), seconds=0.2), 1)
    assert error is not None
    assert error.name == "UPSTREAM_TIMEOUT"
    await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)


@pytest.mark.parametrize("steps", [(STALL,), (sse_head(), chunked(sse(*CHUNKS[:2])), STALL)])
@pytest.mark.parametrize("over", ["local", "tcp"])
async def test_cancelling_a_stream_closes_the_upstream_connection_at_once(
    upstream: ScriptedUpstream, steps: tuple[Step, ...], over: str
) -> None:
    upstream.always(*steps)
    async with local_channel(config_of(upstream)) if over == "local" else tcp_channel(config_of(upstream)) as channel:
        call = pb_grpc.InferenceServiceStub(channel).StreamChat(stream_request())
        task = asyncio.create_task(call.read())
        await upstream.request()
        await asyncio.sleep(0.02)
        if task.done():  # A first message came, and nobody is waiting for the next.
            task = asyncio.create_task(call.read())
            await asyncio.sleep(0.02)
        call.cancel()
        await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)
        await asyncio.wait([task])


async def test_cancelling_a_stream_between_two_messages_closes_the_upstream_connection_at_once(
    upstream: ScriptedUpstream,
) -> None:
    upstream.always(sse_head(), chunked(sse(*CHUNKS[:2])), STALL)
    async with local_channel(config_of(upstream)) as channel:
        call = pb_grpc.InferenceServiceStub(channel).StreamChat(stream_request())
        await call.read()
        call.cancel()
        del call
        await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)


@asynccontextmanager
async def tcp_channel(config: dict[str, Any]) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    service = register(
        instrument(server, service="providers"), ProvidersConfig.model_validate({"providers": config}), environment={}
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)
        await service.close()


async def test_an_open_stream_does_not_hold_on_to_the_body_it_sent(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[weakref.ref[Any]] = []

    class Call(HttpCall):
        __slots__ = ("__weakref__",)

    def remember(**members: Any) -> HttpCall:
        call = Call(**members)
        calls.append(weakref.ref(call))
        return call

    monkeypatch.setattr("services.providers.dialects.openai_chat.HttpCall", remember)
    upstream.always(sse_head(), chunked(sse(*CHUNKS[:2])), STALL)
    async with local_channel(config_of(upstream)) as channel:
        call = pb_grpc.InferenceServiceStub(channel).StreamChat(stream_request())
        await call.read()
        gc.collect()
        assert [reference() for reference in calls] == [None]
        call.cancel()
