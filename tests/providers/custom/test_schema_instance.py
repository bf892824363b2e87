"""The generated values are valid, by another implementation of JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.providers.custom.schema_instance import schema_instance

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "children", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}

EXACT: list[tuple[dict[str, Any], Any]] = [
    (
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        {"city": "city", "days": 1},
    ),
    ({"const": {"a": [1]}}, {"a": [1]}),
    ({"enum": ["b", "a"]}, "b"),
    ({"type": ["null", "boolean"]}, True),
    ({"type": "null"}, None),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "d"}, 1),
    ({"type": "array", "items": {"enum": ["x"]}, "minItems": 2}, ["x", "x"]),
    ({"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True}, ["value", "value 2"]),
    (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False, "minItems": 2},
        [1, True],
    ),
    ({"type": "array", "maxItems": 0}, []),
    ({"type": "string", "minLength": 8}, "valuexxx"),
    ({"type": "string", "maxLength": 3}, "val"),
    ({"type": "string", "format": "date-time"}, "2025-01-31T12:00:00Z"),
    ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
    ({"type": "integer", "exclusiveMaximum": 1}, 0),
    ({"type": "integer", "maximum": -3}, -3),
    ({"type": "number", "minimum": 0, "maximum": 1}, 0.5),
    ({"type": "number", "exclusiveMinimum": 2}, 3),
    ({"properties": {"a": {}}, "required": ["a", "b"]}, {"a": "a", "b": ""}),
    ({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}}, {"required": ["a"]}]}, {"a": 1}),
    ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "boolean"}}}, True),
    ({}, "value"),
]


@pytest.mark.parametrize(("schema", "expected"), EXACT)
def test_the_value_of_a_schema(schema: dict[str, Any], expected: Any) -> None:
    value = schema_instance(schema)
    assert value == expected
    jsonschema.validate(value, schema)


def test_a_schema_that_refers_to_itself_gives_a_finite_valid_value() -> None:
    value = schema_instance(TREE)
    jsonschema.validate(value, TREE)
    assert len(json.dumps(value)) < 20_000


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://elsewhere/schema"},
        {"allOf": [{"$ref": "#"}]},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
        {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9}},
        {"type": "string", "minLength": 10**12},
        {"type": "integer", "multipleOf": 0},
        {"type": "integer", "multipleOf": -2.5, "minimum": 1e300},
        {"type": 5, "enum": [], "properties": 3, "required": "x"},
        {"type": "object", "properties": {f"p{i}": {"$ref": "#"} for i in range(50)}},
        True,
        None,
        [],
    ],
)
def test_any_schema_ends_soon(schema: Any) -> None:
    assert len(json.dumps(schema_instance(schema))) < 2_000_000


_small = st.integers(-20, 20)


def _bounded(pair: tuple[int, int], kind: str) -> dict[str, Any]:
    return {"type": kind, "minimum": min(pair), "maximum": max(pair)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_leaves = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "format": "uuid"}, {"const": None}]),
    st.tuples(_small, _small).map(lambda pair: _bounded(pair, "integer")),
    st.tuples(_small, _small).map(lambda pair: _bounded(pair, "number")),
    st.tuples(st.integers(0, 6), st.integers(6, 12)).map(
        lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[1]}
    ),
    st.lists(st.text(max_size=3), min_size=1, max_size=3).map(lambda words: {"enum": words}),
)
_schemas = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3).map(_object),
        st.tuples(inner, st.integers(0, 2)).map(lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1]}),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=12,
)


@given(_schemas)
def test_values_are_valid_and_always_the_same(schema: dict[str, Any]) -> None:
    value = schema_instance(schema)
    jsonschema.validate(value, schema)
    assert schema_instance(json.loads(json.dumps(schema))) == value
