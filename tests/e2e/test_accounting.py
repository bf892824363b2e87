"""What one request leaves in the ledger: who asked, what it used and cost, how it ended."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway import KEY, Gateway, Row, chat, ledger, provider, running_gateway
from tests.http.gateway import RawClient
from tests.providers.openai_upstream import CHUNKS, REPLY, STREAM, chunk
from tests.upstream import STALL, ScriptedUpstream, Step, chunked, json_answer, sse_answer, sse_head
from trunkline.client import connect
from trunkline.inference.v1.chat_pb2 import ROLE_USER, Chat, Message, Part, TextPart

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CACHED = {
    "prompt_tokens": 1000,
    "completion_tokens": 50,
    "total_tokens": 1050,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
# 600 tokens at 2.50 USD a million, 400 cached ones at 1.25, 50 at 10: in nano-USD.
COST = 600 * 2_500 + 400 * 1_250 + 50 * 10_000


def one_model(upstream: ScriptedUpstream, **members: Any) -> dict[str, Any]:
    """Return a configuration with the model "m"."""
    return {
        "providers": {"acme": provider(upstream)},
        "models": {"m": {"deployments": [{"provider": "acme", "model": "m-1"}], "retries": 0}},
        **members,
    }


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(
    ("room", "job", "agent", "trace"),
    [
        ("X-LiveKit-Room-Id", "X-LiveKit-Job-Id", "X-LiveKit-Agent-Id", "traceparent"),
        ("x-livekit-room-id", "x-livekit-job-id", "x-livekit-agent-id", "Traceparent"),
        ("X-LIVEKIT-ROOM-ID", "X-LIVEKIT-JOB-ID", "X-LIVEKIT-AGENT-ID", "TRACEPARENT"),
    ],
    ids=["as written", "lower", "upper"],
)
async def test_labels(room: str, job: str, agent: str, trace: str, stream: bool, tmp_path: Path) -> None:
    headers = {room: "RM_1", job: "AJ_2", agent: "agent three", trace: TRACEPARENT}
    async with running_gateway(tmp_path, {}) as gateway:
        assert (await gateway.ask(chat("demo/echo", stream=stream), headers=headers)).status == 200
    (row,) = ledger(tmp_path)
    assert row["labels"] == {
        "room_id": "RM_1",
        "job_id": "AJ_2",
        "agent_id": "agent three",
        "traceparent": TRACEPARENT,
    }
    assert (row["key_id"], row["operation"], row["streamed"]) == ("master", "chat", stream)
    assert row["total_us"] >= row["first_token_us"] > 0


async def test_a_broken_traceparent_is_left_out(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        answer = await gateway.ask(chat("demo/echo"), headers={"traceparent": "00-nonsense", "x-livekit-room-id": "RM"})
        assert answer.status == 200
    (row,) = ledger(tmp_path)
    assert row["labels"] == {"room_id": "RM"}


async def test_what_was_refused_before_anyone_was_asked_leaves_no_record(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        wrong_key = {"authorization": "Bearer sk-wrong"}
        statuses = [
            (await gateway.ask(chat("demo/echo"), headers=wrong_key)).status,
            (await gateway.ask(chat("no-such-model"))).status,
            (await gateway.ask({"model": "demo/echo", "messages": 1})).status,
            (await gateway.ask(b"{")).status,
        ]
        assert statuses == [401, 404, 400, 400]
        assert (await gateway.ask(chat("demo/echo"))).status == 200
    assert len(ledger(tmp_path)) == 1


@pytest.mark.parametrize("members", [{}, {"stream_options": {}}, {"stream_options": {"include_usage": False}}])
async def test_usage_is_asked_for_and_not_shown(members: dict[str, Any], tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.answer(*sse_answer(STREAM))
        async with running_gateway(tmp_path, one_model(upstream)) as gateway:
            answer = await gateway.ask(chat(stream=True, **members))
        assert upstream.requests[0].json["stream_options"]["include_usage"] is True
    assert all(document.get("usage") is None for document in answer.documents)
    assert all(document["choices"] for document in answer.documents)
    (row,) = ledger(tmp_path)
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (9, 3, 0)


async def test_usage_is_shown_to_who_asked(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.answer(*sse_answer(STREAM))
        async with running_gateway(tmp_path, one_model(upstream)) as gateway:
            answer = await gateway.ask(chat(stream=True, stream_options={"include_usage": True}))
    *others, last = answer.documents
    assert all(document["usage"] is None for document in others)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (9, 3)


async def test_a_unary_call_asks_for_no_stream_options(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.answer(json_answer(REPLY))
        async with running_gateway(tmp_path, one_model(upstream)) as gateway:
            await gateway.ask(chat())
        assert "stream_options" not in upstream.requests[0].json


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_exact_cost_of_a_priced_model(stream: bool, tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.answer(
            *sse_answer([*CHUNKS[:4], chunk(usage=CACHED), b"[DONE]"])
            if stream
            else (json_answer({**REPLY, "usage": CACHED}),)
        )
        document = {"providers": {"openai": {"base_url": f"{upstream.url}/v1", "api_key": "sk-openai-0123456789"}}}
        async with running_gateway(tmp_path, document) as gateway:
            assert (await gateway.ask(chat("openai/gpt-4o", stream=stream))).status == 200
    (row,) = ledger(tmp_path)
    assert COST == 2_500_000
    assert (row["cost_nano_usd"], row["unpriced"]) == (COST, 0)
    assert (row["catalog"], row["upstream_model"]) == ("openai", "gpt-4o")
    assert (row["input_tokens"], row["input_cached_tokens"]) == (1000, 400)
    assert (row["output_tokens"], row["output_reasoning_tokens"]) == (50, 20)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_unpriced_model_has_no_cost(stream: bool, tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.answer(*(sse_answer(STREAM) if stream else (json_answer(REPLY),)))
        async with running_gateway(tmp_path, one_model(upstream)) as gateway:
            await gateway.ask(chat(stream=stream))
    (row,) = ledger(tmp_path)
    assert (row["cost_nano_usd"], row["unpriced"]) == (None, 1)
    assert row["input_tokens"] == 9


async def test_an_operators_price_and_the_free_demo(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.answer(json_answer(REPLY))
        prices = {"acme/m-1": {"input_per_million_usd": "0.15", "output_per_million_usd": "0.6"}}
        async with running_gateway(tmp_path, one_model(upstream, usage={"prices": prices})) as gateway:
            await gateway.ask(chat())
            await gateway.ask(chat("demo/echo"))
    paid, free = ledger(tmp_path)
    assert (paid["cost_nano_usd"], paid["unpriced"]) == (9 * 150 + 3 * 600, 0)
    assert (free["cost_nano_usd"], free["unpriced"]) == (0, 0)


async def leaves(gateway: Gateway, upstream: ScriptedUpstream, *, stream: bool) -> float:
    """Send a request, leave once the upstream is at work, and return how long the upstream's connection lived on."""
    body = json.dumps(chat(text="Tell me a long story", stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {KEY}\r\n"
    async with asyncio.timeout(5), RawClient.connected(gateway.http_port) as client:
        await client.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await upstream.request()
        if stream:
            await client.head()
            assert b"Hello, " in await client.chunk()
        else:
            await asyncio.sleep(0.1)  # the front begins to look after the client a moment later
        client.writer.transport.abort()
        left = time.monotonic()
        await upstream.connections[0].lost.wait()
        return time.monotonic() - left


def check_disconnect(row: Row, *, output_tokens: int) -> None:
    """Check the record of a call whose caller went away."""
    assert row["outcome"] == "client_disconnect"
    assert row["error_reason"] == "CALLER_CANCELLED"
    assert (row["has_usage"], row["estimated"]) == (1, 1)
    assert row["input_tokens"] > 0
    assert row["output_tokens"] == output_tokens
    assert row["unpriced"] == 1


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_client_that_leaves_ends_the_upstream_call(stream: bool, tmp_path: Path) -> None:
    steps: tuple[Step, ...] = (STALL,)
    if stream:
        steps = (sse_head(), *(chunked(b"data: " + event + b"\n\n") for event in CHUNKS[:2]), STALL)
    async with ScriptedUpstream() as upstream:
        upstream.answer(*steps)
        document = one_model(upstream, providers={"acme": provider(upstream, first_byte_timeout=9, idle_timeout=9)})
        async with running_gateway(tmp_path, document) as gateway:
            lived_on = await leaves(gateway, upstream, stream=stream)
            echo = await gateway.ask(chat("demo/echo"))
    assert lived_on < 0.1
    assert echo.status == 200
    row, _ = ledger(tmp_path)
    check_disconnect(row, output_tokens=2 if stream else 0)


async def test_a_grpc_caller_that_leaves_ends_the_upstream_call(tmp_path: Path) -> None:
    question = Chat(model="m", messages=[Message(role=ROLE_USER, parts=[Part(text=TextPart(text="A story"))])])
    async with ScriptedUpstream() as upstream:
        upstream.answer(sse_head(), *(chunked(b"data: " + event + b"\n\n") for event in CHUNKS[:2]), STALL)
        document = one_model(upstream, providers={"acme": provider(upstream, idle_timeout=9)})
        async with (
            running_gateway(tmp_path, document) as gateway,
            connect(f"127.0.0.1:{gateway.grpc_port}", api_key=KEY) as client,
        ):
            async with client.stream(question, timeout=20) as events:
                async for event in events:
                    if event.HasField("text_delta"):
                        break
            left = time.monotonic()
            async with asyncio.timeout(5):
                await upstream.connections[0].lost.wait()
            lived_on = time.monotonic() - left
    assert lived_on < 0.1
    (row,) = ledger(tmp_path)
    check_disconnect(row, output_tokens=2)
