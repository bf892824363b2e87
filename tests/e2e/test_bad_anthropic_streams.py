"""The other dialect's stream, broken in the ways its format adds: what a client of the OpenAI format sees of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway import Answer, Row, chat, ledger, provider, running_gateway
from tests.upstream import CUT, STALL, ScriptedUpstream, Step, chunked, json_answer, sse_head


def event(kind: str, **members: Any) -> bytes:
    """Return one event as it is on the wire."""
    return chunked(f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode())


START = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 11, "output_tokens": 1},
    },
)
SAID = (
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("ping"),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello."}),
)
END = (
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 5}),
    event("message_stop"),
)
OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})

# name: steps, code, status when nothing was said yet, outcome, what was said
BAD: dict[str, tuple[tuple[Step, ...], str, int, str, str]] = {
    "an error as the first event": ((sse_head(), OVERLOADED, STALL), "upstream_overloaded", 503, "failed", ""),
    "an error before content": ((sse_head(), START, OVERLOADED, STALL), "upstream_overloaded", 503, "failed", ""),
    "a cut before content": ((sse_head(), START, CUT), "stream_truncated", 502, "truncated", ""),
    "silence before content": ((sse_head(), START, STALL), "upstream_timeout", 504, "failed", ""),
    "529": (
        (json_answer({"error": {"type": "overloaded_error"}}, status=529),),
        "upstream_overloaded",
        503,
        "failed",
        "",
    ),
    "401": (
        (json_answer({"error": {"type": "authentication_error"}}, status=401),),
        "upstream_rejected_credentials",
        502,
        "failed",
        "",
    ),
    "an error in the middle": (
        (sse_head(), START, *SAID, OVERLOADED, STALL),
        "upstream_overloaded",
        200,
        "failed",
        "Hello.",
    ),
    "a cut in the middle": ((sse_head(), START, *SAID, CUT), "stream_truncated", 200, "truncated", "Hello."),
    "the end before message_stop": (
        (sse_head(), START, *SAID, END[0], chunked()),
        "stream_truncated",
        200,
        "truncated",
        "Hello.",
    ),
    "silence in the middle": ((sse_head(), START, *SAID, STALL), "upstream_timeout", 200, "failed", "Hello."),
    "garbage in the middle": (
        (sse_head(), START, *SAID, chunked(b"event: content_block_delta\ndata: {oops\n\n"), STALL),
        "upstream_malformed_reply",
        200,
        "failed",
        "Hello.",
    ),
}
WHOLE: dict[str, tuple[Step, ...]] = {
    "as it should be": (sse_head(), START, *SAID, *END, chunked()),
    "an unknown event": (sse_head(), START, event("telemetry", n=1), *SAID, *END, chunked()),
    "silence after the end": (sse_head(), START, *SAID, *END, STALL),
}


async def ask(steps: tuple[Step, ...], directory: Path) -> tuple[Answer, Row]:
    """Return a client's stream and its record."""
    async with ScriptedUpstream() as upstream:
        entry = {**provider(upstream), "catalog": "anthropic"}
        models = {"m": {"deployments": [{"provider": "claude", "model": "claude-sonnet-4-5"}], "retries": 0}}
        upstream.answer(*steps)
        async with running_gateway(directory, {"providers": {"claude": entry}, "models": models}) as gateway:
            answer = await gateway.ask(chat(stream=True), headers={"x-request-id": "one"})
    (row,) = ledger(directory)
    assert answer.headers["x-request-id"] == row["request_id"] == "one"
    return answer, row


@pytest.mark.parametrize("name", BAD)
async def test_a_broken_stream(name: str, tmp_path: Path) -> None:
    steps, code, status, outcome, said = BAD[name]
    answer, row = await ask(steps, tmp_path)
    assert answer.status == status
    if said:
        assert answer.text == said
        assert "[DONE]" not in answer.frames
        assert answer.documents[-1]["error"]["code"] == code
        assert (row["input_tokens"], row["estimated"]) == (11, 1), "what was reported stands, what was said is added"
        assert row["output_tokens"] >= 2
    else:
        assert answer.json["error"]["code"] == code
    assert (row["outcome"], row["error_reason"]) == (outcome, code.upper())


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_stream(name: str, tmp_path: Path) -> None:
    answer, row = await ask(WHOLE[name], tmp_path)
    assert answer.text == "Hello."
    assert answer.frames[-1] == "[DONE]"
    assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("completed", 11, 5)
    # 3 and 15 USD a million.
    assert row["cost_nano_usd"] == 11 * 3_000 + 5 * 15_000
