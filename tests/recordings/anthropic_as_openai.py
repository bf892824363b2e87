"""Recorded requests to Anthropic's Messages API, as a client of OpenAI's JSON would write them.

What OpenAI has a member for goes there; Anthropic's own members, tools and content blocks go as they are, beside them.
A turn of the model whose blocks are in another order than OpenAI's (thinking, content, calls) becomes several messages.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["openai_body"]

_Json = dict[str, Any]

_SAME = (
    *("max_tokens", "temperature", "top_p", "stream", "thinking", "container", "mcp_servers", "context_management"),
    *("cache_control", "output_config", "output_format"),
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_RANKS = {"thinking": 0, "redacted_thinking": 0, "tool_use": 2}


def openai_body(body: _Json, betas: str) -> _Json:
    """Return the chat completion request that means the same. `betas` are those of the recorded header."""
    out: _Json = {name: body[name] for name in _SAME if name in body}
    messages: list[_Json] = []
    if "system" in body:
        messages.append({"role": "system", "content": _content(body["system"])})
    for turn in body["messages"]:
        messages += _user(turn["content"]) if turn["role"] == "user" else _assistant(turn["content"])
    out["messages"] = messages
    if "tools" in body:
        out["tools"] = [_tool(tool) for tool in body["tools"]]
    choice = body.get("tool_choice")
    if choice:
        named = {"type": "function", "function": {"name": choice.get("name")}}
        out["tool_choice"] = named if choice["type"] == "tool" else _CHOICES[choice["type"]]
        if choice.get("disable_parallel_tool_use"):
            out["parallel_tool_calls"] = False
    if "stop_sequences" in body:
        out["stop"] = body["stop_sequences"]
    if "metadata" in body:
        out["user"] = body["metadata"]["user_id"]
    if betas:
        out["anthropic_beta"] = betas
    told = {*_SAME, "messages", "system", "tools", "tool_choice", "stop_sequences", "metadata", "model"}
    assert body.keys() <= told, f"members that this does not know: {body.keys() - told}"
    return out


def _content(content: Any) -> Any:
    return content if isinstance(content, str) else [_part(block) for block in content]


def _user(content: Any) -> list[_Json]:
    """Return a tool message for each result, then the user's own message, as the API orders them."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results = [block for block in content if block["type"] == "tool_result"]
    messages = [_result(block) for block in results]
    rest = [block for block in content if block["type"] != "tool_result"]
    return [*messages, {"role": "user", "content": _content(rest)}] if rest else messages


def _result(block: _Json) -> _Json:
    assert not block.get("is_error"), "OpenAI's JSON cannot say that a tool failed"
    beside = {name: value for name, value in block.items() if name == "cache_control"}
    content = _content(block.get("content", ""))
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content, **beside}


def _assistant(content: Any) -> list[_Json]:
    if isinstance(content, str):
        return [{"role": "assistant", "content": content}]
    messages: list[_Json] = []
    last = len(_RANKS)
    for block in content:
        rank = _RANKS.get(block["type"], 1)
        if rank < last:
            messages.append({"role": "assistant"})
        last = rank
        if rank == 0:
            messages[-1].setdefault("thinking_blocks", []).append(block)
        elif rank == 1:
            messages[-1].setdefault("content", []).append(_part(block))
        else:
            messages[-1].setdefault("tool_calls", []).append(_call(block))
    return messages


def _call(block: _Json) -> _Json:
    rest = {name: value for name, value in block.items() if name not in {"type", "id", "name", "input"}}
    function = {"name": block["name"], "arguments": json.dumps(block["input"])}
    return {"id": block["id"], "type": "function", "function": function, **rest}


def _part(block: _Json) -> _Json:
    """Return a content part; a block that OpenAI has no word for is one as it is."""
    source = block.get("source", {})
    rest = {name: value for name, value in block.items() if name not in {"type", "source", "title"}}
    if block["type"] == "image" and source["type"] != "file":
        return {"type": "image_url", "image_url": {"url": _url(source)}, **rest}
    if block["type"] == "document" and source["type"] in {"base64", "url"}:
        named = {"filename": block["title"]} if block.get("title") else {}
        return {"type": "file", "file": {"file_data": _url(source), **named}, **rest}
    if block["type"] == "document" and source["type"] == "file":
        return {"type": "file", "file": {"file_id": source["file_id"]}, **rest}
    return block


def _url(source: _Json) -> str:
    return source.get("url") or f"data:{source['media_type']};base64,{source['data']}"


def _tool(tool: _Json) -> _Json:
    if "input_schema" not in tool:
        return tool
    inside = {"name", "description", "strict"}
    function = {name: value for name, value in tool.items() if name in inside}
    rest = {name: value for name, value in tool.items() if name not in inside | {"input_schema", "type"}}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}, **rest}
