"""The form of the answer that a request asks for, in both directions: `response_format`.

The one rule: members beside the typed ones (some upstreams take a `schema` with `json_object`) go to the request's
`extra_json` under `response_format`, so that the form itself is always typed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json.extras import merge_extra, pack_extra, verbatim
from trunkline.openai_json.members import missing, raw_object, take_document, take_raw

__all__ = ["decode_response_format", "encode_response_format"]


def decode_response_format(raw: msgspec.Raw, chosen: pb.ResponseFormat) -> dict[str, msgspec.Raw]:
    """Fill `chosen` from `response_format`; return the members that are left. Raises INVALID_REQUEST."""
    members = raw_object(raw, "response_format")
    kind = take_raw(members, "type", "response_format", str)
    if kind is None:
        raise missing("response_format.type", "a string")
    if kind == "text":
        chosen.text.SetInParent()
    elif kind == "json_object":
        chosen.json_object.SetInParent()
    elif kind == "json_schema":
        inner = members.pop("json_schema", None)
        if inner is None:
            raise missing("response_format.json_schema", "an object")
        _decode_schema(inner, chosen.json_schema)
    else:
        chosen.opaque_json = bytes(raw).decode()
        return {}
    return members


def _decode_schema(raw: msgspec.Raw, schema: pb.JsonSchemaFormat) -> None:
    path = "response_format.json_schema"
    members = raw_object(raw, path)
    name = take_raw(members, "name", path, str)
    if name is None:
        raise missing(f"{path}.name", "a string")
    schema.name = name
    description = take_raw(members, "description", path, str)
    if description is not None:
        schema.description = description
    strict = take_raw(members, "strict", path, bool)
    if strict is not None:
        schema.strict = strict
    document = take_document(members, "schema", path)
    if document is not None:
        schema.schema_json = document
    schema.extra_json = pack_extra(members)


def encode_response_format(chosen: pb.ResponseFormat) -> dict[str, Any] | msgspec.Raw | None:
    """Return the member, None when no form is set. Raises INVALID_REQUEST for JSON that is none."""
    kind = chosen.WhichOneof("format")
    if kind in ("text", "json_object"):
        return {"type": kind}
    if kind == "opaque_json":
        return verbatim(chosen.opaque_json, "response_format.opaque_json", opening="{")
    if kind != "json_schema":
        return None
    schema = chosen.json_schema
    inner: dict[str, Any] = {"name": schema.name}
    if schema.HasField("description"):
        inner["description"] = schema.description
    if schema.schema_json:
        inner["schema"] = verbatim(schema.schema_json, "response_format.json_schema.schema_json", opening="{")
    if schema.HasField("strict"):
        inner["strict"] = schema.strict
    merge_extra(inner, schema.extra_json, "response_format.json_schema.extra_json")
    return {"type": "json_schema", "json_schema": inner}
