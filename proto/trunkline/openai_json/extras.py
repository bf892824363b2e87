"""Members of a JSON object that the contract does not type: their text in `extra_json`, and their way back.

The one rule: a typed member always wins. A member of the same name in `extra_json` only adds what the typed one lacks,
at any depth.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = ["merge_extra", "pack_extra", "unpack_extra", "verbatim"]

_EMPTY = ""


def pack_extra(members: dict[str, Any]) -> str:
    """Return the text for `extra_json`: the members as one JSON object, "" when there are none."""
    if not members:
        return _EMPTY
    return msgspec.json.encode(members).decode()


def unpack_extra(text: str, path: str) -> dict[str, Any]:
    """Return the members of an `extra_json`. Raises INVALID_REQUEST naming `path` when it is not one JSON object."""
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        pass
    try:  # A number too large for a double is no reason to refuse what is only carried.
        return dict(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, RecursionError):
        raise _not_json(path, "one JSON object") from None


def merge_extra(target: dict[str, Any], text: str, path: str) -> None:
    """Put the members of an `extra_json` back into the object they belong to. Raises INVALID_REQUEST naming `path`."""
    if text:
        _merge(target, unpack_extra(text, path))


def verbatim(text: str, path: str, *, opening: str = "") -> msgspec.Raw:
    """Return a JSON document that is written as it stands, after checking that it is one.

    `opening` is the character it must begin with, "{" for an object. Raises INVALID_REQUEST naming `path`.
    """
    try:
        document = msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        raise _not_json(path, "JSON") from None
    if opening and not text.lstrip().startswith(opening):
        raise _not_json(path, "one JSON object" if opening == "{" else "a JSON document")
    return document


def _merge(target: dict[str, Any], members: dict[str, Any]) -> None:
    for name, value in members.items():
        if name not in target:
            target[name] = value
            continue
        held = target[name]
        if type(held) is dict and type(value) is dict:
            _merge(held, value)


def _not_json(path: str, expected: str) -> GatewayError:
    return GatewayError(reasons.ERROR_REASON_INVALID_REQUEST, f"'{path}' is not {expected}.", param=path)
