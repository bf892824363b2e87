"""Recorded exchanges with Anthropic's Messages API, through the whole gateway, for a client of OpenAI's JSON.

`anthropic_as_openai` writes the recorded request as such a client would. The upstream must see the recorded body. It
may differ in this and in nothing else:
- Content that is one text may be a string or a list of one block; turns of one side that follow each other are one.
- Members that are null, false, or an empty list where that is the default may be left out: `stream`, `is_error`,
  `citations`, `tools`; so may text blocks of blanks, which the API refuses.
The order of members does not count, the JSON values do.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.providers.recordings import Recording, recordings
from tests.recordings.anthropic_as_openai import openai_body
from tests.recordings.checks import check_error, check_record, check_schema
from tests.recordings.gateway import Exchange
from tests.recordings.meaning import Choice, meaning_of_answer, recorded_events

_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length"}
_REASON_OF_STATUS = {400: "INVALID_REQUEST", 401: "UPSTREAM_REJECTED_CREDENTIALS", 404: "MODEL_NOT_FOUND"}


def client_body(recording: Recording) -> dict[str, Any]:
    """Return what the client sends; of a stream it wants the usage."""
    body = openai_body(recording.request["body"], recording.request["headers"].get("anthropic-beta", ""))
    return {**body, "stream_options": {"include_usage": True}} if body.get("stream") else body


def _normal(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request in one form where the API knows several for the same."""
    defaults: tuple[tuple[str, Any], ...] = (("stream", False), ("tools", []))
    out = {name: value for name, value in body.items() if value is not None and (name, value) not in defaults}
    if "system" in out:
        out["system"] = _blocks(out["system"])
    turns: list[dict[str, Any]] = []
    for turn in out["messages"]:
        blocks = _blocks(turn["content"])
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1]["content"] += blocks
        else:
            turns.append({**turn, "content": blocks})
    out["messages"] = turns
    return out


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    blocks = []
    for block in content:
        out = {name: value for name, value in block.items() if value is not None}
        if out["type"] == "text" and not out["text"].strip():
            continue
        for name, default in (("is_error", False), ("citations", [])):
            if out.get(name) == default:
                del out[name]
        if out["type"] == "tool_result":
            out["content"] = _blocks(out.get("content", ""))
        blocks.append(out)
    return blocks


def _message_of(recording: Recording) -> dict[str, Any]:
    """Return the recorded message, put together as Anthropic's own SDKs do."""
    message: dict[str, Any] = {}
    for event in recorded_events(recording):
        match event["type"]:
            case "message":
                message = event
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append({**event["content_block"], "partial_json": ""})
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                for name in ("text", "thinking", "signature", "partial_json"):
                    if name in delta:
                        block[name] = block.get(name, "") + delta[name]
            case "message_delta":
                message.update({name: value for name, value in event["delta"].items() if value is not None})
                message["usage"] |= {name: value for name, value in event["usage"].items() if value is not None}
    for block in message["content"]:
        if block["type"] == "tool_use" and block.get("partial_json"):
            block["input"] = json.loads(block["partial_json"])
    return message


def _usage_of(message: dict[str, Any]) -> dict[str, int]:
    """Return the recorded counts by OpenAI's names: the prompt holds what a cache gave or took."""
    usage = message["usage"]
    read, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    prompt = usage["input_tokens"] + read + written
    details = usage.get("output_tokens_details") or {}
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": usage["output_tokens"],
        "total_tokens": prompt + usage["output_tokens"],
        "cached_tokens": read,
        "cache_write_tokens": written,
        "reasoning_tokens": details.get("thinking_tokens") or 0,
    }
    return {name: count for name, count in counts.items() if count}


def _check_choice(found: Choice, message: dict[str, Any]) -> None:
    blocks = message["content"]
    assert found.text == "".join(block["text"] for block in blocks if block["type"] == "text")
    assert found.reasoning == "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    assert [(call_id, name, json.loads(arguments)) for call_id, name, arguments in found.calls] == [
        (block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"
    ]
    assert found.finish_reason == _FINISH[message["stop_reason"]]
    thought = [block for block in blocks if block["type"] in {"thinking", "redacted_thinking"}]
    assert found.sealed == [block.get("signature") or block["data"] for block in thought]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("recording", recordings("anthropic.messages", "chat", "chat_stream"))
async def test_a_recorded_message_comes_through(recording: Recording, exchanges: dict[str, Exchange]) -> None:
    exchange, sent = exchanges[recording.id], client_body(recording)
    assert exchange.requests, exchange.body
    (request,) = exchange.requests
    assert (request.method, request.target) == ("POST", "/v1/messages")
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == ("sk-test", "2023-06-01")
    betas = set(recording.request["headers"].get("anthropic-beta", "").split(",")) - {""}
    assert betas <= set(request.headers.get("anthropic-beta", "").split(","))
    assert _normal(request.json) == _normal(recording.request["body"])

    status = recording.response["status"]
    if status >= 400:
        check_error(recording, exchange, _REASON_OF_STATUS[status])
        return
    message = _message_of(recording)
    found = meaning_of_answer(exchange.content_type, exchange.body)
    assert (exchange.status, found.error) == (200, None)
    assert found.is_done is bool(sent.get("stream"))
    assert found.choices.keys() == {0}
    _check_choice(found.choices[0], message)
    usage = _usage_of(message)
    assert found.usage == usage
    check_schema(exchange)
    record = check_record(recording, exchange, usage, finish_reason=_FINISH[message["stop_reason"]])
    assert record.reply_id == message["id"]
