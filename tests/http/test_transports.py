"""The front sees the same of a router in its own process and of one behind a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from tests.http.gateway import Gateway, RawClient, chat, running_gateway, running_router
from tests.http.scripted_router import Observed


@pytest.fixture(params=["local", "unix"])
async def gateway(request: pytest.FixtureRequest, observed: Observed, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Yield a front before a router on each kind of channel."""
    async with (
        running_router(request.param, observed, tmp_path) as channel,
        running_gateway(channel, observed, heartbeat_seconds=0.2) as running,
    ):
        yield running


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_answer_with_the_routers_headers(gateway: Gateway, stream: bool) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(stream=stream), headers="x-request-id: mine\r\nx-livekit-room-id: RM_1\r\n")
        answer = await client.answer()
    assert answer.status == 200
    assert b"Hello" in answer.body
    assert answer.headers["x-trunkline-deployment"] == "demo/0"
    assert answer.headers["x-request-id"] == "mine"
    seen = gateway.observed.metadata[0]
    assert (seen["x-request-id"], seen["x-livekit-room-id"]) == ("mine", "RM_1")
    assert gateway.observed.time_remaining[0] is not None


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_error_with_its_details(gateway: Gateway, stream: bool) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("error/CALLER_RATE_LIMITED", stream=stream))
        answer = await client.answer()
    assert (answer.status, answer.headers["retry-after-ms"]) == (429, "1250")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


async def test_an_error_in_the_middle_of_a_stream(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("midstream/UPSTREAM_TIMEOUT", stream=True))
        answer = await client.answer()
    assert answer.status == 200
    assert b'"upstream_timeout"' in answer.body
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize(
    ("model", "stream"), [("hold", False), ("hold", True), ("hold-midstream", True)], ids=["unary", "first", "middle"]
)
async def test_a_client_that_leaves_cancels_the_call(gateway: Gateway, model: str, stream: bool) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(model, stream=stream))
        await gateway.observed.arrived.wait()
        if model == "hold-midstream":
            await client.head()
        left = asyncio.get_running_loop().time()
    await asyncio.wait_for(gateway.observed.cancelled.wait(), 5)
    assert gateway.observed.cancelled_at - left < 0.1


async def test_a_silent_stream_is_kept_alive(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("hold", stream=True))
        status, headers = await client.head()
        assert await client.chunk() == b": ping\n\n"
        gateway.observed.release.set()
        body = b""
        while piece := await client.chunk():
            body += piece
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_router_that_cannot_be_reached_is_a_503(observed: Observed, tmp_path: Path) -> None:
    async with (
        grpc.aio.insecure_channel(f"unix:{tmp_path}/nobody.sock") as channel,
        running_gateway(channel, observed) as gateway,
        RawClient.connected(gateway.port) as client,
    ):
        for path in ("/v1/chat/completions", "/v1/models"):
            await client.post(chat(), path=path) if path.endswith("completions") else await client.send(
                f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
            )
            answer = await client.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (503, "service_unavailable")
            assert "sock" not in answer.body.decode()
