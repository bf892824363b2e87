"""The providers service for tests: served in this process with everything around it that a server has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from services.providers.config import ProvidersConfig
from services.providers.server import register
from services.runtime.interceptors import instrument
from services.runtime.local import LocalChannel, LocalServer
from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat
from trunkline.openai_json import decode_chat_request
from trunkline.providers.v1 import inference_service_pb2 as pb
from trunkline.providers.v1 import inference_service_pb2_grpc as pb_grpc
from trunkline.reply import GrammarChecker

__all__ = ["chat_of", "complete_request", "error_of", "local_channel", "read_stream", "stream_request"]


@asynccontextmanager
async def local_channel(
    providers: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[LocalChannel]:
    """Serve the providers of a configuration and yield a channel to them."""
    server = LocalServer()
    config = ProvidersConfig.model_validate({"providers": providers or {}})
    service = register(instrument(server, service="providers"), config, environment=environment or {})
    await service.start()
    try:
        yield LocalChannel(server)
    finally:
        await server.stop(1)
        await service.close()


def chat_of(text: str = "Say hello.", **members: Any) -> Chat:
    """Return a chat as a client's JSON makes it: one user message, and further members of the request."""
    body = {"model": "gateway-name", "messages": [{"role": "user", "content": text}], **members}
    return decode_chat_request(json.dumps(body).encode()).chat


def _target(provider: str, model: str) -> pb.Target:
    return pb.Target(provider=provider, model=model)


def complete_request(chat: Chat | None = None, provider: str = "acme", model: str = "m-1") -> pb.CompleteChatRequest:
    """Return a request for a whole answer."""
    return pb.CompleteChatRequest(chat=chat or chat_of(), target=_target(provider, model))


def stream_request(chat: Chat | None = None, provider: str = "acme", model: str = "m-1") -> pb.StreamChatRequest:
    """Return a request for a streamed answer."""
    return pb.StreamChatRequest(chat=chat or chat_of(), target=_target(provider, model))


async def read_stream(
    stub: pb_grpc.InferenceServiceAsyncStub, request: pb.StreamChatRequest, seconds: float | None = None
) -> tuple[list[ChatEvent], GatewayError | None]:
    """Return the events of a stream and what it failed with; whatever came is checked against the grammar."""
    events: list[ChatEvent] = []
    checker = GrammarChecker()
    try:
        async for message in stub.StreamChat(request, timeout=seconds):
            assert message.events
            for event in message.events:
                checker.check(event)
                events.append(event)
    except grpc.aio.AioRpcError as error:
        return events, from_rpc_error(error)
    checker.end()
    return events, None


async def error_of(call: Awaitable[Any]) -> GatewayError:
    """Return the error that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
