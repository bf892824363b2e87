"""Requests to the Messages API as Anthropic's own SDKs and frameworks sent them, rebuilt from the contract's Chat.

`_chat_from` reads a recorded body by hand into a Chat; rendering that must give the recorded body. What may differ is
`_normal`: a string for a list of one text, members that are null or false where that is the default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.providers.dialects.anthropic_messages import DIALECT
from services.providers.endpoint import Endpoint
from trunkline.inference.v1 import chat_pb2 as pb

RECORDINGS = Path(__file__).parents[4] / "shared" / "recordings"
ENDPOINT = Endpoint(name="anthropic", catalog="anthropic", dialect="anthropic_messages", base_url="http://upstream")

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not beside the project")

TYPED = {"model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "stream"}
TYPED |= {"temperature", "top_p", "stop_sequences", "metadata", "anthropic_version"}

# Requests that hold what the API refuses, or refused: there the dialect sends something else.
REFUSED = {
    "anthropic/chat-beta-structured-outputs-f93406": "output_format in a form the API answered with a 400",
}


def _recordings(*apis: str) -> list[Any]:
    found = []
    for path in sorted(RECORDINGS.glob("*/*.json")):
        recording = json.loads(path.read_text()) if path.parent.name in {"anthropic", "azure_ai", "openrouter"} else {}
        if recording.get("api") in apis and recording["request"]["body"] and recording["id"] not in REFUSED:
            found.append(pytest.param(recording, id=recording["id"]))
    return found or [pytest.param(None, id="none", marks=pytest.mark.skip(reason="the recordings are not there"))]


def _chat_from(body: dict[str, Any]) -> pb.Chat:
    chat = pb.Chat(
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        stop=body.get("stop_sequences", []),
        safety_identifier=body.get("metadata", {}).get("user_id"),
        tools=[_tool_from(tool) for tool in body.get("tools", [])],
    )
    if "system" in body:
        chat.messages.append(_message(pb.ROLE_SYSTEM, body["system"]))
    for turn in body["messages"]:
        chat.messages.extend(_messages_from(turn))
    extra = {name: value for name, value in body.items() if name not in TYPED}
    _fill_choice(chat, body.get("tool_choice", {}))
    thinking = body.get("thinking", {})
    if thinking.keys() == {"type", "budget_tokens"}:
        chat.reasoning_budget_tokens = thinking["budget_tokens"]
    elif thinking:
        extra["thinking"] = thinking
    form = body.get("output_config", {}).get("format")
    if form:
        chat.response_format.json_schema.schema_json = json.dumps(form["schema"])
    chat.extra_json = json.dumps(extra) if extra else ""
    return chat


def _fill_choice(chat: pb.Chat, choice: dict[str, Any]) -> None:
    modes = {"auto": pb.TOOL_CHOICE_MODE_AUTO, "any": pb.TOOL_CHOICE_MODE_REQUIRED, "none": pb.TOOL_CHOICE_MODE_NONE}
    if choice.get("type") == "tool":
        chat.tool_choice.function_name = choice["name"]
    elif choice:
        chat.tool_choice.mode = modes[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        chat.parallel_tool_calls = False


def _tool_from(tool: dict[str, Any]) -> pb.Tool:
    if "input_schema" not in tool:
        return pb.Tool(opaque_json=json.dumps(tool))
    rest = {k: v for k, v in tool.items() if k not in {"name", "description", "input_schema", "strict"}}
    function = pb.FunctionTool(
        name=tool["name"],
        description=tool.get("description"),
        parameters_json=json.dumps(tool["input_schema"]),
        strict=tool.get("strict"),
    )
    return pb.Tool(function=function, extra_json=json.dumps(rest) if rest else "")


def _message(role: pb.Role.ValueType, content: Any) -> pb.Message:
    if isinstance(content, str):
        parts = [pb.Part(text=pb.TextPart(text=content))]
        return pb.Message(role=role, parts=parts, content_form=pb.CONTENT_FORM_STRING)
    return pb.Message(role=role, parts=[_part_from(block) for block in content], content_form=pb.CONTENT_FORM_LIST)


def _messages_from(turn: dict[str, Any]) -> list[pb.Message]:
    role, content = turn["role"], turn["content"]
    if role == "assistant":
        return [_message(pb.ROLE_ASSISTANT, content)]
    if isinstance(content, str):
        return [_message(pb.ROLE_USER, content)]
    messages = []
    for block in content:
        if block["type"] == "tool_result":
            message = _message(pb.ROLE_TOOL, block.get("content", []))
            message.tool_call_id = block["tool_use_id"]
            if "is_error" in block:
                message.tool_failed = block["is_error"]
            if "cache_control" in block:
                message.extra_json = json.dumps({"cache_control": block["cache_control"]})
            messages.append(message)
    rest = [block for block in content if block["type"] != "tool_result"]
    return [*messages, *([_message(pb.ROLE_USER, rest)] if rest else [])]


def _part_from(block: dict[str, Any]) -> pb.Part:
    kind = block["type"]
    rest = {k: v for k, v in block.items() if k not in {"type", "text", "source", "title", "id", "name", "input"}}
    extra = json.dumps(rest) if rest else ""
    if kind == "text":
        return pb.Part(text=pb.TextPart(text=block["text"], extra_json=extra))
    if kind == "tool_use":
        arguments = json.dumps(block["input"])
        call = pb.ToolCall(id=block["id"], name=block["name"], arguments_json=arguments, extra_json=extra)
        return pb.Part(tool_call=call)
    if kind == "thinking":
        return pb.Part(reasoning=pb.ReasoningPart(text=block["thinking"], signature=block["signature"]))
    if kind == "redacted_thinking":
        return pb.Part(reasoning=pb.ReasoningPart(encrypted=block["data"]))
    if kind in {"image", "document"}:
        source = block["source"]
        url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
        if kind == "image":
            return pb.Part(image=pb.ImagePart(url=url, extra_json=extra))
        file = pb.FilePart(filename=block.get("title"), extra_json=extra)
        if source["type"] == "file":
            file.file_id = source["file_id"]
        else:
            file.url = url
        return pb.Part(file=file)
    return pb.Part(opaque=pb.OpaquePart(dialect="anthropic_messages", type=kind, json=json.dumps(block)))


def _normal(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body in one form where the API knows several for the same."""
    out = {name: value for name, value in body.items() if value not in (None, []) and name != "stream"}
    if isinstance(out.get("system"), str):
        out["system"] = [{"type": "text", "text": out["system"]}]
    turns: list[dict[str, Any]] = []
    for turn in out["messages"]:
        content = _blocks(turn["content"])
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1]["content"] += content
        elif content:
            turns.append({"role": turn["role"], "content": content})
    out["messages"] = turns
    return out


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    blocks = [dict(block) for block in content if block.get("text", "x").strip()]
    for block in blocks:
        if block["type"] == "tool_result" and block.get("content"):
            block["content"] = _blocks(block["content"])
        if block["type"] == "text" and not block.get("citations"):
            block.pop("citations", None)
    return blocks


