"""The local server and channel themselves: what they register, what they refuse, how they stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.runtime.local import LocalChannel, LocalServer
from tests.runtime.transports import complete_request, completed, serve_locally, stream_request, streamed, text_of
from trunkline.router.v1 import chat_service_pb2 as pb

SOON = 0.05


async def test_stop_waits_for_abandoned_streams_and_then_refuses_calls() -> None:
    cleaned = asyncio.Event()

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        try:
            yield streamed("a")
        finally:
            await asyncio.sleep(SOON)
            cleaned.set()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed("1")

    server, stub = serve_locally(StreamChat=stream, CompleteChat=complete)
    await server.start()
    terminated = asyncio.create_task(server.wait_for_termination())
    call = stub.StreamChat(stream_request())
    await call.read()
    call.cancel()
    await server.stop(1)
    assert cleaned.is_set()
    assert await terminated is False
    assert await server.wait_for_termination() is False
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CompleteChat(complete_request())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.StreamChat(stream_request()).read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_waiting_for_termination_may_time_out() -> None:
    assert await LocalServer().wait_for_termination(0.01) is True


async def test_a_stream_handler_must_be_an_async_generator() -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> None:
        await context.write(streamed("a"))

    with pytest.raises(TypeError, match="StreamChat must be an async generator"):
        serve_locally(StreamChat=stream)


async def test_handlers_cannot_read_or_write_by_hand() -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        with pytest.raises(grpc.aio.UsageError):
            await context.write(streamed("a"))
        with pytest.raises(grpc.aio.UsageError):
            await context.read()
        yield streamed("a")

    _, stub = serve_locally(StreamChat=stream)
    assert text_of(await stub.StreamChat(stream_request()).read()) == "a"


async def test_the_channel_is_always_ready_and_refuses_streamed_requests() -> None:
    async with LocalChannel(LocalServer()) as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await channel.channel_ready()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        with pytest.raises(grpc.aio.UsageError, match="/s/M streams its requests"):
            channel.stream_stream("/s/M")()
        with pytest.raises(grpc.aio.UsageError, match="/s/M streams its requests"):
            channel.stream_unary("/s/M")()


async def test_a_local_server_has_no_ports() -> None:
    server: grpc.aio.Server = LocalServer()
    with pytest.raises(grpc.aio.UsageError):
        server.add_insecure_port("127.0.0.1:0")
    with pytest.raises(grpc.aio.UsageError):
        server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(b"", b"")]))
