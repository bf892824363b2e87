"""The one table: each ErrorReason with its gRPC code, its HTTP face in OpenAI's terms, and what the router does.

Nothing else in the project maps one of these to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from trunkline.errors.v1 import error_reason_pb2 as pb

__all__ = ["FACES", "Face", "Next", "Reason", "face_of", "reason_name"]

Reason = pb.ErrorReason

_PREFIX: Final = "ERROR_REASON_"

# gRPC status codes by number (google.rpc.Code), so that this package does not import grpc.
_CANCELLED, _INVALID_ARGUMENT, _DEADLINE_EXCEEDED, _NOT_FOUND = 1, 3, 4, 5
_PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _INTERNAL, _UNAVAILABLE, _UNAUTHENTICATED = 7, 8, 13, 14, 16


class Next(Enum):
    """What the router does after an attempt failed with a reason."""

    STOP = "stop"
    """The next deployment would fail alike, or the caller must act: answer the error."""
    TRY_NEXT = "try_next"
    """Another deployment may answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """How a reason looks: on gRPC, over HTTP, to the router."""

    grpc_code: int
    http_status: int
    openai_type: str
    openai_code: str | None
    next: Next = Next.STOP


def _invalid(code: str | None, http_status: int = 400) -> Face:
    return Face(
        grpc_code=_INVALID_ARGUMENT, http_status=http_status, openai_type="invalid_request_error", openai_code=code
    )


def _upstream(http_status: int, code: str, grpc_code: int = _UNAVAILABLE, openai_type: str = "server_error") -> Face:
    return Face(
        grpc_code=grpc_code, http_status=http_status, openai_type=openai_type, openai_code=code, next=Next.TRY_NEXT
    )


def _service(grpc_code: int, http_status: int, openai_type: str, code: str | None) -> Face:
    return Face(grpc_code=grpc_code, http_status=http_status, openai_type=openai_type, openai_code=code)


FACES: Final[dict[Reason.ValueType, Face]] = {
    pb.ERROR_REASON_INVALID_REQUEST: _invalid(None),
    pb.ERROR_REASON_UNSUPPORTED_FEATURE: _invalid("unsupported_feature"),
    pb.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED: _invalid("context_length_exceeded"),
    pb.ERROR_REASON_CONTENT_BLOCKED: _invalid("content_policy_violation"),
    pb.ERROR_REASON_REQUEST_TOO_LARGE: _invalid("request_too_large", 413),
    pb.ERROR_REASON_CALLER_UNAUTHENTICATED: _service(_UNAUTHENTICATED, 401, "invalid_request_error", "invalid_api_key"),
    pb.ERROR_REASON_CALLER_FORBIDDEN: _service(_PERMISSION_DENIED, 403, "permission_error", "forbidden"),
    pb.ERROR_REASON_MODEL_NOT_FOUND: _service(_NOT_FOUND, 404, "invalid_request_error", "model_not_found"),
    pb.ERROR_REASON_RESOURCE_NOT_FOUND: _service(_NOT_FOUND, 404, "invalid_request_error", "not_found"),
    pb.ERROR_REASON_CALLER_RATE_LIMITED: _service(_RESOURCE_EXHAUSTED, 429, "rate_limit_error", "rate_limit_exceeded"),
    pb.ERROR_REASON_BUDGET_EXHAUSTED: _service(_RESOURCE_EXHAUSTED, 429, "insufficient_quota", "insufficient_quota"),
    pb.ERROR_REASON_UPSTREAM_RATE_LIMITED: _upstream(429, "upstream_rate_limited", openai_type="rate_limit_error"),
    pb.ERROR_REASON_UPSTREAM_OVERLOADED: _upstream(503, "upstream_overloaded"),
    pb.ERROR_REASON_UPSTREAM_UNREACHABLE: _upstream(502, "upstream_unreachable"),
    pb.ERROR_REASON_STREAM_TRUNCATED: _upstream(502, "stream_truncated"),
    pb.ERROR_REASON_UPSTREAM_TIMEOUT: _upstream(504, "upstream_timeout", _DEADLINE_EXCEEDED),
    pb.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS: _upstream(502, "upstream_rejected_credentials", _INTERNAL),
    pb.ERROR_REASON_UPSTREAM_MALFORMED_REPLY: _upstream(502, "upstream_malformed_reply", _INTERNAL),
    pb.ERROR_REASON_NO_HEALTHY_DEPLOYMENT: _service(_UNAVAILABLE, 503, "server_error", "no_healthy_deployment"),
    pb.ERROR_REASON_SERVICE_UNAVAILABLE: _service(_UNAVAILABLE, 503, "server_error", "service_unavailable"),
    pb.ERROR_REASON_SERVER_DRAINING: _service(_UNAVAILABLE, 503, "server_error", "server_draining"),
    pb.ERROR_REASON_CALLER_CANCELLED: _service(_CANCELLED, 499, "invalid_request_error", "caller_cancelled"),
    pb.ERROR_REASON_INTERNAL: _service(_INTERNAL, 500, "server_error", "internal_error"),
}


def face_of(reason: Reason.ValueType) -> Face:
    """Return the face of a reason; one from a newer server looks INTERNAL."""
    return FACES.get(reason) or FACES[pb.ERROR_REASON_INTERNAL]


def reason_name(reason: Reason.ValueType) -> str:
    """Return the name used on the wire, in logs, records and metrics: "UPSTREAM_TIMEOUT"."""
    return Reason.Name(reason).removeprefix(_PREFIX)


def reason_from_name(name: str) -> Reason.ValueType | None:
    """Return the reason of a wire name, or None when this version does not know it."""
    try:
        return Reason.Value(_PREFIX + name)
    except ValueError:
        return None
