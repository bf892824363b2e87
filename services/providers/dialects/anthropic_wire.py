"""Reading Anthropic's JSON objects member by member, so that what is not understood can be carried verbatim.

Every object is a dict from member name to its undecoded text; what does not have the wire format's shape is
UPSTREAM_MALFORMED_REPLY.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["DIALECT_NAME", "Members", "extras_of", "malformed", "parse_array", "parse_object", "text_of", "to_json"]

DIALECT_NAME: Final = "anthropic_messages"

Members = dict[str, msgspec.Raw]

_OBJECT: Final = msgspec.json.Decoder(Members)
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_NULL: Final = b"null"


def malformed(what: str) -> GatewayError:
    """Return the error for an answer that is not in the wire format; `what` holds none of the answer's text."""
    return GatewayError(
        error_reason_pb2.ERROR_REASON_UPSTREAM_MALFORMED_REPLY,
        f"the upstream's answer is not in the format of the Messages API: {what}",
    )


def parse_object(data: bytes | msgspec.Raw, what: str) -> Members:
    """Return the members of a JSON object."""
    try:
        return _OBJECT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise malformed(f"{what} is not a JSON object") from None


def parse_array(data: bytes | msgspec.Raw | None, what: str) -> list[msgspec.Raw]:
    """Return the elements of a JSON array; an absent one and null have none."""
    if data is None or bytes(data) == _NULL:
        return []
    try:
        return _ARRAY.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise malformed(f"{what} is not a list") from None


def text_of(members: Members, name: str) -> str:
    """Return a member that is text; "" when it is absent or null."""
    raw = members.get(name)
    if raw is None or bytes(raw) == _NULL:
        return ""
    try:
        return _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise malformed(f"member {name} is not text") from None


def extras_of(members: Members, known: Iterable[str]) -> str:
    """Return the members that are neither known nor null as one JSON object, "" when there are none."""
    rest = {name: raw for name, raw in members.items() if name not in known and bytes(raw) != _NULL}
    return to_json(rest) if rest else ""


def to_json(value: object) -> str:
    """Return a value as compact JSON text; msgspec.Raw within it stays as it is."""
    return msgspec.json.encode(value).decode()
