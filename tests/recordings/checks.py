"""What both replays check alike: typed errors, and the one record in the ledger."""

from __future__ import annotations

import json
from typing import Any

from tests.openai_spec import SPEC, validator
from tests.providers.recordings import Recording
from tests.recordings.gateway import Exchange, row_of
from trunkline.errors.reasons import face_of, reason_from_name
from trunkline.usage.v1 import usage_service_pb2 as usage_pb

__all__ = ["check_error", "check_record", "check_schema", "check_typed"]

_COUNTS = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cached_tokens": "input_cached_tokens",
    "cache_write_tokens": "input_cache_written_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
}


def check_error(recording: Recording, exchange: Exchange, reason: str) -> None:
    """Check that a client was told of a failure by a reason's name, as the error table has it, and the ledger too."""
    number = reason_from_name(reason)
    assert number is not None
    assert exchange.status == face_of(number).http_status, exchange.body
    assert exchange.content_type.startswith("application/json")
    raw = recording.response.get("body_json") or {}
    check_typed(json.loads(exchange.body)["error"], reason, raw.get("error", raw))
    record = check_record(recording, exchange, {}, outcome=usage_pb.OUTCOME_FAILED)
    assert record.error_reason == reason
    assert not record.HasField("usage")


def check_schema(exchange: Exchange) -> None:
    """Check what the client got against OpenAI's own description, and that nothing of the request was ignored.

    Of a stream, the chunks of each shape once: hundreds differ only in their words.
    """
    if exchange.content_type.startswith("application/json"):
        name, documents = "CreateChatCompletionResponse", [exchange.body]
    else:
        name = "CreateChatCompletionStreamResponse"
        documents = [frame[6:] for frame in exchange.body.split(b"\n\n") if frame.startswith(b"data: {")]
    shapes = {_shape(document): document for document in map(json.loads, documents)}
    assert not any("warnings" in document for document in shapes.values())
    assert len({document["id"] for document in map(json.loads, documents)}) == 1
    if SPEC.exists():
        for document in shapes.values():
            validator(name).validate(document)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _shape(inner)) for name, inner in sorted(value.items()))
    if isinstance(value, list):
        return tuple(map(_shape, value))
    return type(value).__name__


def check_typed(error: Any, reason: str, upstream: dict[str, Any]) -> None:
    """Check an error's JSON against the table's row of a reason; `upstream` is what the provider had said.

    A refusal that has no code of ours keeps the provider's words: its code, the member at fault, the message.
    """
    number = reason_from_name(reason)
    assert number is not None
    face = face_of(number)
    code = face.openai_code
    if reason == "INVALID_REQUEST":
        own = upstream.get("code")
        code = own if isinstance(own, str) and not own.isdigit() else None
        assert upstream["message"] in error["message"]
        assert error["param"] == upstream.get("param")
    assert (error["type"], error["code"]) == (face.openai_type, code), error
    assert error["message"]
    assert "param" in error


def check_record(
    recording: Recording,
    exchange: Exchange,
    usage: dict[str, int],
    *,
    outcome: usage_pb.Outcome.ValueType = usage_pb.OUTCOME_COMPLETED,
    finish_reason: str = "",
) -> usage_pb.UsageRecord:
    """Check that the ledger holds one record of the exchange, with the tokens that were recorded; return it."""
    (record,) = exchange.records
    assert record.outcome == outcome
    assert (record.model, record.upstream_model) == (recording.id, recording.model)
    assert (record.catalog, record.provider) == (row_of(recording), f"at-{row_of(recording)}")
    assert record.streamed is (recording.operation == "chat_stream")
    assert len(record.attempts) == 1
    if usage:
        counted = {name: getattr(record.usage, count) for name, count in _COUNTS.items()}
        assert {name: count for name, count in counted.items() if count} == {
            name: count for name, count in usage.items() if name in _COUNTS
        }
        assert not record.usage.estimated
    elif outcome == usage_pb.OUTCOME_COMPLETED:
        assert record.usage.estimated, "the upstream reported no usage, so it is an estimate and says so"
    if outcome == usage_pb.OUTCOME_COMPLETED:
        assert (record.finish_reason, record.error_reason) == (finish_reason, "")
    return record
