"""The dialect of OpenAI's Chat Completions, which most providers speak: a thin layer over `trunkline.openai_json`.

Options of an endpoint it knows:
- "reasoning_member": the member for reasoning of earlier turns that came in none of this API, such as
  "reasoning_content". Absent: such reasoning is left out. "reasoning" and "reasoning_content" also say that the
  provider knows no other: what a client sends back in another one, as answers of this gateway have it, goes there.
- "include_usage": "false" where `stream_options` is refused; usage is then not asked for.
- "developer_role": "system" where messages of the role "developer" are not understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn

import msgspec

from services.providers.dialects.base import ChatDialect, ChatStreamParser, Frame, HttpCall
from services.providers.endpoint import Endpoint
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply
from trunkline.openai_json import ChunkDecoder, decode_chat_reply, encode_chat_request, parse_openai_error
from trunkline.openai_json.reasoning import REASONING_MEMBERS

__all__ = ["DIALECT", "OpenAIChat"]

_PLAIN_MEMBERS: Final = frozenset({"reasoning", "reasoning_content"})
_LIST_MODELS: Final = HttpCall(path="/models", method="GET")
_encode = msgspec.json.Encoder().encode


class OpenAIChat:
    """The dialect object; see ChatDialect."""

    __slots__ = ()

    name: str = "openai_chat"
    framing: Literal["sse", "ndjson", "aws_event_stream"] = "sse"

    def render_chat(self, chat: Chat, model: str, endpoint: Endpoint, *, stream: bool) -> HttpCall:
        """Return POST /chat/completions. Raises UNSUPPORTED_FEATURE, INVALID_REQUEST."""
        options = endpoint.options
        body = encode_chat_request(chat, model=model, stream=stream, reasoning_member=options.get("reasoning_member"))
        warnings: list[chat_pb2.Warning] = []
        if endpoint.drops or endpoint.renames:
            _adapt(body, endpoint, warnings)
        if options.get("reasoning_member") in _PLAIN_MEMBERS:
            _keep_one_reasoning(body["messages"], options["reasoning_member"], endpoint, warnings)
        if stream and options.get("include_usage") == "false":
            body.pop("stream_options", None)
        if options.get("developer_role"):
            for message in body["messages"]:
                if message["role"] == "developer":
                    message["role"] = options["developer_role"]
        return HttpCall(path="/chat/completions", body=_encode(body), warnings=tuple(warnings))

    def parse_chat(self, body: bytes, endpoint: Endpoint) -> ChatReply:
        """Return the answer of a 2xx body. Raises UPSTREAM_MALFORMED_REPLY, or the error inside a 200."""
        return decode_chat_reply(body)

    def open_stream(self, endpoint: Endpoint) -> ChatStreamParser:
        """Return a parser for one streamed answer."""
        return _ChunkParser()

    def parse_error(self, status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint) -> GatewayError:
        """Return the error of a non-2xx answer."""
        return parse_openai_error(status, headers, body)

    def render_count_tokens(self, chat: Chat, model: str, endpoint: Endpoint) -> HttpCall:
        """Raise UNSUPPORTED_FEATURE: this API has no such operation."""
        raise _no_counting(endpoint)

    def parse_count_tokens(self, body: bytes, endpoint: Endpoint) -> int:
        """Raise UNSUPPORTED_FEATURE: this API has no such operation."""
        raise _no_counting(endpoint)

    def render_list_models(self, endpoint: Endpoint) -> HttpCall:
        """Return GET /models."""
        return _LIST_MODELS

    def parse_list_models(self, body: bytes, endpoint: Endpoint) -> list[str]:
        """Return the models' names of a 2xx body: OpenAI's `{"data": [{"id": …}]}` or the bare list."""
        try:
            listed = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _refuse_listing(endpoint)
        if type(listed) is dict:
            listed = listed.get("data")
        if type(listed) is not list:
            _refuse_listing(endpoint)
        return [entry["id"] for entry in listed if type(entry) is dict and type(entry.get("id")) is str and entry["id"]]


class _ChunkParser:
    """Reads one stream; the grammar is the ChunkDecoder's work."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = ChunkDecoder()

    @property
    def is_complete(self) -> bool:
        """Whether `[DONE]` was seen."""
        return self._decoder.is_complete

    def parse_frame(self, frame: Frame) -> list[ChatEvent]:
        """Return the events of one chunk. Event names mean nothing in this API."""
        return self._decoder.decode(frame.data)

    def parse_end(self) -> list[ChatEvent]:
        """Return what was held back. Raises STREAM_TRUNCATED when the answer was not complete."""
        return self._decoder.end()


def _adapt(body: dict[str, Any], endpoint: Endpoint, warnings: list[chat_pb2.Warning]) -> None:
    """Leave out and rename members as the provider needs it."""
    for name in endpoint.drops & body.keys():
        del body[name]
        warnings.append(chat_pb2.Warning(param=name, message=f"{endpoint.name} does not take it; left out"))
    for name, known_as in endpoint.renames.items():
        if name not in body:
            continue
        value = body.pop(name)
        if known_as in body:
            message = f"{endpoint.name} knows it as {known_as}, which was given too; left out"
            warnings.append(chat_pb2.Warning(param=name, message=message))
        else:
            body[known_as] = value


def _keep_one_reasoning(
    messages: list[dict[str, Any]], member: str, endpoint: Endpoint, warnings: list[chat_pb2.Warning]
) -> None:
    """Leave each message its reasoning in `member` alone; Groq, for one, answers 400 to any other."""
    for position, message in enumerate(messages):
        for other in REASONING_MEMBERS:
            if other == member or other not in message:
                continue
            value = message.pop(other)
            if not value or message.get(member):
                continue
            if type(value) is str:
                message[member] = value
            elif not any(message.get(name) for name in _PLAIN_MEMBERS):
                text = f"{endpoint.name} takes no reasoning in this form; left out"
                warnings.append(chat_pb2.Warning(param=f"messages[{position}].{other}", message=text))


def _no_counting(endpoint: Endpoint) -> GatewayError:
    return GatewayError(
        error_reason_pb2.ERROR_REASON_UNSUPPORTED_FEATURE,
        f"The provider {endpoint.name} does not count tokens.",
        metadata={"feature": "count_tokens", "provider": endpoint.name},
    )


def _refuse_listing(endpoint: Endpoint) -> NoReturn:
    raise GatewayError(
        error_reason_pb2.ERROR_REASON_UPSTREAM_MALFORMED_REPLY,
        f"The provider {endpoint.name} answered what is not a list of models.",
        metadata={"provider": endpoint.name},
    )


DIALECT: Final[ChatDialect] = OpenAIChat()
