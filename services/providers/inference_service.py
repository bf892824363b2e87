"""InferenceService: finds the provider and asks it once. Decode, one call, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from services.providers.provider import Provider
from services.providers.registry import Registry
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.providers.v1 import inference_service_pb2 as pb
from trunkline.providers.v1 import inference_service_pb2_grpc as pb_grpc

__all__ = ["InferenceService"]

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class InferenceService(pb_grpc.InferenceServiceServicer):
    """The servicer; the contract is in inference_service.proto."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def CompleteChat(self, request: pb.CompleteChatRequest, context: _Context) -> pb.CompleteChatResponse:
        """Ask for the answer in one piece."""
        with _Naming(request.target):
            provider = self._provider(request.target)
            reply = await provider.complete_chat(request.chat, request.target.model, deadline=deadline_of(context))
        return pb.CompleteChatResponse(reply=reply)

    async def StreamChat(
        self, request: pb.StreamChatRequest, context: _Context
    ) -> AsyncIterator[pb.StreamChatResponse]:
        """Ask for the answer piece by piece. What arrived together is one message."""
        with _Naming(request.target):
            provider = self._provider(request.target)
            stream = provider.stream_chat(request.chat, request.target.model, deadline=deadline_of(context))
            # Closed here and not by the garbage collector, so that a call given up closes its connection at once.
            async with aclosing(stream):
                async for events in stream:
                    yield pb.StreamChatResponse(events=events)

    async def CountTokens(self, request: pb.CountTokensRequest, context: _Context) -> pb.CountTokensResponse:
        """Ask how many tokens the input has."""
        with _Naming(request.target):
            provider = self._provider(request.target)
            count = await provider.count_tokens(request.chat, request.target.model, deadline=deadline_of(context))
        return pb.CountTokensResponse(input_tokens=count)

    def _provider(self, target: pb.Target) -> Provider:
        if not target.model:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_INVALID_REQUEST, "No model was named.", param="target.model"
            )
        return self._registry.provider(target.provider)


def deadline_of(context: _Context) -> float | None:
    """Return a call's deadline on the running loop's clock, None without one."""
    remaining: float | None = context.time_remaining()  # The stubs forget the None.
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


class _Naming:
    """Names the provider in every error that leaves its block."""

    __slots__ = ("_provider",)

    def __init__(self, target: pb.Target) -> None:
        self._provider = target.provider

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, GatewayError):
            error.metadata.setdefault("provider", self._provider)
