"""What the model may call, in both directions: `tools`, the older `functions`, and the choice among them.

The one rule: schemas are carried as the caller's own text, byte for byte, so key order and number spelling survive.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, pack_extra, verbatim
from trunkline.openai_json.members import (
    missing,
    raw_list,
    raw_object,
    raw_value,
    take_document,
    take_raw,
    wrong_type,
)

__all__ = [
    "decode_function_choice",
    "decode_functions",
    "decode_tool_choice",
    "decode_tools",
    "encode_tool_choice",
    "encode_tools",
]

_MODES: Final[dict[str, pb.ToolChoiceMode.ValueType]] = {
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}
_MODE_NAMES: Final = {mode: name for name, mode in _MODES.items()}


def decode_tools(raw: msgspec.Raw, chat: pb.Chat) -> bool:
    """Append the request's `tools`; False when there are none to append. Raises INVALID_REQUEST."""
    elements = raw_list(raw, "tools")
    for position, element in enumerate(elements):
        _decode_tool(element, f"tools[{position}]", chat.tools.add())
    return bool(elements)


def decode_functions(raw: msgspec.Raw, chat: pb.Chat) -> bool:
    """Append the request's deprecated `functions`; False when there are none to append. Raises INVALID_REQUEST."""
    elements = raw_list(raw, "functions")
    for position, element in enumerate(elements):
        tool = chat.tools.add()
        tool.is_legacy_function = True
        _decode_function(element, f"functions[{position}]", tool.function)
    return bool(elements)


def _decode_tool(raw: msgspec.Raw, path: str, tool: pb.Tool) -> None:
    members = raw_object(raw, path)
    kind = take_raw(members, "type", path, str)
    if kind is None and "function" in members:
        members.pop("type", None)
        kind = "function"
    if kind is None:
        raise missing(f"{path}.type", "a string")
    if kind == "function":
        function = members.pop("function", None)
        if function is None:
            raise missing(f"{path}.function", "an object")
        _decode_function(function, f"{path}.function", tool.function)
    elif kind == "custom":
        custom = members.pop("custom", None)
        if custom is None:
            raise missing(f"{path}.custom", "an object")
        raw_object(custom, f"{path}.custom")
        tool.custom_json = bytes(custom).decode()
    else:
        tool.opaque_json = bytes(raw).decode()
        return
    tool.extra_json = pack_extra(members)


def _decode_function(raw: msgspec.Raw, path: str, function: pb.FunctionTool) -> None:
    members = raw_object(raw, path)
    name = take_raw(members, "name", path, str)
    if name is None:
        raise missing(f"{path}.name", "a string")
    function.name = name
    description = take_raw(members, "description", path, str)
    if description is not None:
        function.description = description
    parameters = take_document(members, "parameters", path)
    if parameters is not None:
        function.parameters_json = parameters
    strict = take_raw(members, "strict", path, bool)
    if strict is not None:
        function.strict = strict
    function.extra_json = pack_extra(members)


def encode_tools(chat: pb.Chat, body: dict[str, Any]) -> None:
    """Put a chat's tools into a request's `tools` and `functions`. Raises INVALID_REQUEST for JSON that is none."""
    for position, tool in enumerate(chat.tools):
        path = f"tools[{position}]"
        if tool.is_legacy_function:
            body.setdefault("functions", []).append(_encode_function(tool.function, path))
        else:
            body.setdefault("tools", []).append(_encode_tool(tool, path))


def _encode_tool(tool: pb.Tool, path: str) -> dict[str, Any] | msgspec.Raw:
    kind = tool.WhichOneof("tool")
    if kind == "opaque_json":
        return verbatim(tool.opaque_json, f"{path}.opaque_json", opening="{")
    value: dict[str, Any]
    if kind == "custom_json":
        value = {"type": "custom", "custom": verbatim(tool.custom_json, f"{path}.custom_json", opening="{")}
    else:
        value = {"type": "function", "function": _encode_function(tool.function, path)}
    merge_extra(value, tool.extra_json, f"{path}.extra_json")
    return value


def _encode_function(function: pb.FunctionTool, path: str) -> dict[str, Any]:
    value: dict[str, Any] = {"name": function.name}
    if function.HasField("description"):
        value["description"] = function.description
    if function.parameters_json:
        value["parameters"] = verbatim(function.parameters_json, f"{path}.function.parameters_json", opening="{")
    if function.HasField("strict"):
        value["strict"] = function.strict
    merge_extra(value, function.extra_json, f"{path}.function.extra_json")
    return value


def decode_tool_choice(raw: msgspec.Raw, choice: pb.ToolChoice) -> None:
    """Fill a choice from `tool_choice`. Raises INVALID_REQUEST."""
    value = raw_value(raw, "tool_choice")
    if type(value) is str and value in _MODES:
        choice.mode = _MODES[value]
    elif type(value) is dict and set(value) == {"type", "function"} and value["type"] == "function":
        function = value["function"]
        if type(function) is not dict:
            raise wrong_type("tool_choice.function", "an object", function)
        name = function.get("name")
        if type(name) is not str:
            raise wrong_type("tool_choice.function.name", "a string", name)
        if len(function) == 1:
            choice.function_name = name
        else:
            choice.opaque_json = bytes(raw).decode()
    elif type(value) in (str, dict):
        choice.opaque_json = bytes(raw).decode()
    else:
        raise wrong_type("tool_choice", "a string or an object", value)


def decode_function_choice(raw: msgspec.Raw, choice: pb.ToolChoice) -> None:
    """Fill a choice from the deprecated `function_call`. Raises INVALID_REQUEST."""
    value = raw_value(raw, "function_call")
    choice.is_legacy_function_call = True
    if type(value) is str and value in _MODES:
        choice.mode = _MODES[value]
    elif type(value) is dict and set(value) == {"name"} and type(value["name"]) is str:
        choice.function_name = value["name"]
    elif type(value) in (str, dict):
        choice.opaque_json = bytes(raw).decode()
    else:
        raise wrong_type("function_call", "a string or an object", value)


def encode_tool_choice(choice: pb.ToolChoice, body: dict[str, Any]) -> None:
    """Put a choice into a request's `tool_choice` or `function_call`. Raises INVALID_REQUEST for JSON that is none."""
    member = "function_call" if choice.is_legacy_function_call else "tool_choice"
    kind = choice.WhichOneof("choice")
    if kind == "mode":
        if choice.mode in _MODE_NAMES:
            body[member] = _MODE_NAMES[choice.mode]
    elif kind == "function_name":
        named = {"name": choice.function_name}
        body[member] = named if choice.is_legacy_function_call else {"type": "function", "function": named}
    elif kind == "opaque_json":
        body[member] = verbatim(choice.opaque_json, "tool_choice.opaque_json")
