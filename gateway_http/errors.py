"""Errors as HTTP shows them: OpenAI's JSON shape, the true status, and the headers that tell a client whether to retry.

The reasons and their faces are `trunkline.errors`; here are only the few refusals that have no gRPC twin because they
happen before a request is one (a method, a path's encoding, a body that never came).
"""

from __future__ import annotations

import math
from typing import Final

import grpc.aio
import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import STATUS_TRAILER, from_rpc_error
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.openai_json import encode_error

__all__ = ["Headers", "HttpError", "error_answer", "internal_error", "router_error"]

Headers = list[tuple[bytes, bytes]]

# Statuses of the 4xx range after which the same request may succeed.
_RETRYABLE_4XX: Final = frozenset({408, 409, 425, 429})
# A spent budget is a 429 by OpenAI's example, and no retry within a client's patience changes it.
_NEVER_RETRYABLE: Final = frozenset({reasons.ERROR_REASON_BUDGET_EXHAUSTED})

_NO_RETRY: Final = (b"x-should-retry", b"false")
_CHALLENGE: Final = (b"www-authenticate", b'Bearer realm="trunkline"')


_BARE_MESSAGES: Final = {
    reasons.ERROR_REASON_SERVICE_UNAVAILABLE: "The gateway's router cannot be reached.",
    reasons.ERROR_REASON_UPSTREAM_TIMEOUT: "The answer did not come within the time for it.",
    reasons.ERROR_REASON_REQUEST_TOO_LARGE: "The request or its answer is larger than the router takes.",
    reasons.ERROR_REASON_CALLER_CANCELLED: "The call was cancelled.",
}


class HttpError(Exception):
    """A request was refused for a reason that only HTTP has a word for.

    `code` is the machine-readable code of the JSON error, `headers` go with the answer.
    """

    def __init__(self, status: int, code: str, message: str, *, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers: Headers = headers or []


def error_answer(error: GatewayError | HttpError) -> tuple[int, Headers, bytes]:
    """Return status, headers (without those of every answer) and body of an error."""
    if isinstance(error, HttpError):
        headers = list(error.headers)
        if _is_final(error.status):
            headers.append(_NO_RETRY)
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        document = {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}
        return error.status, headers, msgspec.json.encode(document)
    status = error.face.http_status
    headers = []
    if status == 401:
        headers.append(_CHALLENGE)
    if _is_final(status) or error.reason in _NEVER_RETRYABLE:
        headers.append(_NO_RETRY)
    if error.retry_after is not None:
        wait = max(0.0, error.retry_after)
        headers.append((b"retry-after", b"%d" % math.ceil(wait)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait * 1000)))
    return status, headers, encode_error(error)


def router_error(error: grpc.aio.AioRpcError) -> GatewayError:
    """Return what a failed call to the router means.

    Words come from our own services only: a status without their details was made on the way, and its text names
    addresses or, from a server that shows them, exceptions.
    """
    failure = from_rpc_error(error)
    if any(key == STATUS_TRAILER for key, _ in error.trailing_metadata()):
        return failure
    return GatewayError(failure.reason, _BARE_MESSAGES.get(failure.reason, "The call to the gateway's router failed."))


def internal_error(request_id: str) -> GatewayError:
    """Return what a client is told of a bug: the request id and nothing else."""
    return GatewayError(
        reasons.ERROR_REASON_INTERNAL,
        f"The gateway failed. Its log tells more under request id {request_id}.",
        metadata={"request_id": request_id},
    )


def _is_final(status: int) -> bool:
    return 400 <= status < 500 and status not in _RETRYABLE_4XX
