"""A deployment that fails before its first content, and another that answers: the client sees nothing of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway import Gateway, chat, ledger, provider, running_gateway
from tests.providers.openai_upstream import CHUNKS, REPLY, STREAM
from tests.upstream import CUT, RESET, STALL, ScriptedUpstream, Step, chunked, json_answer, sse_answer, sse_head

FAILURES: dict[str, tuple[str, tuple[Step, ...]]] = {
    "500": ("UPSTREAM_OVERLOADED", (json_answer({}, status=500),)),
    "429": ("UPSTREAM_RATE_LIMITED", (json_answer({}, status=429, headers={"retry-after": "30"}),)),
    "401": ("UPSTREAM_REJECTED_CREDENTIALS", (json_answer({}, status=401),)),
    "reset": ("UPSTREAM_UNREACHABLE", (RESET,)),
    "silence": ("UPSTREAM_TIMEOUT", (STALL,)),
    "garbage": ("UPSTREAM_MALFORMED_REPLY", (json_answer([1]),)),
}
STREAM_FAILURES: dict[str, tuple[str, tuple[Step, ...]]] = {
    **FAILURES,
    "cut before content": ("STREAM_TRUNCATED", (sse_head(), chunked(b"data: " + CHUNKS[0] + b"\n\n"), CUT)),
    "an error as first frame": ("UPSTREAM_OVERLOADED", sse_answer([b'{"error": {"type": "server_error"}}'])),
}
CASES = [
    *(pytest.param(name, False, id=f"unary {name}") for name in FAILURES),
    *(pytest.param(name, True, id=f"stream {name}") for name in STREAM_FAILURES),
]


def document(bad: ScriptedUpstream, good: ScriptedUpstream, *, as_fallback: bool) -> dict[str, Any]:
    """Return a configuration whose first attempt meets `bad` for certain."""
    first = {"provider": "bad", "model": "m-bad"}
    second = {"provider": "good", "model": "m-good"}
    models: dict[str, Any]
    if as_fallback:
        models = {
            "m": {"deployments": [first], "retries": 0, "fallbacks": ["spare"]},
            "spare": {"deployments": [second]},
        }
    else:
        models = {"m": {"deployments": [first, {**second, "weight": 0}]}}
    return {"providers": {"bad": provider(bad), "good": provider(good)}, "models": models}


@pytest.mark.parametrize("as_fallback", [False, True], ids=["deployment", "fallback"])
@pytest.mark.parametrize(("name", "stream"), CASES)
async def test_the_next_one_answers(name: str, stream: bool, as_fallback: bool, tmp_path: Path) -> None:
    reason, steps = STREAM_FAILURES[name]
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.answer(*steps)
        good.answer(*(sse_answer(STREAM) if stream else (json_answer(REPLY),)))
        async with running_gateway(tmp_path, document(bad, good, as_fallback=as_fallback)) as gateway:
            answer = await gateway.ask(chat(stream=stream), headers={"x-request-id": "one"})
        assert (len(bad.requests), len(good.requests)) == (1, 1)
        assert good.requests[0].json["model"] == "m-good"
    second = "spare/0" if as_fallback else "m/1"
    assert answer.status == 200
    assert answer.text == "Hello, wörld."
    assert "error" not in answer.body.decode()
    assert answer.headers["x-trunkline-attempts"] == "2"
    assert answer.headers["x-trunkline-provider"] == "good"
    assert answer.headers["x-trunkline-deployment"] == second
    (row,) = ledger(tmp_path)
    assert (row["outcome"], row["error_reason"], row["deployment"]) == ("completed", "", second)
    assert [(attempt["deployment"], attempt["error_reason"]) for attempt in row["attempts"]] == [
        ("m/0", reason),
        (second, ""),
    ]
    assert (row["input_tokens"], row["output_tokens"]) == (9, 3)


async def test_after_the_first_content_nobody_else_is_asked(tmp_path: Path) -> None:
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.answer(sse_head(), *(chunked(b"data: " + event + b"\n\n") for event in CHUNKS[:2]), CUT)
        async with running_gateway(tmp_path, document(bad, good, as_fallback=True)) as gateway:
            answer = await gateway.ask(chat(stream=True))
        assert good.requests == []
    assert answer.headers["x-trunkline-attempts"] == "1"
    assert answer.documents[-1]["error"]["code"] == "stream_truncated"
    assert "[DONE]" not in answer.frames
    (row,) = ledger(tmp_path)
    assert row["outcome"] == "truncated"
    assert len(row["attempts"]) == 1


async def test_a_callers_mistake_is_asked_of_one_only(tmp_path: Path) -> None:
    refusal = {"error": {"message": "temperature is too high", "type": "invalid_request_error", "param": "temperature"}}
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.answer(json_answer(refusal, status=400))
        async with running_gateway(tmp_path, document(bad, good, as_fallback=True)) as gateway:
            answer = await gateway.ask(chat(temperature=1.9))
        assert good.requests == []
    assert answer.status == 400
    assert answer.json["error"]["param"] == "temperature"


async def ask_all_bad(gateway: Gateway, *, stream: bool) -> dict[str, Any]:
    """Return the error of a call that nobody could answer."""
    answer = await gateway.ask(chat(stream=stream))
    assert answer.status == 503
    error: dict[str, Any] = answer.json["error"]
    return error


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_when_all_fail_the_last_word_says_who_was_tried(stream: bool, tmp_path: Path) -> None:
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.always(json_answer({}, status=401))
        good.always(json_answer([1]))
        async with running_gateway(tmp_path, document(bad, good, as_fallback=True)) as gateway:
            error = await ask_all_bad(gateway, stream=stream)
    assert error["code"] == "no_healthy_deployment"
    assert "m/0=UPSTREAM_REJECTED_CREDENTIALS" in error["message"]
    assert "spare/0=UPSTREAM_MALFORMED_REPLY" in error["message"]
    (row,) = ledger(tmp_path)
    assert (row["outcome"], row["error_reason"]) == ("failed", "NO_HEALTHY_DEPLOYMENT")
    assert len(row["attempts"]) == 2