@pytest.mark.parametrize("recording", _recordings("anthropic.messages"))
def test_a_recorded_request_is_rendered_as_it_was_sent(recording: dict[str, Any]) -> None:
    body = recording["request"]["body"]
    stream = bool(body.get("stream"))
    call = DIALECT.render_chat(_chat_from(body), body["model"], ENDPOINT, stream=stream)
    sent = json.loads(call.body)
    assert call.path == "/v1/messages"
    assert ("anthropic-version", "2023-06-01") in call.headers
    assert sent.get("stream", False) is stream
    assert _normal(sent) == _normal(body)
    assert call.warnings == ()


@pytest.mark.parametrize("recording", _recordings("anthropic.count_tokens"))
def test_a_recorded_count_is_asked_for_as_it_was(recording: dict[str, Any]) -> None:
    body = recording["request"]["body"]
    call = DIALECT.render_count_tokens(_chat_from(body), body["model"], ENDPOINT)
    assert call.path == "/v1/messages/count_tokens"
    assert _normal(json.loads(call.body)) == _normal(body)


def test_a_system_message_in_the_conversation_stays_where_the_model_takes_it() -> None:
    path = RECORDINGS / "bedrock" / "chat-mid-conversation-system-prompt-on-04ff5c.json"
    if not path.exists():
        pytest.skip("the recording is not there")
    body = json.loads(path.read_text())["request"]["body"]
    chat = _chat_from({**body, "messages": [turn for turn in body["messages"] if turn["role"] != "system"]})
    chat.messages.append(_message(pb.ROLE_SYSTEM, body["messages"][-1]["content"]))
    sent = json.loads(DIALECT.render_chat(chat, "claude-opus-4-8", ENDPOINT, stream=False).body)
    assert _normal(sent)["messages"] == _normal(body)["messages"]
    assert sent["system"] == body["system"]
