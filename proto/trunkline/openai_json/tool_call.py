"""The model's calls of tools in a message's history, in both directions: `tool_calls` and the older `function_call`.

The one rule: arguments are text and are never parsed. A call without `type` is a function's; it gets its `type` back
spelled out, which is the only change a round trip makes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, pack_extra
from trunkline.openai_json.members import missing, take_string, wrong_type

__all__ = [
    "TEXT_MEMBERS",
    "decode_function_call",
    "decode_tool_calls",
    "encode_function_call",
    "encode_tool_call",
    "take_signature",
    "wrap_signature",
]

TEXT_MEMBERS: Final = {"function": "arguments", "custom": "input"}
"""By kind of call, which is also the name of its object: the member that holds what the model wrote."""


def decode_tool_calls(value: Any, path: str, message: pb.Message) -> None:
    """Append a message's `tool_calls` to its parts. Raises INVALID_REQUEST."""
    if type(value) is not list:
        raise wrong_type(path, "an array", value)
    for position, call in enumerate(value):
        at = f"{path}[{position}]"
        if type(call) is not dict:
            raise wrong_type(at, "an object", call)
        _decode_tool_call(call, at, message.parts.add().tool_call)


def _decode_tool_call(value: dict[str, Any], path: str, call: pb.ToolCall) -> None:
    call_id = take_string(value, "id", path)
    if call_id is None:
        raise missing(f"{path}.id", "a string")
    call.id = call_id
    kind = take_string(value, "type", path)
    if kind is None:
        value.pop("type", None)
        kind = "function"
    call.kind = kind
    text_member = TEXT_MEMBERS.get(kind)
    if text_member is not None:
        inner = value.get(kind)
        at = f"{path}.{kind}"
        if type(inner) is not dict:
            raise missing(at, "an object") if inner is None else wrong_type(at, "an object", inner)
        call.name, call.arguments_json = _name_and_text(inner, text_member, at)
        if not inner:
            del value[kind]
    call.signature = take_signature(value)
    call.extra_json = pack_extra(value)


def decode_function_call(value: Any, path: str, call: pb.ToolCall) -> None:
    """Fill a part from a message's deprecated `function_call`. Raises INVALID_REQUEST."""
    if type(value) is not dict:
        raise wrong_type(path, "an object", value)
    call.is_legacy_function_call = True
    call.kind = "function"
    call.name, call.arguments_json = _name_and_text(value, "arguments", path)
    call.extra_json = pack_extra({"function": value} if value else value)


def _name_and_text(inner: dict[str, Any], text_member: str, path: str) -> tuple[str, str]:
    name = take_string(inner, "name", path)
    if name is None:
        raise missing(f"{path}.name", "a string")
    text = take_string(inner, text_member, path)
    if text is None:
        raise missing(f"{path}.{text_member}", "a string")
    return name, text


def take_signature(value: dict[str, Any]) -> str:
    """Move a Gemini thought signature out of a call's JSON when `extra_content` holds it and nothing else."""
    content = value.get("extra_content")
    if type(content) is dict and len(content) == 1:
        google = content.get("google")
        if type(google) is dict and len(google) == 1:
            signature = google.get("thought_signature")
            if type(signature) is str and signature:
                del value["extra_content"]
                return signature
    return ""


def wrap_signature(signature: str) -> dict[str, Any]:
    """Return the `extra_content` that carries a thought signature."""
    return {"google": {"thought_signature": signature}}


def encode_tool_call(call: pb.ToolCall, path: str) -> dict[str, Any]:
    """Return an entry of `tool_calls`."""
    kind = call.kind or "function"
    value: dict[str, Any] = {"id": call.id, "type": kind}
    text_member = TEXT_MEMBERS.get(kind)
    if text_member is not None:
        value[kind] = {"name": call.name, text_member: call.arguments_json}
    if call.signature:
        value["extra_content"] = wrap_signature(call.signature)
    merge_extra(value, call.extra_json, path)
    return value


def encode_function_call(parts: Iterable[pb.Part], path: str) -> dict[str, Any] | None:
    """Return the `function_call` of a message, None when none of its calls was made in that form."""
    for part in parts:
        call = part.tool_call
        if part.WhichOneof("part") == "tool_call" and call.is_legacy_function_call:
            value: dict[str, Any] = {"function": {"name": call.name, "arguments": call.arguments_json}}
            merge_extra(value, call.extra_json, path)
            inner: dict[str, Any] = value["function"]
            return inner
    return None
