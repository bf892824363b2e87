"""What comes up while a request is rendered: warnings for the caller, beta features for the headers.

One object a request, passed along; nothing is dropped or changed without a word here.
"""

from __future__ import annotations

from typing import Final, NoReturn

import msgspec

from services.providers.dialects.anthropic_wire import Members
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1 import chat_pb2 as pb

__all__ = ["RenderNotes", "invalid", "object_of"]

_EMPTY: Final = frozenset({b"null", b"[]", b"{}", b'""'})
_REPEATED: Final = frozenset({"annotations", "reasoning_content", "reasoning"})


class RenderNotes:
    """Collects what one rendering has to say."""

    __slots__ = ("_betas", "_provider", "_warnings")

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._warnings: dict[tuple[str, str], None] = {}
        self._betas: dict[str, None] = {}

    def warn(self, param: str, message: str) -> None:
        """Say what was done with a member; the same is said once."""
        self._warnings[param, message] = None

    def beta(self, name: str) -> None:
        """Ask for a beta feature that the request uses."""
        self._betas[name] = None

    @property
    def warnings(self) -> tuple[pb.Warning, ...]:
        """The warnings, in the order they came up."""
        return tuple(pb.Warning(param=param, message=message) for param, message in self._warnings)

    @property
    def betas(self) -> str:
        """The value of the anthropic-beta header, "" when none is needed."""
        return ",".join(self._betas)

    def refuse(self, feature: str, message: str, *, param: str | None = None) -> NoReturn:
        """Raise UNSUPPORTED_FEATURE."""
        raise GatewayError(
            error_reason_pb2.ERROR_REASON_UNSUPPORTED_FEATURE,
            message,
            param=param,
            metadata={"feature": feature, "provider": self._provider},
        )

    def take_extras(self, extra_json: str, known: frozenset[str], where: str) -> Members:
        """Return the untyped members that the API knows; say of the others that they were left out.

        `where` is the path of the object they belong to, "" for the request itself. Empty members, and those of an
        OpenAI message that only repeat what its parts hold, are left out without a word.
        """
        if not extra_json:
            return {}
        members = object_of(extra_json, where or "extra_json")
        silent = known | _REPEATED if where else known
        for name, value in members.items():
            if name not in silent and bytes(value) not in _EMPTY:
                self.warn(f"{where}.{name}" if where else name, "not known to the Messages API; left out")
        return {name: value for name, value in members.items() if name in known}


def object_of(text: str, param: str) -> Members:
    """Return the members of a JSON object that a caller sent as text. Raises INVALID_REQUEST."""
    try:
        return msgspec.json.decode(text, type=Members)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid(f"{param} is not a JSON object", param) from None


def invalid(message: str, param: str) -> GatewayError:
    """Return INVALID_REQUEST for one member of the request."""
    return GatewayError(error_reason_pb2.ERROR_REASON_INVALID_REQUEST, message, param=param)
