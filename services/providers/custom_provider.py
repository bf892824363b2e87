"""A provider made of code: its answers are computed, and streamed so that other calls get their turn meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Protocol

from services.providers.features import FeatureCheck
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply

__all__ = ["ComputedProvider", "PureProvider"]


class PureProvider(Protocol):
    """What a module of `custom/` exports: answers without I/O. Each method may raise GatewayError."""

    def complete_chat(self, chat: Chat, model: str) -> ChatReply:
        """Return the answer in one piece."""
        ...

    def stream_chat(self, chat: Chat, model: str) -> Iterator[list[ChatEvent]]:
        """Yield the events of the answer in the steps in which they should be seen."""
        ...

    def count_tokens(self, chat: Chat, model: str) -> int:
        """Return how many tokens the chat's input has."""
        ...

    def list_models(self) -> list[str]:
        """Return the names of its models."""
        ...


class ComputedProvider:
    """A provider; see `Provider`. Deadlines do not apply: nothing is waited for."""

    def __init__(self, name: str, capabilities: frozenset[str], provider: PureProvider) -> None:
        self._provider = provider
        self._features = FeatureCheck(name, capabilities)

    async def complete_chat(self, chat: Chat, model: str, *, deadline: float | None) -> ChatReply:
        """Return the answer in one piece. Raises GatewayError."""
        self._features.check(chat)
        return self._provider.complete_chat(chat, model)

    async def stream_chat(
        self, chat: Chat, model: str, *, deadline: float | None
    ) -> AsyncGenerator[list[ChatEvent], None]:
        """Yield the events of the answer step by step. Raises GatewayError."""
        self._features.check(chat)
        for events in self._provider.stream_chat(chat, model):
            yield events
            await asyncio.sleep(0)

    async def count_tokens(self, chat: Chat, model: str, *, deadline: float | None) -> int:
        """Return how many tokens the chat's input has. Raises GatewayError."""
        self._features.check(chat)
        return self._provider.count_tokens(chat, model)

    async def list_models(self, *, deadline: float | None) -> list[str]:
        """Return the names of the provider's models."""
        return self._provider.list_models()
