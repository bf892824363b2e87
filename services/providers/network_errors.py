"""What a failed exchange with an upstream means: aiohttp's exceptions to reasons of the contract, in one table.

Messages name the provider and the kind of failure, never an address, a header or a body: those may hold credentials or
what a user wrote. aiohttp's exceptions do hold them, so nothing is raised from one.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final, Literal

import aiohttp

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["Phase", "malformed_error", "network_error", "timeout_error"]

Phase = Literal["connect", "first_byte", "idle", "deadline"]

_UNREACHABLE: Final = error_reason_pb2.ERROR_REASON_UPSTREAM_UNREACHABLE
_MALFORMED: Final = error_reason_pb2.ERROR_REASON_UPSTREAM_MALFORMED_REPLY

_PHASES: Final[dict[Phase, str]] = {
    "connect": "did not accept a connection in time",
    "first_byte": "did not begin to answer in time",
    "idle": "fell silent in the middle of its answer",
    "deadline": "did not answer within the time the caller gave",
}

# The first row whose exception fits counts; `cause` goes into the metadata.
_TABLE: Final = (
    (aiohttp.ClientConnectorDNSError, _UNREACHABLE, "dns", "has a host name that could not be resolved"),
    (aiohttp.ClientSSLError, _UNREACHABLE, "tls", "could not be reached over TLS"),
    (aiohttp.ServerFingerprintMismatch, _UNREACHABLE, "tls", "could not be reached over TLS"),
    (aiohttp.ClientConnectorError, _UNREACHABLE, "connect", "could not be connected to"),
    (aiohttp.ClientPayloadError, _UNREACHABLE, "cut", "cut its answer off"),
    (aiohttp.ClientResponseError, _MALFORMED, "protocol", "answered what is not HTTP"),
    (aiohttp.ClientConnectionError, _UNREACHABLE, "disconnected", "closed the connection before it answered"),
    (aiohttp.ClientError, _UNREACHABLE, "request", "could not be asked"),
    (OSError, _UNREACHABLE, "disconnected", "closed the connection before it answered"),
)


def network_error(provider: str, error: aiohttp.ClientError | OSError, *, in_stream: bool = False) -> GatewayError:
    """Return what a failure other than a timeout means; in a stream's body each is STREAM_TRUNCATED."""
    _, reason, cause, words = next(row for row in _TABLE if isinstance(error, row[0]))
    if in_stream:
        reason, words = error_reason_pb2.ERROR_REASON_STREAM_TRUNCATED, "cut its stream off"
    detail = _detail(error)
    metadata = {"provider": provider, "cause": cause}
    return GatewayError(reason, f"The provider {provider} {words}{detail and f' ({detail})'}.", metadata=metadata)


def _detail(error: BaseException) -> str:
    """Return what the system says, where that is a word of its own and holds nothing of the request."""
    certificate_error = getattr(error, "certificate_error", None)
    cause = getattr(error, "os_error", error)
    if certificate_error is not None:
        return str(getattr(certificate_error, "verify_message", ""))
    if isinstance(cause, ssl.SSLError):
        return str(getattr(cause, "reason", None) or "")
    if isinstance(cause, socket.gaierror):
        return cause.strerror or ""
    return errno.errorcode.get(cause.errno or 0, "") if isinstance(cause, OSError) else ""


def timeout_error(provider: str, phase: Phase) -> GatewayError:
    """Return UPSTREAM_TIMEOUT with the phase that ran out of time."""
    return GatewayError(
        error_reason_pb2.ERROR_REASON_UPSTREAM_TIMEOUT,
        f"The provider {provider} {_PHASES[phase]}.",
        metadata={"provider": provider, "phase": phase},
    )


def malformed_error(provider: str, words: str, status: int) -> GatewayError:
    """Return UPSTREAM_MALFORMED_REPLY for an answer that is of no use whatever its body says."""
    return GatewayError(
        _MALFORMED, f"The provider {provider} {words}.", metadata={"provider": provider, "upstream_status": str(status)}
    )
