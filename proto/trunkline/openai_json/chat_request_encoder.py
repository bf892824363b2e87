"""From a Chat to the JSON of a chat completion request: what an upstream that speaks this API is sent.

The one rule: nothing is added that the caller did not ask for, except that a stream is always asked for its usage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, verbatim
from trunkline.openai_json.message import encode_message
from trunkline.openai_json.response_format import encode_response_format
from trunkline.openai_json.tools import encode_tool_choice, encode_tools

__all__ = ["encode_chat_request"]


def encode_chat_request(
    chat: pb.Chat, *, model: str, stream: bool, reasoning_member: str | None = None
) -> dict[str, Any]:
    """Return the request's members, for msgspec.json.encode. Raises INVALID_REQUEST, UNSUPPORTED_FEATURE.

    For every request that decode_chat_request accepts it gives an equal JSON value, with these exceptions: `model` is
    `model`; `stream` is there only when true, `stream_options` only then, and they always ask for usage; tools and
    tool calls without `type` get it spelled out; `provider_annotations`, as answers have them, join `annotations`.
    JSON documents that are carried as text (`parameters`, `schema`, `logit_bias`, `prediction`, ...) are msgspec.Raw.

    `reasoning_member` names the member for reasoning that came in none of this API ("reasoning_content", "reasoning",
    "reasoning_details", "thinking_blocks"); None leaves such reasoning out.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            encode_message(message, f"messages[{position}]", reasoning_member)
            for position, message in enumerate(chat.messages)
        ],
    }
    for field, value in chat.ListFields():
        name = field.name
        if name in _SAME_NAME:
            body[name] = value
        else:
            encode = _ENCODERS.get(name)
            if encode is not None:
                encode(chat, body)
    if stream:
        body["stream"] = True
        options: dict[str, Any] = {"include_usage": True}
        merge_extra(options, chat.stream_options.extra_json, "stream_options.extra_json")
        body["stream_options"] = options
    merge_extra(body, chat.extra_json, "extra_json")
    if not stream:
        body.pop("stream", None)
        body.pop("stream_options", None)
    return body


def _stop(chat: pb.Chat, body: dict[str, Any]) -> None:
    body["stop"] = chat.stop[0] if chat.stop_is_string and len(chat.stop) == 1 else list(chat.stop)


def _modalities(chat: pb.Chat, body: dict[str, Any]) -> None:
    body["modalities"] = list(chat.modalities)


def _metadata(chat: pb.Chat, body: dict[str, Any]) -> None:
    body["metadata"] = {entry.key: entry.value for entry in chat.metadata}


def _tool_choice(chat: pb.Chat, body: dict[str, Any]) -> None:
    encode_tool_choice(chat.tool_choice, body)


def _response_format(chat: pb.Chat, body: dict[str, Any]) -> None:
    value = encode_response_format(chat.response_format)
    if value is not None:
        body["response_format"] = value


def _audio(chat: pb.Chat, body: dict[str, Any]) -> None:
    output = chat.audio_output
    voice: Any = output.voice
    if voice.startswith("{"):
        voice = verbatim(voice, "audio_output.voice", opening="{")
    value = {"voice": voice, "format": output.format}
    merge_extra(value, output.extra_json, "audio_output.extra_json")
    body["audio"] = value


def _logit_bias(chat: pb.Chat, body: dict[str, Any]) -> None:
    body["logit_bias"] = verbatim(chat.logit_bias_json, "logit_bias_json", opening="{")


def _prediction(chat: pb.Chat, body: dict[str, Any]) -> None:
    body["prediction"] = verbatim(chat.prediction_json, "prediction_json", opening="{")


def _web_search_options(chat: pb.Chat, body: dict[str, Any]) -> None:
    body["web_search_options"] = verbatim(chat.web_search_options_json, "web_search_options_json", opening="{")


def _reasoning_budget(chat: pb.Chat, body: dict[str, Any]) -> None:
    """This API has no budget, only efforts; the steps are where its vendors' documentation puts them."""
    if chat.HasField("reasoning_effort"):
        return
    budget = chat.reasoning_budget_tokens
    body["reasoning_effort"] = next(effort for bound, effort in _EFFORTS if bound is None or budget <= bound)


_EFFORTS: Final[tuple[tuple[int | None, str], ...]] = ((0, "none"), (2048, "low"), (8192, "medium"), (None, "high"))

_SAME_NAME: Final = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "temperature",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)

_ENCODERS: Final[dict[str, Callable[[pb.Chat, dict[str, Any]], None]]] = {
    "audio_output": _audio,
    "logit_bias_json": _logit_bias,
    "metadata": _metadata,
    "modalities": _modalities,
    "prediction_json": _prediction,
    "reasoning_budget_tokens": _reasoning_budget,
    "response_format": _response_format,
    "stop": _stop,
    "tool_choice": _tool_choice,
    "tools": encode_tools,
    "web_search_options_json": _web_search_options,
}
