"""Structured output: `output_config.format` where the model knows it, else a tool whose input is the answer.

The tool has a reserved name, so that a parser which knows nothing of the request turns its call back into text.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.providers.dialects.anthropic_notes import RenderNotes, invalid
from trunkline.inference.v1 import chat_pb2 as pb

__all__ = ["JSON_INSTRUCTION", "JSON_TOOL", "render_json_format", "render_json_tool", "render_strict_schema"]

JSON_TOOL: Final = "answer_in_json"
"""The reserved tool name."""
JSON_INSTRUCTION: Final = "Answer with one JSON object and nothing else: no prose around it, no code fence."
"""What stands in for OpenAI's json_object mode, which the API does not have."""

_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
# Constraints that the API refuses in a schema; they go into the description, as Anthropic's own SDKs do it.
_REFUSED: Final = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"}
    | {"maxItems", "uniqueItems", "minProperties", "maxProperties", "patternProperties", "propertyNames"}
)
_SUBSCHEMAS: Final = ("items", "not", "if", "then", "else")
_SUBSCHEMA_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SUBSCHEMA_MAPS: Final = ("properties", "$defs", "definitions")


def render_json_format(wanted: pb.JsonSchemaFormat, notes: RenderNotes) -> dict[str, Any]:
    """Return output_config.format."""
    schema = render_strict_schema(wanted.schema_json, notes, "response_format.json_schema.schema")
    return {"type": "json_schema", "schema": schema}


def render_strict_schema(schema_json: str, notes: RenderNotes, param: str) -> msgspec.Raw | dict[str, Any]:
    """Return a schema that answers must follow: verbatim, or adjusted with a warning where the API would refuse it."""
    schema = _schema_of(schema_json, param)
    adjusted = _adjust(schema)
    if adjusted == schema:
        return msgspec.Raw(schema_json.encode())
    notes.warn(param, "adjusted to what the API accepts: objects closed, other constraints moved to descriptions")
    return dict(adjusted)


def render_json_tool(wanted: pb.JsonSchemaFormat, notes: RenderNotes) -> dict[str, Any]:
    """Return the tool that carries the answer for models without structured outputs."""
    schema = _schema_of(wanted.schema_json, "response_format.json_schema.schema")
    if schema.get("type") != "object":
        notes.refuse(
            "json_schema", "this model can only answer with a JSON object at the root", param="response_format"
        )
    description = wanted.description or "Gives the answer. Always answer by calling this tool, exactly once."
    return {
        "name": JSON_TOOL,
        "description": description,
        "input_schema": msgspec.Raw(wanted.schema_json.encode()),
    }


def _schema_of(schema_json: str, param: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(schema_json, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid(f"{param} is not a JSON object", param) from None


def _is_refused(name: str, value: Any) -> bool:
    if name == "minItems":
        return value not in (0, 1)
    if name == "format":
        return not isinstance(value, str) or value not in _FORMATS
    return name in _REFUSED


def _adjust(schema: Any) -> Any:
    """Return a schema within the API's subset; one that is within it comes back equal."""
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for name, value in schema.items():
        if _is_refused(name, value):
            moved[name] = value
        elif name in _SUBSCHEMAS:
            out[name] = _adjust(value)
        elif name in _SUBSCHEMA_LISTS and isinstance(value, list):
            out["anyOf" if name == "oneOf" else name] = [_adjust(entry) for entry in value]
        elif name in _SUBSCHEMA_MAPS and isinstance(value, dict):
            out[name] = {key: _adjust(entry) for key, entry in value.items()}
        else:
            out[name] = value
    if out.get("type") == "object" or "properties" in out:
        out["additionalProperties"] = False
    if moved:
        said = ", ".join(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in moved.items())
        out["description"] = f"{out['description']}\n\n{{{said}}}" if out.get("description") else f"{{{said}}}"
    return out
