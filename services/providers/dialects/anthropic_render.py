"""A Chat as the body of a request to the Messages API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from services.providers.dialects.anthropic_history import Conversation, render_conversation
from services.providers.dialects.anthropic_models import ModelFacts, facts_of
from services.providers.dialects.anthropic_notes import RenderNotes, invalid, object_of
from services.providers.dialects.anthropic_settings import (
    NATIVE_MEMBERS,
    note_native_betas,
    refuse_unsupported,
    render_sampling,
    render_settings,
)
from services.providers.dialects.anthropic_structured import (
    JSON_INSTRUCTION,
    JSON_TOOL,
    render_json_format,
    render_json_tool,
)
from services.providers.dialects.anthropic_thinking import (
    default_max_tokens,
    plan_thinking,
    render_max_tokens,
)
from services.providers.dialects.anthropic_tools import (
    forces_tool,
    render_stub_tools,
    render_tool_choice,
    render_tools,
    render_web_search,
)
from services.providers.dialects.anthropic_wire import Members
from services.providers.endpoint import Endpoint
from trunkline.inference.v1.chat_pb2 import Chat

__all__ = ["render_body"]

_PASSED_ON: Final = (
    "container",
    "context_management",
    "mcp_servers",
    "cache_control",
    "output_format",
    "inference_geo",
    "speed",
    "diagnostics",
    "fallbacks",
    "fallback_credit_token",
    "compaction",
)


def render_body(chat: Chat, model: str, endpoint: Endpoint, *, stream: bool, notes: RenderNotes) -> dict[str, Any]:
    """Return the body; what was ignored or changed and the betas needed are in `notes` afterwards.

    Raises UNSUPPORTED_FEATURE and INVALID_REQUEST.
    """
    refuse_unsupported(chat, notes)
    facts = facts_of(model)
    native = _native_members(chat, notes)
    conversation = render_conversation(chat, facts, notes)
    tooling = _render_tooling(chat, facts, native, conversation, notes)
    if chat.response_format.HasField("json_object"):
        notes.warn(
            "response_format", "the Messages API has no JSON mode; an instruction was added to the system prompt"
        )
        conversation.system.is_text = conversation.system.is_text and not conversation.system.blocks
        conversation.system.blocks.append({"type": "text", "text": JSON_INSTRUCTION})

    conflict = _budget_conflict(tooling.is_forced, conversation)
    thinking = plan_thinking(chat, facts, native, notes, budget_conflict=conflict)
    max_tokens, thinking = render_max_tokens(chat, facts, thinking, default_max_tokens(facts, endpoint), notes)

    body: dict[str, Any] = {"model": model, "max_tokens": max_tokens}
    if stream:
        body["stream"] = True
    if conversation.system.blocks:
        body["system"] = conversation.system.render()["content"]
    body["messages"] = [turn.render() for turn in conversation.turns]
    body.update(tooling.members)
    if thinking.config is not None:
        body["thinking"] = thinking.config
    body.update(render_sampling(chat, facts, native, notes, is_thinking=thinking.is_on))
    body.update(render_settings(chat, notes))
    body.update({name: native[name] for name in _PASSED_ON if name in native})
    output_config = _render_output_config(native, tooling.json_format, thinking.effort)
    if output_config:
        body["output_config"] = output_config
    return _apply_endpoint(body, endpoint, notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tooling:
    """What a request says about tools and the form of its answer."""

    members: dict[str, Any]
    is_forced: bool
    json_format: dict[str, Any] | None


def _native_members(chat: Chat, notes: RenderNotes) -> Members:
    """Return the API's own members that the caller sent, without nulls."""
    members = notes.take_extras(chat.extra_json, NATIVE_MEMBERS, "")
    native = {name: value for name, value in members.items() if bytes(value) != b"null"}
    for name in ("betas", "anthropic_beta"):
        if name in native:
            _take_betas(native.pop(name), name, notes)
    note_native_betas(native, notes)
    return native


def _take_betas(raw: msgspec.Raw, param: str, notes: RenderNotes) -> None:
    try:
        value = msgspec.json.decode(raw, type=str | list[str])
    except msgspec.DecodeError:
        raise invalid(f"{param} is neither text nor a list of texts", param) from None
    for beta in value.split(",") if isinstance(value, str) else value:
        if not beta.strip().isascii() or not beta.strip().isprintable():
            raise invalid(f"{param} holds what cannot be in a header", param)
        notes.beta(beta.strip())


def _render_tooling(
    chat: Chat, facts: ModelFacts, native: Members, conversation: Conversation, notes: RenderNotes
) -> _Tooling:
    tools = render_tools(chat, facts, notes)
    if chat.web_search_options_json:
        tools.append(render_web_search(chat.web_search_options_json, notes))
    choice = render_tool_choice(chat, facts, notes)
    forced = forces_tool(chat)
    json_format: dict[str, Any] | None = None
    if chat.response_format.HasField("json_schema"):
        if facts.native_json:
            json_format = render_json_format(chat.response_format.json_schema, notes)
        else:
            tools.append(render_json_tool(chat.response_format.json_schema, notes))
            choice, forced = _force_json_tool(choice, only_tool=len(tools) == 1), True
    if "mcp_servers" in native and not any(tool.get("type") == msgspec.Raw(b'"mcp_toolset"') for tool in tools):
        notes.beta("mcp-client-2025-04-04")
    elif not tools:
        if choice is not None:
            notes.warn("tool_choice", "there are no tools; left out")
        tools = render_stub_tools(conversation, notes)
        choice = {"type": "none"} if tools else None
        forced = False
    members: dict[str, Any] = {"tools": tools} if tools else {}
    if choice is not None:
        members["tool_choice"] = choice
    return _Tooling(members=members, is_forced=forced, json_format=json_format)


def _force_json_tool(choice: dict[str, Any] | None, *, only_tool: bool) -> dict[str, Any]:
    """Make the model answer by a tool: the JSON tool, or one of the caller's where it may call those."""
    if only_tool or (choice is not None and choice["type"] == "none"):
        return {"type": "tool", "name": JSON_TOOL}
    return {**(choice or {}), "type": "any"} if choice is None or choice["type"] == "auto" else choice


def _budget_conflict(is_forced: bool, conversation: Conversation) -> str:
    if is_forced:
        return "a tool call is demanded, which does not go together with a thinking budget"
    if conversation.is_tool_loop_without_thinking:
        return "the turn that called the tools came without its thinking"
    return ""


def _render_output_config(
    native: Members, json_format: dict[str, Any] | None, effort: str | None
) -> dict[str, Any] | None:
    """Return output_config; what the caller wrote itself wins."""
    config: dict[str, Any] = {}
    if effort is not None:
        config["effort"] = effort
    if json_format is not None:
        config["format"] = json_format
    if "output_config" in native:
        config.update(object_of(bytes(native["output_config"]).decode(), "output_config"))
    return config or None


def _apply_endpoint(body: dict[str, Any], endpoint: Endpoint, notes: RenderNotes) -> dict[str, Any]:
    """Leave out and rename what this provider of the format wants otherwise; names are those of the rendered body."""
    for name in endpoint.drops & body.keys():
        del body[name]
        notes.warn(name, f"{endpoint.name} does not take it; left out")
    return {endpoint.renames.get(name, name): value for name, value in body.items()}
