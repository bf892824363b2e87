"""Errors: what upstreams answer, and what clients are told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.openai_json.recordings import Recording, recordings
from tests.openai_json.strategies import json_objects, json_values
from tests.openai_spec import validator
from trunkline.errors import FACES, GatewayError, Reason
from trunkline.openai_json import encode_error, error_from_object, parse_openai_error
from trunkline.openai_json.errors import redact, retry_after

_DATE = "Wed, 21 Oct 2026 07:28:30 GMT"
_DATE_SECONDS = 1792567710.0


def _parse(status: int, body: object, headers: dict[str, str] | None = None) -> GatewayError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_openai_error(status, headers or {}, raw)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "INVALID_REQUEST"),
        (401, "UPSTREAM_REJECTED_CREDENTIALS"),
        (402, "UPSTREAM_RATE_LIMITED"),
        (403, "UPSTREAM_REJECTED_CREDENTIALS"),
        (404, "RESOURCE_NOT_FOUND"),
        (405, "INVALID_REQUEST"),
        (408, "UPSTREAM_TIMEOUT"),
        (409, "UPSTREAM_RATE_LIMITED"),
        (413, "REQUEST_TOO_LARGE"),
        (422, "INVALID_REQUEST"),
        (425, "UPSTREAM_RATE_LIMITED"),
        (429, "UPSTREAM_RATE_LIMITED"),
        (498, "UPSTREAM_RATE_LIMITED"),
        (500, "UPSTREAM_OVERLOADED"),
        (502, "UPSTREAM_OVERLOADED"),
        (503, "UPSTREAM_OVERLOADED"),
        (504, "UPSTREAM_TIMEOUT"),
        (524, "UPSTREAM_TIMEOUT"),
        (529, "UPSTREAM_OVERLOADED"),
        (302, "UPSTREAM_MALFORMED_REPLY"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html><h1>Bad</h1></html>", b"upstream connect error", b"{}", b"[]", b"\xff"])
def test_a_status_alone_has_a_reason_and_no_echo(status: int, reason: str, body: bytes) -> None:
    error = _parse(status, body)
    assert error.name == reason
    assert error.metadata["upstream_status"] == str(status)
    assert "<" not in error.message
    assert "connect error" not in error.message


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, {"code": "context_length_exceeded", "message": "too long"}, "CONTEXT_LENGTH_EXCEEDED"),
        (
            400,
            {"message": "This model's maximum context length is 4096 tokens.", "code": 400},
            "CONTEXT_LENGTH_EXCEEDED",
        ),
        (400, {"code": "content_filter", "message": "filtered"}, "CONTENT_BLOCKED"),
        (400, {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": "m"}, "CONTENT_BLOCKED"),
        (403, {"code": 403, "message": "flagged", "metadata": {"flagged_input": "..."}}, "CONTENT_BLOCKED"),
        (404, {"code": "model_not_found", "message": "m"}, "MODEL_NOT_FOUND"),
        (404, {"message": 'model "x" not found, try pulling it first', "type": "api_error"}, "MODEL_NOT_FOUND"),
        (404, {"message": "no such thing", "param": "model"}, "MODEL_NOT_FOUND"),
        (404, {"message": "no such page"}, "RESOURCE_NOT_FOUND"),
        (429, {"code": "insufficient_quota", "message": "m"}, "UPSTREAM_RATE_LIMITED"),
        (400, {"code": "rate_limit_exceeded", "message": "m"}, "UPSTREAM_RATE_LIMITED"),
        (400, {"code": "invalid_api_key", "message": "m"}, "UPSTREAM_REJECTED_CREDENTIALS"),
        (401, {"code": "invalid_request_error", "type": "authentication_error"}, "UPSTREAM_REJECTED_CREDENTIALS"),
        (500, {"code": "overloaded_error", "message": "m"}, "UPSTREAM_OVERLOADED"),
        (400, {"code": "tool_use_failed", "message": "m"}, "INVALID_REQUEST"),
        (400, {"type": "invalid_request_error", "message": "a prompt that says rate limit 429"}, "INVALID_REQUEST"),
        (None, {"code": 502, "message": "Provider disconnected"}, "UPSTREAM_OVERLOADED"),
        (None, {"code": "429", "message": "slow down"}, "UPSTREAM_RATE_LIMITED"),
        (None, {"code": 400, "message": "Token limit reached"}, "INVALID_REQUEST"),
        (None, {"status_code": 400, "code": "x", "message": "m"}, "INVALID_REQUEST"),
        (None, {"type": "server_error", "message": "m"}, "UPSTREAM_OVERLOADED"),
        (None, {"type": "invalid_request_error", "message": "m"}, "INVALID_REQUEST"),
        (None, {"message": "no idea"}, "UPSTREAM_OVERLOADED"),
        (None, {}, "UPSTREAM_OVERLOADED"),
    ],
)
def test_a_specific_word_decides_before_the_status_and_that_before_a_vague_one(
    status: int | None, error: dict[str, Any], reason: str
) -> None:
    assert error_from_object({"error": error}, status).name == reason


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "broken"}}, "broken"),
        ({"error": "broken"}, "broken"),
        ({"error": "Not Found", "message": "broken"}, "broken"),
        ({"object": "error", "message": "broken", "code": 400}, "broken"),
        ({"message": "broken"}, "broken"),
        ({"detail": "broken"}, "broken"),
        ({"detail": [{"loc": ["body", "n"], "msg": "broken", "input": "secret prompt"}]}, "body.n: broken"),
        ({"object": "error", "message": {"detail": [{"loc": ["body"], "msg": "broken"}]}}, "body: broken"),
        ([{"error": {"message": "broken"}}], "broken"),
    ],
)
def test_every_form_of_body_is_read(body: Any, message: str) -> None:
    assert _parse(400, body).message == message


def test_the_metadata_tells_what_the_upstream_said() -> None:
    body = {"error": {"message": "m", "code": "invalid_value", "type": "invalid_request_error", "param": "messages[3]"}}
    error = _parse(400, body)
    assert error.metadata == {
        "upstream_status": "400",
        "upstream_code": "invalid_value",
        "upstream_type": "invalid_request_error",
        "param": "messages[3]",
    }
    assert json.loads(encode_error(error)) == {
        "error": {"message": "m", "type": "invalid_request_error", "param": "messages[3]", "code": "invalid_value"}
    }


@pytest.mark.parametrize(
    ("headers", "now", "seconds"),
    [
        ({"retry-after-ms": "1500"}, None, 1.5),
        ({"retry-after": "7"}, None, 7.0),
        ({"retry-after-ms": "20", "retry-after": "7"}, None, 0.02),
        ({"retry-after": _DATE}, _DATE_SECONDS - 30, 30.0),
        ({"retry-after": _DATE}, _DATE_SECONDS + 30, 0.0),
        ({"retry-after": _DATE, "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, 30.0),
        ({"retry-after": _DATE}, None, None),
        ({"retry-after": "soon"}, 0.0, None),
        ({"retry-after": "-5"}, None, 0.0),
        ({"retry-after": "nan"}, None, None),
        ({"retry-after": "inf"}, None, 86400.0),
        ({}, None, None),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], now: float | None, seconds: float | None) -> None:
    assert retry_after(headers, now=now) == seconds
    assert parse_openai_error(429, headers, b"{}", now=now).retry_after == seconds


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"message": "Please try again in 20s."}, 20.0),
        ({"message": "Please try again in 1m30.5s."}, 90.5),
        ({"message": "Please try again in 120ms."}, 0.12),
        ({"message": "m", "retry_after": 3}, 3.0),
        ({"message": "m", "retry_after": 10**400}, None),
        ({"message": "Please try again in " + "9" * 1900 + "s"}, None),
    ],
)
def test_a_wait_in_the_body_counts_when_the_headers_say_nothing(error: dict[str, Any], seconds: float | None) -> None:
    assert _parse(429, {"error": error}).retry_after == seconds
    assert _parse(429, {"error": error}, {"retry-after": "1"}).retry_after == 1.0


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "sk-ab****************wxyz",
        "Bearer abc.def-ghi",
        "gsk_0123456789abcdef",
        "AIzaSyA0123456789abcdefghijk",
        "xai-0123456789abcdef",
    ],
)
def test_nothing_that_looks_like_a_key_is_shown(secret: str) -> None:
    shown = redact(f"the header {secret} was wrong")
    assert secret not in shown
    assert shown.startswith("the header [redacted")
    error = _parse(400, {"error": {"message": f"bad {secret}", "code": secret, "param": secret}})
    assert secret not in error.message
    assert secret not in str(error.metadata)


def test_a_rejected_credential_is_told_in_our_own_words() -> None:
    error = _parse(401, {"error": {"message": "Incorrect API key provided: abc***xyz.", "code": "invalid_api_key"}})
    assert error.name == "UPSTREAM_REJECTED_CREDENTIALS"
    assert "abc" not in error.message


@pytest.mark.parametrize("reason", sorted(FACES))
def test_every_reason_is_an_error_of_openais_shape(reason: Reason.ValueType) -> None:
    validator("ErrorResponse").validate(json.loads(encode_error(GatewayError(reason, "m", param="p"))))
    validator("ErrorResponse").validate(json.loads(encode_error(GatewayError(reason, "m"))))


@recordings(lambda each: each.status >= 400)
def test_a_recorded_refusal_has_its_reason(recording: Recording) -> None:
    error = parse_openai_error(recording.status, recording.headers, recording.body)
    assert error.metadata["upstream_status"] == str(recording.status)
    expected = {
        401: {"UPSTREAM_REJECTED_CREDENTIALS"},
        404: {"MODEL_NOT_FOUND"},
        429: {"UPSTREAM_RATE_LIMITED"},
        500: {"UPSTREAM_OVERLOADED"},
        400: {"INVALID_REQUEST", "MODEL_NOT_FOUND"},
    }
    assert error.name in expected[recording.status]


def test_a_recorded_unknown_model_is_told_by_type_or_by_message() -> None:
    mistral = {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}
    openrouter = {"error": {"code": 400, "message": "openai/x is not a valid model ID"}, "user_id": "u"}
    assert [_parse(400, body).name for body in (mistral, openrouter)] == ["MODEL_NOT_FOUND"] * 2


_keys = st.sampled_from(["error", "message", "detail", "code", "type", "param", "status", "metadata", "retry_after"])


@given(st.integers(100, 999), st.dictionaries(_keys, json_values | json_objects, max_size=5), st.binary(max_size=20))
def test_no_body_is_too_strange(status: int, body: dict[str, Any], raw: bytes) -> None:
    for each in (msgspec.json.encode(body), msgspec.json.encode({"error": body}), raw, b"[" * 5000):
        error = parse_openai_error(status, {"retry-after": raw.decode("latin-1")}, each)
        encode_error(error)
