"""Tools, tool choice and structured output in requests to the Messages API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.providers.dialects.anthropic_structured import JSON_INSTRUCTION
from tests.providers.dialects.anthropic_rendering import render, say, user
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2 as pb

OLD, NEW, UNFORCED = "claude-sonnet-4-20250514", "claude-sonnet-4-5", "claude-opus-5-5"
SCHEMA = (
    '{"type": "object", "properties": {"b": {"type": "number"}, "a": {"const": 1.0}}, "additionalProperties": false}'
)


def function(name: str = "f", **members: Any) -> pb.Tool:
    return pb.Tool(function=pb.FunctionTool(name=name, **members))


def mode(value: pb.ToolChoiceMode.ValueType) -> pb.ToolChoice:
    return pb.ToolChoice(mode=value)


def json_schema(schema: str = SCHEMA, **members: Any) -> pb.ResponseFormat:
    return pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(name="n", schema_json=schema, **members))


EMPTY = {"type": "object", "properties": {}}
TOOLS: list[tuple[str, pb.Tool, dict[str, Any]]] = [
    ("the least", function(), {"name": "f", "input_schema": EMPTY}),
    (
        "a description, even an empty one",
        function(description=""),
        {"name": "f", "description": "", "input_schema": EMPTY},
    ),
    (
        "members beside and within",
        pb.Tool(
            function=pb.FunctionTool(name="f", extra_json='{"defer_loading":true}'),
            extra_json='{"cache_control":{"type":"ephemeral"}}',
        ),
        {"name": "f", "input_schema": EMPTY, "defer_loading": True, "cache_control": {"type": "ephemeral"}},
    ),
    (
        "a schema that does not say object",
        function(parameters_json='{"properties":{}}'),
        {"name": "f", "input_schema": {"type": "object", "properties": {}}},
    ),
    (
        "strict",
        function(strict=True, parameters_json=SCHEMA),
        {"name": "f", "input_schema": json.loads(SCHEMA), "strict": True},
    ),
    ("not strict", function(strict=False), {"name": "f", "input_schema": EMPTY}),
    (
        "the provider's own",
        pb.Tool(opaque_json='{"type":"web_search_20250305","name":"web_search","max_uses":3}'),
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
    ),
    (
        "a function in the API's form",
        pb.Tool(opaque_json='{"name":"g","input_schema":{"type":"object"}}'),
        {"name": "g", "input_schema": {"type": "object"}},
    ),
]


@pytest.mark.parametrize(("given", "expected"), [pytest.param(g, e, id=name) for name, g, e in TOOLS])
def test_a_tool_is_rendered(given: pb.Tool, expected: dict[str, Any]) -> None:
    rendered = render(tools=[given])
    assert rendered.body["tools"] == [expected]
    assert rendered.warned == ()


def test_a_schema_goes_in_byte_for_byte() -> None:
    assert SCHEMA in render(tools=[function(parameters_json=SCHEMA)]).text
    assert SCHEMA in render(tools=[function(parameters_json=SCHEMA, strict=True)]).text
    assert SCHEMA in render(response_format=json_schema()).text


@pytest.mark.parametrize(
    ("given", "name", "param"),
    [
        (pb.Tool(custom_json='{"name":"c"}'), "UNSUPPORTED_FEATURE", "tools[0]"),
        (pb.Tool(opaque_json='{"type":"file_search"}'), "UNSUPPORTED_FEATURE", "tools[0].type"),
        (pb.Tool(opaque_json='{"name":"g"}'), "UNSUPPORTED_FEATURE", "tools[0].type"),
        (pb.Tool(opaque_json='{"type":1}'), "INVALID_REQUEST", "tools[0].type"),
        (pb.Tool(opaque_json="[]"), "INVALID_REQUEST", "tools[0]"),
        (function(parameters_json="[1]"), "INVALID_REQUEST", "tools[0].function.parameters"),
        (function(parameters_json="{", strict=True), "INVALID_REQUEST", "tools[0].function.parameters"),
    ],
)
def test_a_tool_the_api_has_no_form_for_is_refused(given: pb.Tool, name: str, param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        render(tools=[given])
    assert (caught.value.name, caught.value.param) == (name, param)


@pytest.mark.parametrize(
    ("kind", "beta"),
    [
        ("code_execution_20250522", "code-execution-2025-05-22"),
        ("computer_20251124", "computer-use-2025-11-24"),
        ("mcp_toolset", "mcp-client-2025-11-20"),
        ("advisor_20260301", "advisor-tool-2026-03-01"),
    ],
)
def test_a_provider_tool_asks_for_its_beta(kind: str, beta: str) -> None:
    rendered = render(tools=[pb.Tool(opaque_json=json.dumps({"type": kind, "name": "x"}))])
    assert rendered.headers["anthropic-beta"] == beta


NONE, AUTO = mode(pb.TOOL_CHOICE_MODE_NONE), mode(pb.TOOL_CHOICE_MODE_AUTO)
REQUIRED, NAMED = mode(pb.TOOL_CHOICE_MODE_REQUIRED), pb.ToolChoice(function_name="f")


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (AUTO, None, {"type": "auto"}),
        (AUTO, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (NONE, False, {"type": "none"}),
        (REQUIRED, None, {"type": "any"}),
        (NAMED, False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
        (pb.ToolChoice(opaque_json='{"type":"any","x":1}'), None, {"type": "any", "x": 1}),
    ],
)
def test_tool_choice(choice: pb.ToolChoice | None, parallel: bool | None, expected: dict[str, Any] | None) -> None:
    rendered = render(tools=[function()], tool_choice=choice, parallel_tool_calls=parallel)
    assert rendered.body.get("tool_choice") == expected
    assert rendered.warned == ()


def test_a_choice_without_tools_is_left_out() -> None:
    rendered = render(tool_choice=AUTO)
    assert "tool_choice" not in rendered.body
    assert rendered.warned == ("tool_choice",)


@pytest.mark.parametrize(
    ("choice", "model", "feature"),
    [
        (REQUIRED, UNFORCED, "forced_tool_choice"),
        (NAMED, "claude-sonnet-5-5", "forced_tool_choice"),
        (pb.ToolChoice(opaque_json='{"type":"allowed_tools"}'), NEW, "tool_choice"),
    ],
)
def test_a_choice_the_model_does_not_take_is_refused(choice: pb.ToolChoice, model: str, feature: str) -> None:
    with pytest.raises(GatewayError) as caught:
        render(tools=[function()], tool_choice=choice, model=model)
    assert (caught.value.name, caught.value.metadata["feature"]) == ("UNSUPPORTED_FEATURE", feature)


def test_web_search_options_become_the_providers_tool() -> None:
    options = '{"search_context_size":"low","user_location":{"type":"approximate","approximate":{"city":"Köln"}}}'
    rendered = render(web_search_options_json=options)
    assert rendered.body["tools"] == [
        {
            "type": "web_search_20250305",
            "name": "web_search",
            "user_location": {"type": "approximate", "city": "Köln"},
        }
    ]
    assert rendered.warned == ("web_search_options.search_context_size",)
    assert render(web_search_options_json="{}").body["tools"] == [{"type": "web_search_20250305", "name": "web_search"}]


def test_a_schema_is_asked_for_natively_where_the_model_knows_it() -> None:
    rendered = render(response_format=json_schema(strict=True), model=NEW)
    assert rendered.body["output_config"] == {"format": {"type": "json_schema", "schema": json.loads(SCHEMA)}}
    assert "tools" not in rendered.body
    assert rendered.warned == ()


ADJUSTED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "objects are closed, at every depth",
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}}},
        {
            "type": "object",
            "properties": {
                "a": {"type": "array", "items": {"type": "object", "properties": {}, "additionalProperties": False}}
            },
            "additionalProperties": False,
        },
    ),
    (
        "constraints move to the description",
        {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many"},
        {"type": "integer", "description": "How many\n\n{minimum: 1, maximum: 9}"},
    ),
    (
        "so do unknown formats and larger minItems",
        {"type": "array", "minItems": 3, "items": {"type": "string", "format": "color"}},
        {
            "type": "array",
            "items": {"type": "string", "description": '{format: "color"}'},
            "description": "{minItems: 3}",
        },
    ),
    (
        "oneOf becomes anyOf; definitions are gone through",
        {"$defs": {"x": {"type": "object"}}, "oneOf": [{"$ref": "#/$defs/x"}, {"type": "string", "pattern": "a"}]},
        {
            "$defs": {"x": {"type": "object", "additionalProperties": False}},
            "anyOf": [{"$ref": "#/$defs/x"}, {"type": "string", "description": '{pattern: "a"}'}],
        },
    ),
]


@pytest.mark.parametrize(("schema", "expected"), [pytest.param(s, e, id=name) for name, s, e in ADJUSTED])
def test_a_schema_the_api_would_refuse_is_adjusted(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    rendered = render(response_format=json_schema(json.dumps(schema)))
    assert rendered.body["output_config"]["format"]["schema"] == expected
    assert rendered.warned == ("response_format.json_schema.schema",)


def test_a_model_without_structured_output_answers_by_a_tool() -> None:
    rendered = render(response_format=json_schema(), model=OLD)
    assert [tool["name"] for tool in rendered.body["tools"]] == ["answer_in_json"]
    assert rendered.body["tools"][0]["input_schema"] == json.loads(SCHEMA)
    assert rendered.body["tool_choice"] == {"type": "tool", "name": "answer_in_json"}
    assert "output_config" not in rendered.body


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {"type": "any"}),
        (AUTO, {"type": "any"}),
        (REQUIRED, {"type": "any"}),
        (NAMED, {"type": "tool", "name": "f"}),
        (NONE, {"type": "tool", "name": "answer_in_json"}),
    ],
)
def test_beside_other_tools_it_may_call_those_first(choice: pb.ToolChoice | None, expected: dict[str, Any]) -> None:
    rendered = render(response_format=json_schema(), model=OLD, tools=[function()], tool_choice=choice)
    assert [tool["name"] for tool in rendered.body["tools"]] == ["f", "answer_in_json"]
    assert rendered.body["tool_choice"] == expected


def test_such_a_model_gives_objects_only() -> None:
    with pytest.raises(GatewayError) as caught:
        render(response_format=json_schema('{"type":"array"}'), model=OLD)
    assert (caught.value.name, caught.value.metadata["feature"]) == ("UNSUPPORTED_FEATURE", "json_schema")


def test_a_schema_that_is_no_json_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        render(response_format=json_schema("{"))
    assert caught.value.param == "response_format.json_schema.schema"


def test_json_mode_is_an_instruction_after_the_callers_own() -> None:
    form = pb.ResponseFormat(json_object=pb.JsonObjectFormat())
    rendered = render(say(pb.ROLE_SYSTEM, "Be brief."), user("Hi"), response_format=form)
    assert [block["text"] for block in rendered.body["system"]] == ["Be brief.", JSON_INSTRUCTION]
    assert rendered.warned == ("response_format",)
    assert render(response_format=form).body["system"] == JSON_INSTRUCTION


def test_plain_text_needs_no_word() -> None:
    rendered = render(response_format=pb.ResponseFormat(text=pb.TextFormat()))
    assert rendered.body.keys() == {"model", "max_tokens", "messages"}
    assert rendered.warned == ()
