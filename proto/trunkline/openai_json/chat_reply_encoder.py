"""From a ChatReply to the JSON of a chat completion, as OpenAI's clients expect it.

The one rule: every member that OpenAI always sends is there, null when there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.annotations import encode_annotations
from trunkline.openai_json.content_part import encode_content_part
from trunkline.openai_json.extras import merge_extra
from trunkline.openai_json.finish_reason import encode_finish_reason, native_finish_reason
from trunkline.openai_json.logprobs import encode_logprobs
from trunkline.openai_json.message import encode_audio
from trunkline.openai_json.reasoning import encode_details, encode_thinking_blocks
from trunkline.openai_json.tool_call import encode_function_call, encode_tool_call
from trunkline.openai_json.usage import encode_usage

__all__ = ["encode_chat_reply", "encode_warnings", "needs_details", "service_tier_member"]

# Clients with generated types refuse others, so a provider's own tier goes under another name.
_SERVICE_TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})


def encode_chat_reply(
    reply: pb.ChatReply, *, model: str | None = None, fallback_id: str = "", fallback_created: int = 0
) -> bytes:
    """Return the body of an answer.

    `model` replaces the upstream's name of the model; `fallback_id` and `fallback_created` (seconds since 1970) stand
    in where the upstream gave none. Raises INVALID_REQUEST when an extra_json is not JSON.
    """
    value: dict[str, Any] = {
        "id": reply.id or fallback_id,
        "object": "chat.completion",
        "created": reply.created_seconds or fallback_created,
        "model": model or reply.model,
        "choices": [_encode_choice(choice) for choice in reply.choices],
    }
    if reply.HasField("usage"):
        value["usage"] = encode_usage(reply.usage)
    if reply.HasField("service_tier"):
        value.update(service_tier_member(reply.service_tier))
    if reply.HasField("system_fingerprint"):
        value["system_fingerprint"] = reply.system_fingerprint
    if reply.warnings:
        value["warnings"] = encode_warnings(reply.warnings)
    merge_extra(value, reply.extra_json, "extra_json")
    return msgspec.json.encode(value)


def service_tier_member(tier: str) -> dict[str, str]:
    """Return the member that tells the tier."""
    return {"service_tier": tier} if tier in _SERVICE_TIERS else {"provider_service_tier": tier}


def encode_warnings(warnings: Iterable[pb.Warning]) -> list[dict[str, str]]:
    """Return what was ignored or changed in the request, a member beside those of OpenAI."""
    return [{"param": warning.param, "message": warning.message} for warning in warnings]


def needs_details(blocks: Iterable[pb.ReasoningPart]) -> bool:
    """Whether reasoning holds more than words, so that a client has to send it back as blocks."""
    return any(
        block.signature or block.encrypted or block.is_summary or block.member == "reasoning_details"
        for block in blocks
    )


def _encode_choice(choice: pb.Choice) -> dict[str, Any]:
    index = choice.index
    message = choice.message
    parts = message.parts
    kinds = [part.WhichOneof("part") for part in parts]
    word = encode_finish_reason(choice.finish_reason, has_calls="tool_call" in kinds)
    content: Sequence[pb.TokenLogprob]
    refusal: Sequence[pb.TokenLogprob] = ()
    if kinds == ["text"]:  # most answers; spares them 3 us
        text = parts[0].text
        content = text.logprobs
        body = _encode_text(text, message.extra_json)
    else:
        content = [token for part in parts for token in part.text.logprobs]
        refusal = [token for part in parts for token in part.refusal.logprobs]
        body = _encode_message(message)
    value: dict[str, Any] = {
        "index": index,
        "message": body,
        "logprobs": encode_logprobs(content, refusal, present=choice.has_logprobs),
        "finish_reason": word,
    }
    raw = choice.raw_finish_reason
    if raw != word:
        value.update(native_finish_reason(raw, word))
    if choice.HasField("stop_sequence"):
        value["stop_reason"] = choice.stop_sequence
    extra = choice.extra_json
    if extra:
        merge_extra(value, extra, f"choices[{index}].extra_json")
    return value


def _encode_text(text: pb.TextPart, extra_json: str) -> dict[str, Any]:
    """Return a message that is one text, as `_encode_message` would."""
    value: dict[str, Any] = {"role": "assistant", "content": text.text, "refusal": None}
    annotations = text.annotations
    if annotations:
        value.update(encode_annotations(annotations))
    else:
        value["annotations"] = []
    merge_extra(value, extra_json, "message.extra_json")
    return value


def _encode_message(message: pb.Message) -> dict[str, Any]:
    kinds: dict[str, list[pb.Part]] = {}
    for part in message.parts:
        kinds.setdefault(part.WhichOneof("part") or "", []).append(part)
    texts = kinds.get("text", ())
    refusals = kinds.get("refusal", ())
    value: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(part.text.text for part in texts) if texts else None,
        "refusal": "".join(part.refusal.text for part in refusals) if refusals else None,
        **encode_annotations(each for part in texts for each in part.text.annotations),
    }
    if "reasoning" in kinds:
        value.update(_encode_reasoning([part.reasoning for part in kinds["reasoning"]]))
    if "tool_call" in kinds:
        calls = [part.tool_call for part in kinds["tool_call"] if not part.tool_call.is_legacy_function_call]
        if calls:
            value["tool_calls"] = [encode_tool_call(call, "tool_calls") for call in calls]
        legacy = encode_function_call(kinds["tool_call"], "function_call")
        if legacy is not None:
            value["function_call"] = legacy
    if "audio" in kinds:
        audio = {"expires_at": 0, "data": "", "transcript": ""}
        value["audio"] = {**audio, **encode_audio(kinds["audio"][0].audio, "audio")}
    if "image" in kinds:
        value["images"] = [encode_content_part(part, "images") for part in kinds["image"]]
    merge_extra(value, message.extra_json, "message.extra_json")
    return value


def _encode_reasoning(blocks: Sequence[pb.ReasoningPart]) -> dict[str, Any]:
    """Return the reasoning's words for every client, and its blocks for those who must send them back."""
    members: dict[str, Any] = {}
    text = "".join(block.text for block in blocks)
    if text:
        members["reasoning_content"] = text
    same = "".join(block.text for block in blocks if block.member == "reasoning")
    if same:
        members["reasoning"] = same
    if needs_details(blocks):
        details = encode_details(blocks, "reasoning_details")
        members["reasoning_details"] = [{"index": position, **entry} for position, entry in enumerate(details)]
    signed = [block for block in blocks if block.member == "thinking_blocks"]
    if signed:
        members["thinking_blocks"] = encode_thinking_blocks(signed, "thinking_blocks")
    return members
