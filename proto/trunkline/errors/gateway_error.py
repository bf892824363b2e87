"""GatewayError, the one exception of the project, and its form on the wire: google.rpc.Status.

Services raise it, the interceptor turns it into a status with details, `trunkline.client` and the HTTP front turn that
back into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from trunkline.errors.reasons import FACES, Face, Reason, face_of, reason_from_name, reason_name
from trunkline.errors.v1 import error_reason_pb2 as pb

__all__ = ["DOMAIN", "STATUS_TRAILER", "GatewayError", "from_rpc_error", "from_status", "to_status"]

DOMAIN: Final = "trunkline"
STATUS_TRAILER: Final = "grpc-status-details-bin"

# A call can fail before a service of ours saw it (no connection, a proxy between); such a status has no ErrorInfo.
_REASON_OF_BARE_CODE: Final[dict[int, Reason.ValueType]] = {
    1: pb.ERROR_REASON_CALLER_CANCELLED,
    3: pb.ERROR_REASON_INVALID_REQUEST,
    4: pb.ERROR_REASON_UPSTREAM_TIMEOUT,
    5: pb.ERROR_REASON_RESOURCE_NOT_FOUND,
    7: pb.ERROR_REASON_CALLER_FORBIDDEN,
    8: pb.ERROR_REASON_REQUEST_TOO_LARGE,  # grpc's own "message larger than max"
    12: pb.ERROR_REASON_UNSUPPORTED_FEATURE,
    14: pb.ERROR_REASON_SERVICE_UNAVAILABLE,
    16: pb.ERROR_REASON_CALLER_UNAUTHENTICATED,
}


class GatewayError(Exception):
    """A call failed for a reason of the contract.

    `message` is for people and holds no secret and no prompt text. `metadata` is what the message mentions, for
    programs; `param` names the member of the request at fault, such as "messages[0].content". `retry_after` is in
    seconds, None when no time is known.
    """

    def __init__(
        self,
        reason: Reason.ValueType,
        message: str,
        *,
        param: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        if param is not None:
            self.metadata["param"] = param
        self.retry_after = retry_after

    @property
    def param(self) -> str | None:
        """The member of the request at fault, or None."""
        return self.metadata.get("param")

    @property
    def face(self) -> Face:
        """How this reason looks on gRPC and HTTP."""
        return face_of(self.reason)

    @property
    def name(self) -> str:
        """The reason's wire name, such as "UPSTREAM_TIMEOUT"."""
        return reason_name(self.reason)

    def __repr__(self) -> str:
        return f"GatewayError({self.name}, {self.message!r})"


def to_status(error: GatewayError) -> status_pb2.Status:
    """Return the status with ErrorInfo, and RetryInfo and BadRequest where they apply."""
    status = status_pb2.Status(code=error.face.grpc_code, message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.name, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(max(0, round(error.retry_after * 1e9)))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.param is not None and error.face.grpc_code == FACES[pb.ERROR_REASON_INVALID_REQUEST].grpc_code:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.param, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return status


def from_status(status: status_pb2.Status) -> GatewayError:
    """Return the error a status stands for; a reason of a newer server becomes the one its gRPC code suggests."""
    reason = _REASON_OF_BARE_CODE.get(status.code, pb.ERROR_REASON_INTERNAL)
    metadata: dict[str, str] = {}
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            if info.domain == DOMAIN:
                reason = reason_from_name(info.reason) or reason
                metadata = dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return GatewayError(reason, status.message, metadata=metadata, retry_after=retry_after)


class _Code(Protocol):
    @property
    def value(self) -> object: ...


class RpcError(Protocol):
    """The part of grpc.aio.AioRpcError read here, named so that this package need not import grpc."""

    def code(self) -> _Code: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> object: ...


def from_rpc_error(error: RpcError) -> GatewayError:
    """Return the error that a failed call stands for, from its trailers where they tell, else from its bare code."""
    trailers = error.trailing_metadata()
    if isinstance(trailers, (list, tuple)) or hasattr(trailers, "__iter__"):
        for key, value in trailers:
            if key == STATUS_TRAILER and isinstance(value, bytes):
                return from_status(status_pb2.Status.FromString(value))
    code = error.code().value
    number = code[0] if isinstance(code, tuple) else 2
    return from_status(status_pb2.Status(code=number, message=error.details() or ""))
