"""Anthropic's errors, over HTTP and inside a stream: one table by `error.type`, one by status for other bodies.

The upstream's own words are passed on, except where our credential is at fault: those could quote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from services.providers.dialects.anthropic_wire import parse_object, text_of
from services.providers.endpoint import Endpoint
from trunkline.errors import GatewayError, Reason
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = ["parse_http_error", "parse_stream_error"]

_MAX_MESSAGE: Final = 1000

_BY_TYPE: Final[dict[str, Reason.ValueType]] = {
    "invalid_request_error": reasons.ERROR_REASON_INVALID_REQUEST,
    "authentication_error": reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS,
    "permission_error": reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS,
    "billing_error": reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS,
    "not_found_error": reasons.ERROR_REASON_RESOURCE_NOT_FOUND,
    "request_too_large": reasons.ERROR_REASON_REQUEST_TOO_LARGE,
    "rate_limit_error": reasons.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    "timeout_error": reasons.ERROR_REASON_UPSTREAM_TIMEOUT,
    "api_error": reasons.ERROR_REASON_UPSTREAM_OVERLOADED,
    "overloaded_error": reasons.ERROR_REASON_UPSTREAM_OVERLOADED,
}

_BY_STATUS: Final[dict[int, Reason.ValueType]] = {
    400: reasons.ERROR_REASON_INVALID_REQUEST,
    401: reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS,
    402: reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS,
    403: reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS,
    404: reasons.ERROR_REASON_RESOURCE_NOT_FOUND,
    408: reasons.ERROR_REASON_UPSTREAM_TIMEOUT,
    413: reasons.ERROR_REASON_REQUEST_TOO_LARGE,
    422: reasons.ERROR_REASON_INVALID_REQUEST,
    429: reasons.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    504: reasons.ERROR_REASON_UPSTREAM_TIMEOUT,
}


class _Row(NamedTuple):
    """One type that stands for several things, told apart only by its words."""

    type: str
    begins: str
    reason: Reason.ValueType


# Each with a recorded body in tests/providers/cases/anthropic_messages.
_BY_WORDS: Final = (
    _Row("invalid_request_error", "prompt is too long", reasons.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED),
    _Row("invalid_request_error", "input length and `max_tokens` exceed", reasons.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED),
    _Row("invalid_request_error", "Output blocked by content filtering", reasons.ERROR_REASON_CONTENT_BLOCKED),
    _Row("invalid_request_error", "Your credit balance is too low", reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS),
    _Row("not_found_error", "model:", reasons.ERROR_REASON_MODEL_NOT_FOUND),
)


def parse_http_error(status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint) -> GatewayError:
    """Return the error of a non-2xx answer; a body that is not Anthropic's (a proxy's HTML) counts by its status."""
    metadata = {"provider": endpoint.name, "upstream_status": str(status)}
    type_, message = _read(body, metadata)
    reason = _reason_of(type_, message) or _BY_STATUS.get(status)
    if reason is None:
        is_caller = 400 <= status < 500
        reason = reasons.ERROR_REASON_INVALID_REQUEST if is_caller else reasons.ERROR_REASON_UPSTREAM_OVERLOADED
    return _error(reason, message, metadata, retry_after=_seconds(headers.get("retry-after")))


def parse_stream_error(body: bytes, endpoint: Endpoint) -> GatewayError:
    """Return the error of an `error` event, or of an error object in a 2xx body."""
    metadata = {"provider": endpoint.name}
    type_, message = _read(body, metadata)
    reason = _reason_of(type_, message) or reasons.ERROR_REASON_UPSTREAM_OVERLOADED
    return _error(reason, message, metadata)


def _read(body: bytes, metadata: dict[str, str]) -> tuple[str, str]:
    """Return the error's type and words, "" where the body does not tell; note what else it tells in metadata."""
    try:
        outer = parse_object(body, "error")
        inner = parse_object(outer["error"], "error") if "error" in outer else outer
        type_, message = text_of(inner, "type"), text_of(inner, "message")
        request_id = text_of(outer, "request_id")
    except GatewayError:
        return "", ""
    if type_:
        metadata["upstream_type"] = type_
    if request_id:
        metadata["upstream_request_id"] = request_id
    return type_, message


def _reason_of(type_: str, message: str) -> Reason.ValueType | None:
    for row in _BY_WORDS:
        if type_ == row.type and message.startswith(row.begins):
            return row.reason
    return _BY_TYPE.get(type_)


def _error(
    reason: Reason.ValueType, message: str, metadata: dict[str, str], *, retry_after: float | None = None
) -> GatewayError:
    provider = metadata["provider"]
    if reason == reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS:
        return GatewayError(reason, f"{provider} refused the gateway's own credential", metadata=metadata)
    if reason == reasons.ERROR_REASON_MODEL_NOT_FOUND:
        metadata["model"] = message.removeprefix("model:").strip()
    if not message:
        message = f"status {metadata['upstream_status']}" if "upstream_status" in metadata else "an error without words"
    text = f"{provider} answered: {message[:_MAX_MESSAGE]}"
    param = "messages" if reason == reasons.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED else None
    return GatewayError(reason, text, param=param, metadata=metadata, retry_after=retry_after)


def _seconds(header: str | None) -> float | None:
    """Return a retry-after in seconds; the form with a date would need a clock and is not used by this API."""
    try:
        seconds = float(header) if header else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e9 else None
