"""Tools and tool choice for the Messages API."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from services.providers.dialects.anthropic_history import Conversation
from services.providers.dialects.anthropic_models import ModelFacts
from services.providers.dialects.anthropic_notes import RenderNotes, invalid, object_of
from services.providers.dialects.anthropic_parts import raw_json
from services.providers.dialects.anthropic_structured import render_strict_schema
from services.providers.dialects.anthropic_wire import Members
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_pb2 import Chat

__all__ = ["forces_tool", "render_stub_tools", "render_tool_choice", "render_tools", "render_web_search"]

_TOOL_EXTRAS: Final = frozenset(
    {"cache_control", "defer_loading", "allowed_callers", "eager_input_streaming", "input_examples", "type"}
)
_NO_PARAMETERS: Final = '{"type":"object","properties":{}}'
_DATED: Final = re.compile(r"_\d{8}\Z")  # the provider's own tools: "web_search_20250305"
_MODES: Final = {
    pb.TOOL_CHOICE_MODE_NONE: "none",
    pb.TOOL_CHOICE_MODE_AUTO: "auto",
    pb.TOOL_CHOICE_MODE_REQUIRED: "any",
}
# Tools that need a beta feature, by the beginning of their type.
_BETA_OF_TOOL: Final = {
    "code_execution_20250522": "code-execution-2025-05-22",
    "computer_20241022": "computer-use-2024-10-22",
    "computer_20250124": "computer-use-2025-01-24",
    "computer_20251124": "computer-use-2025-11-24",
    "memory_": "context-management-2025-06-27",
    "advisor_": "advisor-tool-2026-03-01",
    "mcp_toolset": "mcp-client-2025-11-20",
}
_WEB_SEARCH_TYPE: Final = "web_search_20250305"


def render_tools(chat: Chat, facts: ModelFacts, notes: RenderNotes) -> list[dict[str, Any]]:
    """Return the tools. Raises UNSUPPORTED_FEATURE for kinds the API has no form for."""
    return [_render_tool(tool, facts, notes, f"tools[{index}]") for index, tool in enumerate(chat.tools)]


def _render_tool(tool: pb.Tool, facts: ModelFacts, notes: RenderNotes, where: str) -> dict[str, Any]:
    kind = tool.WhichOneof("tool")
    if kind == "opaque_json":
        return _render_native(object_of(tool.opaque_json, where), notes, where)
    if kind != "function":
        notes.refuse("custom_tools", "the Messages API has no tools that take free text", param=where)
    function = tool.function
    rendered: dict[str, Any] = {"name": function.name}
    if function.HasField("description"):
        rendered["description"] = function.description
    param = f"{where}.function.parameters"
    if function.strict and facts.native_json and function.parameters_json.strip():
        rendered["input_schema"] = render_strict_schema(function.parameters_json, notes, param)
        rendered["strict"] = True
    else:
        rendered["input_schema"] = _render_parameters(function.parameters_json, param)
        if function.strict and not facts.native_json:
            notes.warn(f"{where}.function.strict", "this model does not know it; left out")
    rendered.update(notes.take_extras(function.extra_json, _TOOL_EXTRAS, f"{where}.function"))
    rendered.update(notes.take_extras(tool.extra_json, _TOOL_EXTRAS, where))
    return rendered


def _render_parameters(parameters_json: str, where: str) -> msgspec.Raw:
    """Return the schema verbatim; the API demands that it says `"type": "object"`."""
    if not parameters_json.strip():
        return raw_json(_NO_PARAMETERS)
    members = object_of(parameters_json, where)
    if "type" in members:
        return raw_json(parameters_json)
    return msgspec.Raw(msgspec.json.encode({"type": "object", **members}))


def _render_native(members: Members, notes: RenderNotes, where: str) -> dict[str, Any]:
    """Return a tool of the API itself verbatim: one it runs, or a function in its own form."""
    kind = msgspec.json.decode(members["type"]) if "type" in members else "custom"
    if not isinstance(kind, str):
        raise invalid(f"{where}.type is not text", f"{where}.type")
    if not (_DATED.search(kind) or kind == "mcp_toolset" or (kind == "custom" and "input_schema" in members)):
        notes.refuse("tools", f"the Messages API has no tools of type {kind!r}", param=f"{where}.type")
    for prefix, beta in _BETA_OF_TOOL.items():
        if kind.startswith(prefix):
            notes.beta(beta)
    return dict(members)


def render_web_search(options_json: str, notes: RenderNotes) -> dict[str, Any]:
    """Return the provider's web search tool for OpenAI's web_search_options."""
    where = "web_search_options"
    members = object_of(options_json, where)
    tool: dict[str, Any] = {"type": _WEB_SEARCH_TYPE, "name": "web_search"}
    location = members.pop("user_location", None)
    if location is not None and bytes(location) != b"null":
        described = object_of(bytes(location).decode(), f"{where}.user_location")
        approximate = described.get("approximate")
        known = object_of(bytes(approximate).decode(), f"{where}.user_location.approximate") if approximate else {}
        tool["user_location"] = {"type": "approximate", **known}
    for name in members:
        notes.warn(f"{where}.{name}", "the Messages API has no such setting; left out")
    return tool


def render_stub_tools(conversation: Conversation, notes: RenderNotes) -> list[dict[str, Any]]:
    """Return tools that stand for those called earlier: the API refuses calls in the history without any tools."""
    names = conversation.tool_names
    if names:
        notes.warn("tools", "the conversation has tool calls and no tools; stand-ins were sent, which cannot be called")
    return [{"name": name, "input_schema": raw_json(_NO_PARAMETERS)} for name in names]


def forces_tool(chat: Chat) -> bool:
    """Whether the caller demands a tool call."""
    choice = chat.tool_choice
    kind = choice.WhichOneof("choice")
    return kind == "function_name" or (kind == "mode" and choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED)


def render_tool_choice(chat: Chat, facts: ModelFacts, notes: RenderNotes) -> dict[str, Any] | None:
    """Return tool_choice, None when the caller left it to the provider."""
    if forces_tool(chat) and not facts.forced_tools:
        notes.refuse("forced_tool_choice", "this model cannot be made to call a tool", param="tool_choice")
    choice = chat.tool_choice
    kind = choice.WhichOneof("choice")
    rendered: dict[str, Any] | None = None
    if kind == "mode":
        mode = _MODES.get(choice.mode)
        rendered = {"type": mode} if mode else None
    elif kind == "function_name":
        rendered = {"type": "tool", "name": choice.function_name}
    elif kind == "opaque_json":
        rendered = _render_native_choice(choice.opaque_json, notes)
    if chat.HasField("parallel_tool_calls") and not chat.parallel_tool_calls:
        rendered = rendered or {"type": "auto"}
        if rendered.get("type") != "none":
            rendered.setdefault("disable_parallel_tool_use", True)
    return rendered


def _render_native_choice(opaque_json: str, notes: RenderNotes) -> dict[str, Any]:
    members = object_of(opaque_json, "tool_choice")
    kind = msgspec.json.decode(members["type"]) if "type" in members else None
    if kind not in {"auto", "any", "tool", "none"}:
        notes.refuse("tool_choice", "the Messages API has no such tool choice", param="tool_choice")
    return {**members, "type": kind}
