"""What a chat needs of a provider: refused here by name when the provider cannot, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1.chat_pb2 import Chat

__all__ = ["FeatureCheck"]


class FeatureCheck:
    """Checks chats against what a provider can do. A provider that can do everything costs nothing here."""

    __slots__ = ("_lacking", "_provider")

    def __init__(self, provider: str, capabilities: frozenset[str]) -> None:
        self._provider = provider
        self._lacking = tuple((feature, find) for feature, find in _FINDERS.items() if feature not in capabilities)

    def check(self, chat: Chat) -> None:
        """Raise UNSUPPORTED_FEATURE for the first thing the chat asks for that the provider lacks."""
        for feature, find in self._lacking:
            param = find(chat)
            if param is not None:
                raise self.refusal(feature, param)

    def refusal(self, feature: str, param: str | None = None) -> GatewayError:
        """Return the error that says the provider lacks a feature."""
        return GatewayError(
            error_reason_pb2.ERROR_REASON_UNSUPPORTED_FEATURE,
            f"The provider {self._provider} does not support {feature}.",
            param=param,
            metadata={"feature": feature, "provider": self._provider},
        )


def _tools(chat: Chat) -> str | None:
    return "tools" if chat.tools else None


def _json_schema(chat: Chat) -> str | None:
    return "response_format" if chat.response_format.WhichOneof("format") == "json_schema" else None


def _audio_output(chat: Chat) -> str | None:
    return "modalities" if "audio" in chat.modalities else None


def _parts(chat: Chat) -> Iterator[tuple[int, str | None]]:
    for number, message in enumerate(chat.messages):
        for part in message.parts:
            yield number, part.WhichOneof("part")


def _part_of(kind: str) -> Callable[[Chat], str | None]:
    def find(chat: Chat) -> str | None:
        return next((f"messages[{number}].content" for number, found in _parts(chat) if found == kind), None)

    return find


# Reasoning is a matter of tuning: a provider without it ignores the wish.
_FINDERS: Final[dict[str, Callable[[Chat], str | None]]] = {
    "tools": _tools,
    "json_schema": _json_schema,
    "audio_output": _audio_output,
    "vision": _part_of("image"),
    "audio_input": _part_of("audio"),
    "file_input": _part_of("file"),
}
