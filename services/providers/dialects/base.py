"""What a dialect is: a wire format, as pure code. Messages and bytes in, messages and bytes out; no I/O, no clock.

A dialect never sees credentials and never builds an address: it gives a path below the endpoint's base URL. Functions
that write the wire are `render_*`, functions that read it `parse_*`. The endpoint's facts come as an argument, so one
dialect object serves every provider that speaks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from services.providers.endpoint import Endpoint
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply

__all__ = ["ChatDialect", "ChatStreamParser", "Frame", "HttpCall"]


class Frame(NamedTuple):
    """One unit of a streamed answer after framing: an SSE event or a line of NDJSON."""

    event: str
    """The SSE event name; "" when there was none."""
    data: bytes
    """The payload, data lines joined by a newline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """What a dialect wants sent; the provider adds address, authentication and its own headers."""

    path: str
    """Below the endpoint's base URL, beginning with "/", without a query unless the wire format has one."""
    body: bytes = b""
    method: Literal["GET", "POST"] = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    """Headers of the wire format beside content-type and accept."""
    warnings: tuple[chat_pb2.Warning, ...] = ()
    """What of the chat was ignored or changed; put into Started.warnings or ChatReply.warnings by the caller."""


class ChatStreamParser(Protocol):
    """Reads one streamed answer. Emits events in the grammar of chat_event.proto, from Started on."""

    def parse_frame(self, frame: Frame) -> list[ChatEvent]:
        """Return the events a frame stands for, perhaps none.

        Raises GatewayError for an error inside the stream and UPSTREAM_MALFORMED_REPLY for what is not the wire format.
        """
        ...

    def parse_end(self) -> list[ChatEvent]:
        """Return what was held back until the body's end. Raises STREAM_TRUNCATED without the terminal event."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the wire format's terminal event was seen; nothing after it is read."""
        ...


class ChatDialect(Protocol):
    """A wire format that can hold a chat."""

    name: str
    """As in the catalog, "openai_chat"."""
    framing: Literal["sse", "ndjson", "aws_event_stream"]

    def render_chat(self, chat: Chat, model: str, endpoint: Endpoint, *, stream: bool) -> HttpCall:
        """Return the call that asks `model` for the answer. Raises UNSUPPORTED_FEATURE, INVALID_REQUEST."""
        ...

    def parse_chat(self, body: bytes, endpoint: Endpoint) -> ChatReply:
        """Return the answer of a 2xx body. Raises UPSTREAM_MALFORMED_REPLY, or the error inside a 200."""
        ...

    def open_stream(self, endpoint: Endpoint) -> ChatStreamParser:
        """Return a parser for one streamed answer."""
        ...

    def parse_error(self, status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint) -> GatewayError:
        """Return the error of a non-2xx answer, by status and structured code. Header names are lower case."""
        ...

    def render_count_tokens(self, chat: Chat, model: str, endpoint: Endpoint) -> HttpCall:
        """Return the call that counts the chat's tokens. Raises UNSUPPORTED_FEATURE where the format has none."""
        ...

    def parse_count_tokens(self, body: bytes, endpoint: Endpoint) -> int:
        """Return the input tokens of a 2xx body."""
        ...

    def render_list_models(self, endpoint: Endpoint) -> HttpCall:
        """Return the call that lists the provider's models. Raises UNSUPPORTED_FEATURE where there is none."""
        ...

    def parse_list_models(self, body: bytes, endpoint: Endpoint) -> list[str]:
        """Return the models' names of a 2xx body."""
        ...
