"""The Messages API as it really answered: every recorded exchange, in both directions.

The recordings lie beside the project (`../shared/recordings`) and are not part of it; without them these tests skip.
What an answer means is worked out here from its JSON alone, by other code than the dialect's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.providers.dialects.anthropic_messages import DIALECT
from tests.providers.dialects.test_anthropic_cases import ENDPOINT, frames_of, parse_stream
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.reply import fold

RECORDINGS = Path(__file__).parents[4] / "shared" / "recordings"

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not beside the project")

FINISH = {
    "end_turn": pb.FINISH_REASON_STOP,
    "stop_sequence": pb.FINISH_REASON_STOP,
    "tool_use": pb.FINISH_REASON_TOOL_CALLS,
    "max_tokens": pb.FINISH_REASON_LENGTH,
}


def _recordings(*, status: int | None = 200, api: str = "anthropic.messages") -> list[Any]:
    found = []
    for path in sorted(RECORDINGS.glob("*/*.json")):
        if path.parent.name not in {"anthropic", "azure_ai", "openrouter"}:
            continue
        recording = json.loads(path.read_text())
        if recording["api"] == api and (recording["response"]["status"] == 200) == (status == 200):
            found.append(pytest.param(recording, id=recording["id"]))
    return found or [pytest.param(None, id="none", marks=pytest.mark.skip(reason="the recordings are not there"))]


def _message_of(recording: dict[str, Any]) -> dict[str, Any]:
    """Return the whole message of a recorded answer, putting a stream together as Anthropic's own SDKs do."""
    response = recording["response"]
    if "body_json" in response:
        whole: dict[str, Any] = response["body_json"]
        return whole
    message: dict[str, Any] = {}
    pieces: dict[int, str] = {}
    for frame in frames_of(response["body_text"].encode()):
        if frame.data.strip() == b"[DONE]":
            continue
        event = json.loads(frame.data)
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                _apply(message["content"][event["index"]], event["delta"], pieces, event["index"])
            case "message_delta":
                message.update({k: v for k, v in event["delta"].items() if v is not None})
                message["usage"].update({k: v for k, v in event["usage"].items() if v is not None})
    for index, text in pieces.items():
        message["content"][index]["input"] = json.loads(text or "{}")
    return message


