"""A valid value of a JSON Schema, the same one every time: what the demo provider answers where a schema is given.

It honours type, enum, const, properties, required, items, prefixItems, anyOf, oneOf, allOf, $ref into the document,
bounds, lengths, multipleOf and the usual formats. `pattern` and `not` are not solved. Work and depth are bounded, for
any schema.
"""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["schema_instance"]

_MAX_VALUES: Final = 2000
_OPTIONAL_DEPTH: Final = 4  # below it, only what is required is made
_MAX_DEPTH: Final = 32
_MAX_LENGTH: Final = 1000

_FORMATS: Final = {
    "date-time": "2025-01-31T12:00:00Z",
    "date": "2025-01-31",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "demo@example.com",
    "idn-email": "demo@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/demo",
    "url": "https://example.com/demo",
    "uri-reference": "/demo",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_OF_TYPE: Final = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}


def schema_instance(schema: Any) -> Any:
    """Return a value that the schema allows; "" for one that allows anything."""
    return _Builder(schema).build(schema, "value", 0)


class _Builder:
    """Builds one value, counting what it makes."""

    __slots__ = ("_left", "_root")

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _MAX_VALUES

    def build(self, schema: Any, name: str, depth: int) -> Any:
        """Return a value; `name` is what it is called, which strings are made of."""
        self._left -= 1
        if not isinstance(schema, dict) or depth > _MAX_DEPTH or self._left < 0:
            return None if isinstance(schema, dict) else ""
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        enum = schema.get("enum")
        if isinstance(enum, list) and enum:
            return enum[0]
        for union in ("anyOf", "oneOf"):
            options = schema.get(union)
            if isinstance(options, list) and options:
                rest = {key: value for key, value in schema.items() if key != union}
                chosen = self._choose(options, depth)
                return self.build(_merge(rest, chosen) if isinstance(chosen, dict) else rest, name, depth + 1)
        return self._build_type(schema, name, depth)

    def _build_type(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        match _type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer":
                return _number(schema, is_integer=True)
            case "number":
                return _number(schema, is_integer=False)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _string(schema, name)

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow references and fold allOf in; a reference that leads nowhere allows anything."""
        for _ in range(_MAX_DEPTH):
            ref = schema.get("$ref")
            if isinstance(ref, str):
                target = self._lookup(ref)
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merge(target, rest) if isinstance(target, dict) else rest
                continue
            parts = schema.get("allOf")
            if not isinstance(parts, list):
                return schema
            schema = {key: value for key, value in schema.items() if key != "allOf"}
            for part in parts:
                schema = _merge(schema, self._resolve_once(part))
        return {key: value for key, value in schema.items() if key not in {"$ref", "allOf"}}

    def _resolve_once(self, part: Any) -> dict[str, Any]:
        if not isinstance(part, dict):
            return {}
        target = self._lookup(part["$ref"]) if isinstance(part.get("$ref"), str) else part
        return target if isinstance(target, dict) else {}

    def _lookup(self, ref: str) -> Any:
        if not ref.startswith("#"):
            return None
        found = self._root
        for step in ref[1:].strip("/").split("/") if len(ref) > 1 else ():
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def _choose(self, options: list[Any], depth: int) -> Any:
        """Return the first alternative, or deep within a value the first that cannot lead deeper."""
        if depth < _OPTIONAL_DEPTH:
            return options[0]
        flat = (option for option in options if isinstance(option, dict) and not option.keys() & _DEEPER)
        return next(flat, options[-1])

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        if depth < _OPTIONAL_DEPTH and self._left > 0:
            names = [*properties, *(name for name in names if name not in properties)]
        return {name: self.build(properties.get(name, True), name, depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        least, most = _size(schema, "minItems", 0), _size(schema, "maxItems", _MAX_LENGTH)
        length = min(most, max(least, 1 if depth < _OPTIONAL_DEPTH else 0))
        prefix = schema.get("prefixItems")
        prefix = prefix if isinstance(prefix, list) else []
        items = schema.get("items", True)
        if items is False:
            length = min(length, len(prefix))
        values = []
        for index in range(length):
            value = self.build(prefix[index] if index < len(prefix) else items, name, depth + 1)
            if schema.get("uniqueItems") is True and value in values:
                value = _differ(value, index)
            values.append(value)
        return values


_DEEPER: Final = frozenset({"$ref", "properties", "items", "anyOf", "oneOf", "allOf", "prefixItems"})


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return what both schemas ask for, as far as members can simply be joined."""
    merged = {**first, **second}
    for key in ("properties", "$defs"):
        if isinstance(first.get(key), dict) and isinstance(second.get(key), dict):
            merged[key] = {**first[key], **second[key]}
    if isinstance(first.get("required"), list) and isinstance(second.get("required"), list):
        merged["required"] = [*first["required"], *second["required"]]
    return merged


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    if schema.keys() & {"properties", "required", "additionalProperties"}:
        return "object"
    if schema.keys() & {"items", "prefixItems", "minItems"}:
        return "array"
    is_number = schema.keys() & {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"}
    return "number" if is_number else "string"


def _string(schema: dict[str, Any], name: str) -> str:
    form = schema.get("format")
    if isinstance(form, str) and form in _FORMATS:
        return _FORMATS[form]
    least, most = _size(schema, "minLength", 0), _size(schema, "maxLength", _MAX_LENGTH)
    return name.ljust(least, "x")[:most]


def _number(schema: dict[str, Any], *, is_integer: bool) -> float:
    """Return the number in bounds that is nearest to 1 from above, or the largest below."""
    low, high = _bound(schema, "minimum"), _bound(schema, "maximum")
    over, under = _bound(schema, "exclusiveMinimum"), _bound(schema, "exclusiveMaximum")
    step = abs(_bound(schema, "multipleOf") or 0) or (1 if is_integer else 0)
    if is_integer and step % 1:
        step = step * (1 / (step % 1)) if (1 / (step % 1)) % 1 == 0 else 1
    if not step:
        return _real(low, high, over, under)
    value = math.ceil((low if low is not None else 1) / step) * step
    if over is not None and value <= over:
        value = (math.floor(over / step) + 1) * step
    if high is not None and value > high:
        value = math.floor(high / step) * step
    if under is not None and value >= under:
        value = (math.ceil(under / step) - 1) * step
    return int(value) if is_integer else value


def _real(low: float | None, high: float | None, over: float | None, under: float | None) -> float:
    least = max((bound for bound in (low, over) if bound is not None), default=None)
    most = min((bound for bound in (high, under) if bound is not None), default=None)
    if least is not None and most is not None:
        return least if least == most else least + (most - least) / 2
    if least is not None:
        return max(1.5, least + 1)
    return 1.5 if most is None or most > 1.5 else most - 1


def _bound(schema: dict[str, Any], name: str) -> float | None:
    value = schema.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53
    return value if is_number else None


def _size(schema: dict[str, Any], name: str, default: int) -> int:
    value = schema.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return default
    return min(_MAX_LENGTH, max(0, value))


def _differ(value: Any, index: int) -> Any:
    """Return a value of the same kind that is another one."""
    if isinstance(value, str):
        return f"{value} {index + 1}"
    return value + index if isinstance(value, (int, float)) and not isinstance(value, bool) else value
