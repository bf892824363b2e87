"""Recorded chat completions, through the whole gateway: HTTP in, HTTP to the upstream out, and the ledger.

The upstream must see the recorded body. It may differ in this and in nothing else:
- `model` is the deployment's, which is the recorded one; where the recording has it in the path, it is added.
- `"stream": false` is left out; a stream always has `stream_options.include_usage`; a request without a stream has no
  `stream_options`.
- A tool call without `type` gets "function".
- What a catalog row says: `max_completion_tokens` is `max_tokens` (ollama, deepseek), `logit_bias`, `n` and `user`
  (ollama), `logit_bias`, `logprobs` and `top_logprobs` (groq) are left out, "developer" is "system" (ollama, deepseek).
- A request that the catalog row cannot serve is refused by name before anything is sent (`_REFUSED`).
The order of members does not count, the JSON values do.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.providers.recordings import Recording, recordings
from tests.recordings.checks import check_error, check_record, check_schema, check_typed
from tests.recordings.gateway import Exchange, row_of
from tests.recordings.meaning import Meaning, meaning_of_answer, meaning_of_recording, recorded_events
from trunkline.usage.v1 import usage_service_pb2 as usage_pb

_RENAMED = {"max_completion_tokens": "max_tokens"}
_RENAMING = frozenset({"ollama", "deepseek"})
_LEFT_OUT = {"ollama": ("logit_bias", "n", "user"), "groq": ("logit_bias", "logprobs", "top_logprobs")}

_REASON_OF_STATUS = {
    400: "INVALID_REQUEST",
    401: "UPSTREAM_REJECTED_CREDENTIALS",
    404: "MODEL_NOT_FOUND",
    429: "UPSTREAM_RATE_LIMITED",
    500: "UPSTREAM_OVERLOADED",
}
_REASONS = {
    "mistral/chat-bad-request-response-6438fe": "MODEL_NOT_FOUND",  # a 400 that says "invalid_model"
    "openrouter/chat-routed-failure-error-shape-40d17e": "MODEL_NOT_FOUND",  # a 400: "is not a valid model ID"
}
# The error came after the head of a 200: the reason, and the outcome in the ledger.
_FAILED_IN_STREAM = {
    "groq/chat_stream-tool-use-failed-error-streaming-text-c51141": "INVALID_REQUEST",
    "openrouter/chat_stream-stream-error-558a1a": "INVALID_REQUEST",
}
# DeepSeek cannot see, which its catalog row says: the same 400, without asking.
_REFUSED = frozenset(
    {
        "deepseek/chat-blocking-image-url-part-reaches-wire-25aae5",
        "deepseek/chat_stream-streaming-image-part-reaches-wire-f2fac9",
    }
)


def client_body(recording: Recording) -> dict[str, Any]:
    """Return what the client sends: the recorded body, or a small one where only the answer was recorded."""
    body = recording.request["body"]
    if body is not None:
        return {**body}
    return {"messages": [{"role": "user", "content": "?"}], "stream": recording.operation == "chat_stream"}


def _expected(recording: Recording) -> dict[str, Any]:
    """Return the body that the upstream has to see."""
    row = row_of(recording)
    body = {**client_body(recording), "model": recording.model}
    messages = [{**message} for message in body["messages"]]
    for message in messages:
        if row in _RENAMING and message["role"] == "developer":
            message["role"] = "system"
        if message.get("tool_calls"):
            message["tool_calls"] = [{"type": "function", **call} for call in message["tool_calls"]]
    body["messages"] = messages
    if body.get("stream"):
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    else:
        body.pop("stream", None)
        body.pop("stream_options", None)
    if row in _RENAMING:
        body = {_RENAMED.get(name, name): value for name, value in body.items()}
    return {name: value for name, value in body.items() if name not in _LEFT_OUT.get(row, ())}


def _check_choices(found: Meaning, expected: Meaning) -> None:
    """Compare what the client got with what was recorded, completed by what a client must not have to do without."""
    for index, choice in expected.choices.items():
        choice.finish_reason = choice.finish_reason or ("tool_calls" if choice.calls else "stop")
        for number, (call_id, name, arguments) in enumerate(choice.calls):
            if not call_id:  # the gateway gives a call one, or its result could not be told
                minted = found.choices[index].calls[number][0]
                assert minted
                choice.calls[number] = (minted, name, arguments)
    assert found.choices == expected.choices


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("recording", recordings("openai.chat_completions", "chat", "chat_stream"))
async def test_a_recorded_chat_completion_comes_through(recording: Recording, exchanges: dict[str, Exchange]) -> None:
    exchange = exchanges[recording.id]
    sent = client_body(recording)
    if recording.id in _REFUSED:
        assert exchange.requests == ()
        check_error(recording, exchange, "UNSUPPORTED_FEATURE")
        return
    (request,) = exchange.requests
    prefix = "" if row_of(recording) == "deepseek" else "/v1"
    assert (request.method, request.target) == ("POST", f"{prefix}/chat/completions")
    assert request.headers["authorization"] == "Bearer sk-test"
    assert request.json == _expected(recording)

    status = recording.response["status"]
    if status >= 400:
        check_error(recording, exchange, _REASONS.get(recording.id, _REASON_OF_STATUS[status]))
        return
    expected = meaning_of_recording(recording)
    found = meaning_of_answer(exchange.content_type, exchange.body)
    if recording.id in _FAILED_IN_STREAM:
        reason = _FAILED_IN_STREAM[recording.id]
        check_typed(found.error, reason, expected.error)
        assert not found.is_done
        record = check_record(recording, exchange, {}, outcome=usage_pb.OUTCOME_FAILED)
        assert record.error_reason == reason
        return
    assert (exchange.status, found.error, expected.error) == (200, None, None)
    finish_reason = expected.choices[0].finish_reason or ""
    _check_choices(found, expected)
    assert found.is_done is bool(sent.get("stream"))
    if not sent.get("stream") or (sent.get("stream_options") or {}).get("include_usage"):
        assert found.usage == expected.usage
    else:
        assert found.usage == {}, "the client did not ask for it"
    check_schema(exchange)
    record = check_record(recording, exchange, expected.usage, finish_reason=finish_reason)
    assert record.reply_id == next((event["id"] for event in recorded_events(recording) if event.get("id")), "")
