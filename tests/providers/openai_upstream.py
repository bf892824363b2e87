"""What a scripted upstream of OpenAI's format answers in these tests, and the provider entry that points at it."""

from __future__ import annotations

import json
from typing import Any

from tests.upstream import ScriptedUpstream
from trunkline.inference.v1.chat_event_pb2 import ChatEvent

__all__ = ["CHUNKS", "KEY", "REPLY", "STREAM", "chunk", "config_of", "sse", "text_of"]

KEY = "sk-of-the-gateway"


REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1750000000,
    "model": "m-1-0613",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello, wörld."}, "finish_reason": "stop"},
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **members: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1750000000, "model": "m-1-0613"}
    return json.dumps({**body, "choices": choices, **members}, ensure_ascii=False).encode()


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hello, "}),
    chunk({"content": "wörld."}),
    chunk({}, "stop"),
    chunk(usage=REPLY["usage"]),
]


STREAM = (*CHUNKS, b"[DONE]")


def config_of(upstream: ScriptedUpstream, **members: Any) -> dict[str, Any]:
    entry = {"catalog": "openai_compatible", "base_url": f"{upstream.url}/v1", "api_key": KEY, **members}
    return {"acme": entry}


def text_of(events: list[ChatEvent]) -> str:
    return "".join(event.text_delta.text for event in events)


def sse(*payloads: bytes) -> bytes:
    return b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
