"""From the JSON of a chat completion request to a Chat.

The one rule: what is typed is checked strictly, what is not is carried. A member that is null, or that has a shape the
contract cannot hold (an empty list), stays in `extra_json` and comes back as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.document import DEFAULT_MAX_DEPTH, decode_document
from trunkline.openai_json.extras import pack_extra
from trunkline.openai_json.members import (
    INT64_MAX,
    INT64_MIN,
    missing,
    out_of_range,
    raw_object,
    raw_value,
    take_raw,
    wrong_type,
)
from trunkline.openai_json.message import decode_message
from trunkline.openai_json.response_format import decode_response_format
from trunkline.openai_json.tools import decode_function_choice, decode_functions, decode_tool_choice, decode_tools

__all__ = ["DecodedChat", "decode_chat_request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedChat:
    """A request, and whether its caller wants the answer as a stream."""

    chat: pb.Chat
    stream: bool


def decode_chat_request(body: bytes, *, max_depth: int = DEFAULT_MAX_DEPTH) -> DecodedChat:
    """Return the request in a body. Raises INVALID_REQUEST with the path of the member at fault in `param`."""
    members = decode_document(body, max_depth)
    chat = pb.Chat()
    model = take_raw(members, "model", "", str)
    if model is None:
        raise missing("model", "a string")
    chat.model = model
    messages = members.pop("messages", None)
    if messages is None:
        raise missing("messages", "an array of messages")
    _decode_messages(raw_value(messages, "messages"), chat)
    stream = take_raw(members, "stream", "", bool) or False
    members.pop("stream", None)  # null means false
    extra: dict[str, Any] = {}
    if "function_call" in members and members.get("tool_choice", _NULL) != _NULL:
        extra["function_call"] = members.pop("function_call")  # both forms were sent: the newer one counts
    for name, raw in members.items():
        decode = _DECODERS.get(name)
        left = raw if decode is None or raw == _NULL else decode(raw, name, chat)
        if left is not None:
            extra[name] = left
    chat.extra_json = pack_extra(extra)
    return DecodedChat(chat=chat, stream=stream)


_NULL: Final = msgspec.Raw(b"null")


def _decode_messages(value: Any, chat: pb.Chat) -> None:
    if type(value) is not list:
        raise wrong_type("messages", "an array of messages", value)
    if not value:
        raise out_of_range("messages", "at least one message")
    for position, message in enumerate(value):
        decode_message(message, f"messages[{position}]", chat.messages.add())


# Each of the following takes one member of the request and returns what of it has to stay in extra_json, or None.
_Decoder = Callable[[msgspec.Raw, str, pb.Chat], Any]


def _string(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    value = raw_value(raw, name)
    if type(value) is not str:
        raise wrong_type(name, "a string", value)
    setattr(chat, name, value)


def _boolean(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    value = raw_value(raw, name)
    if type(value) is not bool:
        raise wrong_type(name, "a boolean", value)
    setattr(chat, name, value)


def _integer(lowest: int, highest: int) -> _Decoder:
    expected = f"an integer from {lowest}" + ("" if highest == INT64_MAX else f" to {highest}")

    def decode(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
        value = raw_value(raw, name)
        if type(value) is not int:
            raise wrong_type(name, "an integer", value)
        if not lowest <= value <= highest:
            raise out_of_range(name, expected)
        setattr(chat, name, value)

    return decode


def _number(lowest: float, highest: float) -> _Decoder:
    def decode(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
        value = raw_value(raw, name)
        if type(value) not in (int, float):
            raise wrong_type(name, "a number", value)
        if not (lowest <= value <= highest and math.isfinite(value)):
            raise out_of_range(name, f"a number from {lowest:g} to {highest:g}")
        setattr(chat, name, value)

    return decode


def _object(field: str) -> _Decoder:
    def decode(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
        raw_object(raw, name)
        setattr(chat, field, bytes(raw).decode())

    return decode


def _logit_bias(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    for token, bias in raw_object(raw, name).items():
        value = raw_value(bias, f"{name}.{token}")
        if type(value) not in (int, float):
            raise wrong_type(f"{name}.{token}", "a number", value)
        if not -100 <= value <= 100:
            raise out_of_range(f"{name}.{token}", "a number from -100 to 100")
    chat.logit_bias_json = bytes(raw).decode()


def _stop(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    value = raw_value(raw, name)
    if type(value) is str:
        chat.stop.append(value)
        chat.stop_is_string = True
        return None
    return None if _strings(value, name, chat.stop.append, "a string or an array of strings") else raw


def _modalities(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    return None if _strings(raw_value(raw, name), name, chat.modalities.append, "an array of strings") else raw


def _strings(value: Any, path: str, append: Callable[[str], None], expected: str) -> bool:
    if type(value) is not list:
        raise wrong_type(path, expected, value)
    for position, element in enumerate(value):
        if type(element) is not str:
            raise wrong_type(f"{path}[{position}]", "a string", element)
        append(element)
    return bool(value)


def _metadata(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    labels = raw_object(raw, name)
    for key, label in labels.items():
        value = raw_value(label, f"{name}.{key}")
        if type(value) is not str:
            raise wrong_type(f"{name}.{key}", "a string", value)
        chat.metadata.add(key=key, value=value)
    return None if labels else raw


def _audio(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    members = raw_object(raw, name)
    voice = members.pop("voice", None)
    if voice is None:
        raise missing(f"{name}.voice", "a string or an object")
    value = raw_value(voice, f"{name}.voice")
    if type(value) not in (str, dict):
        raise wrong_type(f"{name}.voice", "a string or an object", value)
    encoding = take_raw(members, "format", name, str)
    if encoding is None:
        raise missing(f"{name}.format", "a string")
    output = chat.audio_output
    output.voice = value if type(value) is str else bytes(voice).decode()
    output.format = encoding
    output.extra_json = pack_extra(members)


def _stream_options(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    members = raw_object(raw, name)
    options = chat.stream_options
    options.SetInParent()
    include_usage = take_raw(members, "include_usage", name, bool)
    if include_usage is not None:
        options.include_usage = include_usage
    options.extra_json = pack_extra(members)


def _tools(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    return None if decode_tools(raw, chat) else raw


def _functions(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    return None if decode_functions(raw, chat) else raw


def _tool_choice(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    decode_tool_choice(raw, chat.tool_choice)


def _function_call(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    decode_function_choice(raw, chat.tool_choice)


def _response_format(raw: msgspec.Raw, name: str, chat: pb.Chat) -> Any:
    return decode_response_format(raw, chat.response_format) or None


_BOUND: Final = _integer(1, INT64_MAX)
_PENALTY: Final = _number(-2, 2)

# The ranges are those of the API's own description.
_DECODERS: Final[dict[str, _Decoder]] = {
    "audio": _audio,
    "frequency_penalty": _PENALTY,
    "function_call": _function_call,
    "functions": _functions,
    "logit_bias": _logit_bias,
    "logprobs": _boolean,
    "max_completion_tokens": _BOUND,
    "max_tokens": _BOUND,
    "metadata": _metadata,
    "modalities": _modalities,
    "n": _integer(1, 128),
    "parallel_tool_calls": _boolean,
    "prediction": _object("prediction_json"),
    "presence_penalty": _PENALTY,
    "prompt_cache_key": _string,
    "reasoning_effort": _string,
    "response_format": _response_format,
    "safety_identifier": _string,
    "seed": _integer(INT64_MIN, INT64_MAX),
    "service_tier": _string,
    "stop": _stop,
    "store": _boolean,
    "stream_options": _stream_options,
    "temperature": _number(0, 2),
    "tool_choice": _tool_choice,
    "tools": _tools,
    "top_logprobs": _integer(0, 20),
    "top_p": _number(0, 1),
    "user": _string,
    "verbosity": _string,
    "web_search_options": _object("web_search_options_json"),
}
