"""Strict reading of JSON members: the right type, or INVALID_REQUEST naming the member's path and what was expected.

The one rule: null is absence. A null stays where it is, so that it ends up in `extra_json` and survives the round trip.
Every `take_*` removes what it returns; whatever remains is what the contract does not type.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "join",
    "missing",
    "out_of_range",
    "raw_list",
    "raw_object",
    "raw_value",
    "take_document",
    "take_integer",
    "take_nonempty",
    "take_raw",
    "take_string",
    "wrong_type",
]

_T = TypeVar("_T")

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

# Made once: json.decode with a type looks it up each time.
_decode_any: Final = msgspec.json.Decoder().decode
_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode

_TYPE_NAMES: Final = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def join(path: str, name: str) -> str:
    """Return the path of a member of the object at `path`; "" is the document itself."""
    return f"{path}.{name}" if path else name


def wrong_type(path: str, expected: str, value: object) -> GatewayError:
    """Return the error for a member that is not of the type the API gives it. The value itself is not shown."""
    found = _TYPE_NAMES.get(type(value), "something else")
    message = f"Invalid type for '{path}': expected {expected}, but got {found} instead."
    return GatewayError(reasons.ERROR_REASON_INVALID_REQUEST, message, param=path)


def missing(path: str, expected: str) -> GatewayError:
    """Return the error for a required member that is not there."""
    message = f"Missing required parameter: '{path}', expected {expected}."
    return GatewayError(reasons.ERROR_REASON_INVALID_REQUEST, message, param=path)


def out_of_range(path: str, expected: str) -> GatewayError:
    """Return the error for a value of the right type that the API does not allow."""
    message = f"Invalid value for '{path}': expected {expected}."
    return GatewayError(reasons.ERROR_REASON_INVALID_REQUEST, message, param=path)


def take_string(members: dict[str, Any], name: str, path: str) -> str | None:
    """Return a string member, None when it is absent or null. Raises INVALID_REQUEST."""
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not str:
        raise wrong_type(join(path, name), "a string", value)
    del members[name]
    return value


def take_nonempty(members: dict[str, Any], name: str) -> str:
    """Return a member that is a non-empty string, else "" leaving it where it is. For members that nobody must send."""
    value = members.get(name)
    if type(value) is str and value:
        del members[name]
        return value
    return ""


def take_integer(members: dict[str, Any], name: str, path: str) -> int | None:
    """Return an integer member that fits 64 bits, None when it is absent or null. Raises INVALID_REQUEST."""
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise wrong_type(join(path, name), "an integer", value)
    if not INT64_MIN <= value <= INT64_MAX:
        raise out_of_range(join(path, name), "an integer of at most 64 bits")
    del members[name]
    return value


def raw_value(raw: msgspec.Raw, path: str) -> Any:
    """Return the value of a part of a document that was read as a whole before. Raises INVALID_REQUEST."""
    try:
        return _decode_any(raw)
    except msgspec.DecodeError:
        raise out_of_range(path, "numbers that fit a double") from None


def raw_object(raw: msgspec.Raw, path: str) -> dict[str, msgspec.Raw]:
    """Return the members of an object with their values still as text. Raises INVALID_REQUEST."""
    try:
        return _decode_object(raw)
    except msgspec.ValidationError:
        raise wrong_type(path, "an object", raw_value(raw, path)) from None


def raw_list(raw: msgspec.Raw, path: str) -> list[msgspec.Raw]:
    """Return the elements of an array, still as text. Raises INVALID_REQUEST."""
    try:
        return _decode_list(raw)
    except msgspec.ValidationError:
        raise wrong_type(path, "an array", raw_value(raw, path)) from None


def take_raw(members: dict[str, msgspec.Raw], name: str, path: str, kind: type[_T]) -> _T | None:
    """Return a member of a type from members that are still text; None, leaving it, when it is absent or null."""
    raw = members.get(name)
    value = None if raw is None else raw_value(raw, join(path, name))
    if value is None:
        return None
    if type(value) is not kind:
        raise wrong_type(join(path, name), _TYPE_NAMES[kind], value)
    del members[name]
    return value


def take_document(members: dict[str, msgspec.Raw], name: str, path: str) -> str | None:
    """Return a member that is an object as its own text; None, leaving it, when it is absent or null."""
    raw = members.get(name)
    if raw is None:
        return None
    text = bytes(raw).decode()
    if text.startswith("{"):
        del members[name]
        return text
    if text == "null":
        return None
    raise wrong_type(join(path, name), "an object", raw_value(raw, join(path, name)))
