"""Who calls, and whether they may. Shared by callers over gRPC and over HTTP, whose front passes their credential on.

The master key may do everything. Without one the gateway is open, which its composition allows on a loopback address
only. Keys with limits of their own will be found here too, and leases taken; today there is one key and no limit.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.router.config import AuthConfig
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["Admission", "Caller"]

ANONYMOUS: Final = "anonymous"
MASTER: Final = "master"
_BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls. `key_id` names the credential in records and logs; it is never the credential."""

    key_id: str
    is_operator: bool
    """Whether the caller may see and change how the gateway works."""


_ANONYMOUS_CALLER: Final = Caller(key_id=ANONYMOUS, is_operator=True)
_MASTER_CALLER: Final = Caller(key_id=MASTER, is_operator=True)


class Admission:
    """Finds the caller of a request by its metadata."""

    def __init__(self, config: AuthConfig) -> None:
        key = config.master_key
        self._master_digest = None if key is None else _digest(key.get_secret_value())

    def authenticate(self, metadata: Mapping[str, str | bytes]) -> Caller:
        """Return the caller. Raises CALLER_UNAUTHENTICATED for a missing or wrong key."""
        if self._master_digest is None:
            return _ANONYMOUS_CALLER
        header = metadata.get("authorization")
        if not isinstance(header, str) or header[: len(_BEARER)].lower() != _BEARER:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_CALLER_UNAUTHENTICATED,
                "no API key was given; send it as `Authorization: Bearer <key>`",
            )
        # Digests have one length, so the comparison tells nothing of the key's own.
        if not hmac.compare_digest(_digest(header[len(_BEARER) :].strip()), self._master_digest):
            raise GatewayError(error_reason_pb2.ERROR_REASON_CALLER_UNAUTHENTICATED, "the API key is not known")
        return _MASTER_CALLER

    def require_operator(self, metadata: Mapping[str, str | bytes], permission: str) -> Caller:
        """Return the caller when it may do what operators do. Raises CALLER_UNAUTHENTICATED, CALLER_FORBIDDEN."""
        caller = self.authenticate(metadata)
        if not caller.is_operator:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_CALLER_FORBIDDEN,
                "this needs an operator's key",
                metadata={"permission": permission},
            )
        return caller


def _digest(key: str) -> bytes:
    # A header may hold what UTF-8 cannot encode (a lone surrogate); that is a wrong key, not a failure.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