def _apply(block: dict[str, Any], delta: dict[str, Any], pieces: dict[int, str], index: int) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            pieces[index] = pieces.get(index, "") + delta["partial_json"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        case unknown:
            pytest.fail(f"a delta this test does not know: {unknown}")


def _reply_of(recording: dict[str, Any]) -> pb.ChatReply:
    response = recording["response"]
    if "body_json" in response:
        return DIALECT.parse_chat(json.dumps(response["body_json"]).encode(), ENDPOINT)
    return fold(parse_stream(frames_of(response["body_text"].encode())))


@pytest.mark.parametrize("recording", _recordings())
def test_a_recorded_answer_keeps_its_meaning(recording: dict[str, Any]) -> None:
    message, reply = _message_of(recording), _reply_of(recording)
    choice = reply.choices[0]
    blocks = message["content"]
    parts = choice.message.parts
    assert [part.text.text for part in parts if part.HasField("text")] == [
        block["text"] for block in blocks if block["type"] == "text"
    ]
    assert [
        (call.id, call.name, json.loads(call.arguments_json))
        for call in (part.tool_call for part in parts if part.HasField("tool_call"))
    ] == [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    assert [
        (p.reasoning.text, p.reasoning.signature, p.reasoning.encrypted) for p in parts if p.HasField("reasoning")
    ] == [
        (block.get("thinking", ""), block.get("signature", ""), block.get("data", ""))
        for block in blocks
        if block["type"] in {"thinking", "redacted_thinking"}
    ]
    assert (choice.finish_reason, choice.raw_finish_reason) == (FINISH[message["stop_reason"]], message["stop_reason"])
    assert choice.stop_sequence == (message["stop_sequence"] or "")
    assert (reply.id, reply.model) == (message["id"], message["model"])
    _check_usage(reply.usage, message["usage"])


def _check_usage(usage: TokenUsage, recorded: dict[str, Any]) -> None:
    read = recorded.get("cache_read_input_tokens") or 0
    written = recorded.get("cache_creation_input_tokens") or 0
    assert usage.input_tokens == recorded["input_tokens"] + read + written
    assert usage.output_tokens == recorded["output_tokens"]
    assert (usage.input_cached_tokens, usage.input_cache_written_tokens) == (read, written)
    by_time = recorded.get("cache_creation") or {}
    assert usage.input_cache_written_5m_tokens == by_time.get("ephemeral_5m_input_tokens", 0)
    assert usage.input_cache_written_1h_tokens == by_time.get("ephemeral_1h_input_tokens", 0)
    assert usage.output_reasoning_tokens == (recorded.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    assert usage.web_search_requests == (recorded.get("server_tool_use") or {}).get("web_search_requests", 0)
    assert usage.HasField("input_cached_tokens") == (recorded.get("cache_read_input_tokens") is not None)
    assert json.loads(usage.raw_json) == {name: value for name, value in recorded.items() if value is not None}


@pytest.mark.parametrize("recording", _recordings())
def test_a_recorded_answer_goes_back_into_the_history_as_it_came(recording: dict[str, Any]) -> None:
    message, reply = _message_of(recording), _reply_of(recording)
    chat = pb.Chat(max_tokens=100)
    for role, parts in ((pb.ROLE_USER, [_text("Hello")]), (None, None), (pb.ROLE_USER, [_text("Go on")])):
        chat.messages.append(reply.choices[0].message if role is None else pb.Message(role=role, parts=parts))
    body = json.loads(DIALECT.render_chat(chat, "claude-sonnet-4-5", ENDPOINT, stream=False).body)
    said = body["messages"][1]
    assert said["role"] == "assistant"
    content = [{"type": "text", "text": said["content"]}] if isinstance(said["content"], str) else said["content"]
    assert content == [_sent_back(block) for block in message["content"] if block.get("text", "x").strip()]


def _sent_back(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block without what says nothing: an ordinary caller, no citations."""
    if block["type"] == "text" and not block.get("citations"):
        return {name: value for name, value in block.items() if name != "citations"}
    if block["type"] == "tool_use" and block.get("caller") == {"type": "direct"}:
        return {name: value for name, value in block.items() if name != "caller"}
    return block


def _text(text: str) -> pb.Part:
    return pb.Part(text=pb.TextPart(text=text))


@pytest.mark.parametrize(
    "recording", [*_recordings(status=None), *_recordings(status=None, api="anthropic.count_tokens")]
)
def test_a_recorded_error_has_a_reason(recording: dict[str, Any]) -> None:
    response = recording["response"]
    body = json.dumps(response["body_json"]).encode()
    error = DIALECT.parse_error(response["status"], response["headers"], body, ENDPOINT)
    expected = {
        "authentication_error": "UPSTREAM_REJECTED_CREDENTIALS",
        "not_found_error": "MODEL_NOT_FOUND",
        "invalid_request_error": "INVALID_REQUEST",
    }
    assert error.name == expected[response["body_json"]["error"]["type"]]


@pytest.mark.parametrize("recording", _recordings(api="anthropic.count_tokens"))
def test_recorded_token_counts_are_read(recording: dict[str, Any]) -> None:
    body = recording["response"]["body_json"]
    assert DIALECT.parse_count_tokens(json.dumps(body).encode(), ENDPOINT) == body["input_tokens"]


@pytest.mark.parametrize("recording", _recordings(api="anthropic.models"))
def test_the_recorded_models_are_listed(recording: dict[str, Any]) -> None:
    body = recording["response"]["body_json"]
    names = DIALECT.parse_list_models(json.dumps(body).encode(), ENDPOINT)
    assert names == [model["id"] for model in body["data"]]
    assert "claude-opus-4-7" in names
