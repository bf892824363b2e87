"""What a provider is to the services here: facts, and the calls it answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply

__all__ = ["Provider", "ProviderFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """What is told about a provider; names of the environment, never values."""

    name: str
    catalog: str
    dialect: str
    capabilities: tuple[str, ...]
    usable: bool
    credential_environment: tuple[str, ...]
    documentation_url: str
    prices: str


class Provider(Protocol):
    """One provider that can be asked. `deadline` is on the running loop's clock, None without one."""

    async def complete_chat(self, chat: Chat, model: str, *, deadline: float | None) -> ChatReply:
        """Return the answer in one piece. Raises GatewayError."""
        ...

    def stream_chat(self, chat: Chat, model: str, *, deadline: float | None) -> AsyncGenerator[list[ChatEvent], None]:
        """Yield the events of the answer, those that arrived together in one list. Raises GatewayError.

        Closing the generator closes the connection to the provider.
        """
        ...

    async def count_tokens(self, chat: Chat, model: str, *, deadline: float | None) -> int:
        """Return how many tokens the chat's input has. Raises GatewayError."""
        ...

    async def list_models(self, *, deadline: float | None) -> list[str]:
        """Return the names of the provider's models, in any order. Raises GatewayError."""
        ...
