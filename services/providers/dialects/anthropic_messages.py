"""The dialect of Anthropic's Messages API, spoken by Anthropic and by other addresses that serve Claude.

Options of an endpoint it knows: "default_max_tokens", the bound sent for callers who set none.
Its parts: `anthropic_render` and what it uses write requests, `anthropic_reply`, `anthropic_stream` and
`anthropic_errors` read answers, `anthropic_models` holds what differs between models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from services.providers.dialects.anthropic_errors import parse_http_error
from services.providers.dialects.anthropic_notes import RenderNotes
from services.providers.dialects.anthropic_render import render_body
from services.providers.dialects.anthropic_reply import parse_reply
from services.providers.dialects.anthropic_stream import AnthropicStreamParser
from services.providers.dialects.anthropic_wire import DIALECT_NAME, malformed, parse_array, parse_object, text_of
from services.providers.dialects.base import ChatDialect, ChatStreamParser, HttpCall
from services.providers.endpoint import Endpoint
from trunkline.errors import GatewayError
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply

__all__ = ["DIALECT", "AnthropicMessages"]

# The version whose requests may set temperature, top_p and top_k; 2026-10-21 refuses them for every model.
_VERSION: Final = ("anthropic-version", "2023-06-01")
_COUNTED: Final = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"}
    | {"mcp_servers", "context_management", "speed"}
)


class AnthropicMessages:
    """The dialect object; see ChatDialect."""

    __slots__ = ()

    name: str = DIALECT_NAME
    framing: Literal["sse", "ndjson", "aws_event_stream"] = "sse"

    def render_chat(self, chat: Chat, model: str, endpoint: Endpoint, *, stream: bool) -> HttpCall:
        """Return POST /v1/messages. Raises UNSUPPORTED_FEATURE, INVALID_REQUEST."""
        notes = RenderNotes(endpoint.name)
        body = render_body(chat, model, endpoint, stream=stream, notes=notes)
        return _call("/v1/messages", body, notes)

    def parse_chat(self, body: bytes, endpoint: Endpoint) -> ChatReply:
        """Return the answer of a 2xx body. Raises UPSTREAM_MALFORMED_REPLY, or the error inside a 200."""
        return parse_reply(body, endpoint)

    def open_stream(self, endpoint: Endpoint) -> ChatStreamParser:
        """Return a parser for one streamed answer."""
        return AnthropicStreamParser(endpoint)

    def parse_error(self, status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint) -> GatewayError:
        """Return the error of a non-2xx answer."""
        return parse_http_error(status, headers, body, endpoint)

    def render_count_tokens(self, chat: Chat, model: str, endpoint: Endpoint) -> HttpCall:
        """Return POST /v1/messages/count_tokens, with what of a chat counts as input."""
        notes = RenderNotes(endpoint.name)
        body = render_body(chat, model, endpoint, stream=False, notes=notes)
        counted = {name: value for name, value in body.items() if name in _COUNTED}
        return _call("/v1/messages/count_tokens", counted, notes)

    def parse_count_tokens(self, body: bytes, endpoint: Endpoint) -> int:
        """Return the input tokens of a 2xx body."""
        raw = parse_object(body, "the answer").get("input_tokens")
        try:
            return msgspec.json.decode(raw or b"", type=int)
        except msgspec.DecodeError:
            raise malformed("input_tokens is not a number") from None

    def render_list_models(self, endpoint: Endpoint) -> HttpCall:
        """Return GET /v1/models, in the largest page there is."""
        return HttpCall(path="/v1/models?limit=1000", method="GET", headers=(_VERSION,))

    def parse_list_models(self, body: bytes, endpoint: Endpoint) -> list[str]:
        """Return the models' names of a 2xx body."""
        listed = parse_array(parse_object(body, "the answer").get("data"), "data")
        return [name for raw in listed if (name := text_of(parse_object(raw, "a model"), "id"))]


def _call(path: str, body: dict[str, object], notes: RenderNotes) -> HttpCall:
    headers = (_VERSION, ("anthropic-beta", notes.betas)) if notes.betas else (_VERSION,)
    return HttpCall(path=path, body=msgspec.json.encode(body), headers=headers, warnings=notes.warnings)


DIALECT: Final[ChatDialect] = AnthropicMessages()
