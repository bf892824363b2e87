"""Channels between services: the key travels with every call, and a peer that comes back is found again."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from services.runtime.channel import BearerChannel, open_channel
from tests.runtime.transports import (
    TRANSPORTS,
    Stub,
    channel_to,
    complete_request,
    completed,
    scripted,
    stream_request,
    streamed,
)
from trunkline.router.v1 import chat_service_pb2 as pb
from trunkline.router.v1 import chat_service_pb2_grpc as pb_grpc


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_bearer_channel_sends_its_key_with_every_call(transport: str) -> None:
    seen: list[dict[str, Any]] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        seen.append(dict(context.invocation_metadata()))
        return completed("1")

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        yield streamed("a")

    def register(server: grpc.aio.Server) -> None:
        pb_grpc.add_ChatServiceServicer_to_server(scripted(CompleteChat=complete, StreamChat=stream), server)

    async with channel_to(transport, register) as inner, BearerChannel(inner, "k") as channel:
        await asyncio.wait_for(channel.channel_ready(), 5)
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        await stub.CompleteChat(complete_request(), timeout=5)
        await stub.CompleteChat(complete_request(), metadata=(("x-request-id", "req_1"),))
        assert len([message async for message in stub.StreamChat(stream_request(), timeout=5)]) == 1
    assert [call["authorization"] for call in seen] == ["Bearer k"] * 3
    assert seen[1]["x-request-id"] == "req_1"


async def test_a_peer_that_restarts_is_found_again_soon(unused_tcp_port: int) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed("1")

    async def start() -> grpc.aio.Server:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 1),))
        pb_grpc.add_ChatServiceServicer_to_server(scripted(CompleteChat=complete), server)
        server.add_insecure_port(f"127.0.0.1:{unused_tcp_port}")
        await server.start()
        return server

    async with open_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server = await start()
        assert (await stub.CompleteChat(complete_request(), wait_for_ready=True, timeout=10)).reply.id == "1"
        await server.stop(None)
