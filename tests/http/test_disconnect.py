"""A client that leaves ends the call to the router, within 100 ms."""

from __future__ import annotations

import asyncio

import pytest

from tests.http.conftest import StartGateway
from tests.http.gateway import Gateway, RawClient, chat

LIMIT_SECONDS = 0.1


@pytest.mark.parametrize(
    ("model", "stream", "wait"),
    [
        ("hold", False, 0.0),
        ("hold", False, 0.2),
        ("hold", True, 0.0),
        ("hold", True, 0.2),
    ],
    ids=["unary at once", "unary later", "stream at once", "stream before its first byte"],
)
async def test_leaving_before_the_answer_cancels_the_call(
    gateway: Gateway, model: str, stream: bool, wait: float
) -> None:
    observed = gateway.observed
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(model, stream=stream))
        await observed.arrived.wait()
        await asyncio.sleep(wait)  # the time a client waits is what is tested
        left = asyncio.get_running_loop().time()
    await asyncio.wait_for(observed.cancelled.wait(), 5)
    assert observed.cancelled_at - left < LIMIT_SECONDS


async def test_leaving_in_the_middle_of_a_stream_cancels_the_call(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("hold-midstream", stream=True))
        await client.head()
        assert (await client.chunk()).startswith(b"data: ")
        left = asyncio.get_running_loop().time()
    await asyncio.wait_for(gateway.observed.cancelled.wait(), 5)
    assert gateway.observed.cancelled_at - left < LIMIT_SECONDS


async def test_leaving_after_pings_cancels_the_call(start_gateway: StartGateway) -> None:
    async with start_gateway(heartbeat_seconds=0.05) as gateway:
        async with RawClient.connected(gateway.port) as client:
            await client.post(chat("hold", stream=True))
            await client.head()
            await client.chunk()
            left = asyncio.get_running_loop().time()
        await asyncio.wait_for(gateway.observed.cancelled.wait(), 5)
        assert gateway.observed.cancelled_at - left < LIMIT_SECONDS


async def test_a_connection_that_is_reset_cancels_the_call(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("hold", stream=True))
        await gateway.observed.arrived.wait()
        client.writer.transport.abort()
        await asyncio.wait_for(gateway.observed.cancelled.wait(), 5)


async def test_a_slow_answer_reaches_a_client_that_stays(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        for _ in range(2):  # the second request runs on a connection whose first one was watched
            gateway.observed.release.clear()
            gateway.observed.arrived.clear()
            await client.post(chat("hold"))
            await gateway.observed.arrived.wait()
            await asyncio.sleep(0.1)  # longer than the watch waits before it starts
            gateway.observed.release.set()
            answer = await client.answer()
            assert answer.status == 200
    assert not gateway.observed.cancelled.is_set()


async def test_leaving_while_sending_the_body_makes_no_call(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat())
        assert (await client.answer()).status == 200
    assert len(gateway.observed.chats) == 1
