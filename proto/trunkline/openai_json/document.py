"""From a request's bytes to its members: encoding, nesting and syntax, each refused in words of its own.

The one rule: nothing recurses before the depth is known, so no document can exhaust the stack.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Final

import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = ["DEFAULT_MAX_DEPTH", "decode_document", "decode_upstream", "nests_deeper"]

DEFAULT_MAX_DEPTH: Final = 100

# Made once: json.decode with a type looks it up each time.
_decode_any: Final = msgspec.json.Decoder().decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_ROUND: Final = bytes.maketrans(b"[{]}", b"(())")
_STEP: Final = tuple(1 if byte == ord("(") else -1 for byte in range(256))
_MAX_VALUES: Final = 1_000_000
_NOT_STRUCTURE: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def decode_document(body: bytes, max_depth: int = DEFAULT_MAX_DEPTH) -> dict[str, msgspec.Raw]:
    """Return the members of a request's JSON object, their values still as text. Raises INVALID_REQUEST."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise _invalid(f"The body is not valid UTF-8 (byte {error.start}).") from None
    if nests_deeper(body, max_depth):
        raise _invalid(f"The body nests deeper than {max_depth} levels.")
    try:
        return _decode_members(body)
    except msgspec.ValidationError:
        raise _invalid("The body is not a JSON object.") from None
    except msgspec.DecodeError as error:
        raise _invalid(f"The body is not valid JSON: {_fault(error)}.") from None
    except RecursionError:
        raise _invalid("The body nests too deep.") from None


def decode_upstream(body: bytes) -> Any:
    """Return the JSON value an upstream sent. Raises UPSTREAM_MALFORMED_REPLY, which never shows the text."""
    try:
        return _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise GatewayError(
            reasons.ERROR_REASON_UPSTREAM_MALFORMED_REPLY, "The upstream sent something that is not JSON."
        ) from None


def nests_deeper(body: bytes, limit: int) -> bool:
    """Whether arrays and objects of a JSON text nest deeper than `limit`. Malformed text may give either answer.

    Raises INVALID_REQUEST for a text of more strings, arrays and objects than any request has: reading those would hold
    up everyone else's requests. Takes time linear in the text, 0.2 s for the worst one of 32 MiB.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    # Escapes go first, so that each quotation mark left opens or closes a string; then everything between is dropped.
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_ROUND, _NOT_STRUCTURE)
    if marks.count(b'"') > 2 * _MAX_VALUES:
        raise _invalid(f"The body holds more than {_MAX_VALUES} strings.")
    brackets = b"".join(marks.split(b'"')[::2])
    if len(brackets) > 2 * _MAX_VALUES:
        raise _invalid(f"The body holds more than {_MAX_VALUES} arrays and objects.")
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > limit


def _fault(error: msgspec.DecodeError) -> str:
    return str(error).removeprefix("JSON is malformed: ").lower()


def _invalid(message: str) -> GatewayError:
    return GatewayError(reasons.ERROR_REASON_INVALID_REQUEST, message)
