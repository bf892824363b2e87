"""Recorded exchanges with providers, where they lie beside the project; their meaning, read without our decoders."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.upstream import chunked

__all__ = [
    "Meaning",
    "Recording",
    "answer_steps",
    "arguments_of",
    "meaning_of_anthropic",
    "meaning_of_openai",
    "recordings",
]

_WRITE = 613
_FOLDER = Path(__file__).parents[3] / "shared" / "recordings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One exchange; `request` and `response` are as the folder's README describes them."""

    id: str
    provider: str
    operation: str
    api: str
    model: str
    request: dict[str, Any]
    response: dict[str, Any]

    @property
    def body(self) -> bytes:
        """The response's body."""
        if "body_json" in self.response:
            return json.dumps(self.response["body_json"], ensure_ascii=False).encode()
        if "body_text" in self.response:
            return str(self.response["body_text"]).encode()
        return base64.b64decode(self.response["body_base64"])


@dataclass(slots=True, kw_only=True)
class Meaning:
    """What a chat answer says, provider by provider the same."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[tuple[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    failed: bool = False


def recordings(api: str, *operations: str) -> list[Any]:
    """Return the recordings of an API as test parameters; one that skips with the reason when there are none here."""
    found = [
        pytest.param(recording, id=recording.id)
        for recording in _read()
        if recording.api == api and recording.operation in operations
    ]
    reason = "the recordings are not beside the project"
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]


def _read() -> Iterator[Recording]:
    for path in sorted(_FOLDER.glob("*/*.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        yield Recording(
            id=raw["id"],
            provider=raw["provider"],
            operation=raw["operation"],
            api=raw["api"],
            model=raw["model"] or "a-model",
            request=raw["request"],
            response=raw["response"],
        )


def answer_steps(recording: Recording) -> list[bytes]:
    """Return the HTTP response as it could have come: recorded head and body, in writes that fit no event's borders."""
    headers = {**recording.response["headers"], "transfer-encoding": "chunked"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {recording.response['status']} Recorded\r\n{lines}\r\n".encode("latin-1")
    body = recording.body
    return [head, *(chunked(body[start : start + _WRITE]) for start in range(0, len(body), _WRITE)), chunked()]


def meaning_of_openai(recording: Recording) -> Meaning:
    """Return what a recorded chat completion, streamed or whole, says in its first choice."""
    meaning = Meaning()
    calls: dict[int, list[str]] = {}
    for chunk in _chunks(recording):
        _read_usage(chunk, meaning)
        meaning.failed = meaning.failed or bool(chunk.get("error"))
        for choice in chunk.get("choices") or []:
            if choice.get("index", 0) != 0:
                continue
            delta = choice.get("message" if "body_json" in recording.response else "delta") or {}
            text, reasoning = _content(delta.get("content"))
            meaning.text += text
            meaning.reasoning += reasoning or _first_text(delta)
            meaning.finish_reason = choice.get("finish_reason") or meaning.finish_reason
            for call in delta.get("tool_calls") or []:
                # A whole answer numbers its calls by position; some streams give each call the same index or none.
                index = call.get("index")
                new = "delta" not in choice or index is None or (call.get("id") and index in calls)
                key = len(calls) if new else index
                _add_call(calls.setdefault(key, ["", ""]), call)
    meaning.tool_calls = [(name, arguments_of(text)) for name, text in calls.values()]
    return meaning


def _add_call(known: list[str], call: dict[str, Any]) -> None:
    function = call.get("function") or call.get("custom") or {}
    known[0] += function.get("name") or ""
    arguments = function.get("arguments") or function.get("input") or ""
    known[1] += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _chunks(recording: Recording) -> Iterator[dict[str, Any]]:
    if "body_json" in recording.response:
        yield recording.response["body_json"]
        return
    for line in recording.body.decode().splitlines():
        if line.startswith("data:") and line[5:].strip() not in ("", "[DONE]"):
            yield json.loads(line[5:])


def _read_usage(chunk: dict[str, Any], meaning: Meaning) -> None:
    usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")
    if not usage:
        return
    counted = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    meaning.total_tokens = usage.get("total_tokens")
    # Where the two do not add up, one of them leaves out reasoning (xAI) or audio (Mistral): only the total is sure.
    adds_up = None not in counted and sum(counted) == meaning.total_tokens
    meaning.input_tokens, meaning.output_tokens = counted if adds_up else (None, None)


def _content(content: Any) -> tuple[str, str]:
    """Return the text and the reasoning in a content member; Mistral writes both as a list, Cloudflare JSON as JSON."""
    if isinstance(content, dict):
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False), ""
    if not isinstance(content, list):
        return content or "", ""
    text = "".join(piece.get("text", "") for piece in content if piece.get("type") == "text")
    thought = [piece["thinking"] for piece in content if piece.get("type") == "thinking"]
    return text, "".join(inner.get("text", "") for pieces in thought for inner in pieces)


def _first_text(delta: dict[str, Any]) -> str:
    return next((delta[name] for name in ("reasoning_content", "reasoning") if isinstance(delta.get(name), str)), "")


def meaning_of_anthropic(recording: Recording) -> Meaning:
    """Return what a recorded message, streamed or whole, says."""
    meaning = Meaning()
    blocks: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    events = [recording.response["body_json"]] if "body_json" in recording.response else list(_chunks(recording))
    for event in events:
        message = event.get("message", event)
        usage |= {name: value for name, value in (message.get("usage") or {}).items() if value is not None}
        meaning.finish_reason = (event.get("delta") or message).get("stop_reason") or meaning.finish_reason
        meaning.failed = meaning.failed or event["type"] == "error"
        for block in message.get("content") or []:
            blocks[len(blocks)] = block
        if event["type"] == "content_block_start":
            blocks[event["index"]] = {**event["content_block"], "json": ""}
        elif event["type"] == "content_block_delta":
            _add_delta(blocks[event["index"]], event["delta"])
    for block in blocks.values():
        if block["type"] == "text":
            meaning.text += block["text"]
        elif block["type"] == "thinking":
            meaning.reasoning += block["thinking"]
        elif block["type"] == "tool_use":
            meaning.tool_calls.append((block["name"], json.loads(block.get("json") or "null") or block["input"]))
    cached = (usage.get("cache_creation_input_tokens") or 0) + (usage.get("cache_read_input_tokens") or 0)
    meaning.input_tokens, meaning.output_tokens = usage.get("input_tokens", 0) + cached, usage.get("output_tokens")
    return meaning


def _add_delta(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for kind, member in (("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json_delta", "partial_json")):
        if delta["type"] == kind:
            target = "json" if member == "partial_json" else member
            block[target] = block.get(target, "") + delta[member]


def arguments_of(text: str) -> Any:
    """Return a call's arguments as a value; the text itself when it is no JSON, as of a call that was cut."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text
