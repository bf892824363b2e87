"""Thinking, bounds, sampling and the other settings of requests to the Messages API, by what each model takes."""

from __future__ import annotations

from typing import Any

import pytest

from services.providers.dialects.anthropic_models import facts_of
from services.providers.endpoint import Endpoint
from tests.providers.dialects.anthropic_rendering import ENDPOINT, assistant, render, tool, user
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2 as pb

BUDGET, EITHER, ADAPTIVE, ALWAYS = "claude-sonnet-4-5", "claude-sonnet-4-6", "claude-opus-4-7", "claude-opus-5-5"
TOOLS = [pb.Tool(function=pb.FunctionTool(name="f"))]
REQUIRED = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)
CALL = pb.Part(tool_call=pb.ToolCall(id="c", name="f", arguments_json="{}"))
SIGNED = pb.Part(reasoning=pb.ReasoningPart(text="t", signature="s"))


def enabled(budget: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget}


SUMMARIZED = {"type": "adaptive", "display": "summarized"}
EFFORT, ASKED = "reasoning_effort", "reasoning_budget_tokens"
THINKING: list[tuple[str, dict[str, Any], dict[str, Any] | None, str | None, tuple[str, ...]]] = [
    (BUDGET, {}, None, None, ()),
    (BUDGET, {EFFORT: "none"}, None, None, ()),
    (BUDGET, {EFFORT: "minimal"}, enabled(1024), None, ()),
    (BUDGET, {EFFORT: "low"}, enabled(2048), None, ()),
    (BUDGET, {EFFORT: "medium"}, enabled(8192), None, ()),
    (BUDGET, {EFFORT: "high"}, enabled(16_384), None, ()),
    (BUDGET, {EFFORT: "xhigh"}, enabled(10_000), None, (EFFORT,)),  # 32,000 do not fit below 20,000
    (BUDGET, {EFFORT: "sideways"}, None, None, (EFFORT,)),
    (BUDGET, {ASKED: 3000}, enabled(3000), None, ()),
    (BUDGET, {ASKED: 3000, EFFORT: "high"}, enabled(3000), None, ()),
    (BUDGET, {ASKED: 0}, None, None, ()),
    (BUDGET, {ASKED: 5}, enabled(1024), None, (ASKED,)),
    (BUDGET, {ASKED: 20_000}, enabled(10_000), None, (EFFORT,)),
    (BUDGET, {EFFORT: "low", "max_tokens": 2000}, enabled(1024), None, (EFFORT,)),
    (BUDGET, {EFFORT: "low", "max_tokens": 1024}, None, None, (EFFORT,)),
    (EITHER, {EFFORT: "high"}, {"type": "adaptive"}, "high", ()),
    (EITHER, {EFFORT: "xhigh"}, {"type": "adaptive"}, "max", ()),
    (EITHER, {EFFORT: "minimal"}, {"type": "adaptive"}, "low", ()),
    (EITHER, {ASKED: 3000}, enabled(3000), None, ()),
    (ADAPTIVE, {EFFORT: "medium"}, SUMMARIZED, "medium", ()),
    (ADAPTIVE, {EFFORT: "xhigh"}, SUMMARIZED, "xhigh", ()),
    (ADAPTIVE, {EFFORT: "none"}, None, None, ()),
    (ADAPTIVE, {ASKED: 3000}, SUMMARIZED, "medium", (ASKED,)),
    (ADAPTIVE, {ASKED: 900_000}, SUMMARIZED, "xhigh", (ASKED,)),
    ("claude-opus-5", {EFFORT: "none"}, {"type": "disabled"}, None, ()),
    ("claude-sonnet-5-5", {EFFORT: "none"}, {"type": "between_tools"}, None, ()),
    (ALWAYS, {EFFORT: "none"}, None, "low", (EFFORT,)),
    ("claude-3-5-haiku-latest", {EFFORT: "high", "max_tokens": 100}, None, None, (EFFORT,)),
    (
        BUDGET,
        {"extra_json": '{"thinking":{"type":"enabled","budget_tokens":1500,"display":"omitted"}}'},
        {**enabled(1500), "display": "omitted"},
        None,
        (),
    ),
    (BUDGET, {EFFORT: "low", "extra_json": '{"thinking":{"type":"disabled"}}'}, {"type": "disabled"}, None, ()),
    (EITHER, {EFFORT: "low", "extra_json": '{"output_config":{"effort":"max"}}'}, {"type": "adaptive"}, "max", ()),
    ("deepseek-chat", {EFFORT: "low"}, enabled(2048), None, ()),
]


@pytest.mark.parametrize(("model", "members", "thinking", "effort", "warned"), THINKING)
def test_thinking_is_asked_for_as_the_model_takes_it(
    model: str, members: dict[str, Any], thinking: dict[str, Any] | None, effort: str | None, warned: tuple[str, ...]
) -> None:
    rendered = render(model=model, **members)
    assert rendered.body.get("thinking") == thinking
    assert rendered.body.get("output_config", {}).get("effort") == effort
    assert rendered.warned == warned


@pytest.mark.parametrize(
    ("model", "messages", "members", "thinks"),
    [
        (BUDGET, [user("a")], {"tool_choice": REQUIRED}, False),
        (EITHER, [user("a")], {"tool_choice": REQUIRED}, True),
        (BUDGET, [user("a"), assistant(CALL), tool("c", "1")], {}, False),
        (BUDGET, [user("a"), assistant(SIGNED, CALL), tool("c", "1")], {}, True),
        (BUDGET, [user("a"), assistant(CALL), tool("c", "1"), assistant("x"), user("b")], {}, True),
        (EITHER, [user("a"), assistant(CALL), tool("c", "1")], {}, True),
    ],
)
def test_a_budget_yields_to_what_it_does_not_go_together_with(
    model: str, messages: list[pb.Message], members: dict[str, Any], thinks: bool
) -> None:
    rendered = render(*messages, model=model, reasoning_effort="low", tools=TOOLS, **members)
    assert ("thinking" in rendered.body) is thinks
    assert rendered.warned == (() if thinks else ("reasoning_effort",))


def test_thinking_in_the_wrong_shape_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        render(extra_json='{"thinking":{"type":"enabled","budget_tokens":"many"}}')
    assert (caught.value.name, caught.value.param) == ("INVALID_REQUEST", "thinking")


@pytest.mark.parametrize(
    ("model", "members", "expected", "warned"),
    [
        (BUDGET, {"max_tokens": 7}, 7, ()),
        (BUDGET, {"max_tokens": 7, "max_completion_tokens": 9}, 9, ()),
        (BUDGET, {"max_tokens": None}, 32_000, ("max_tokens",)),
        ("claude-3-haiku-20240307", {"max_tokens": None}, 4096, ("max_tokens",)),
        ("somebody-elses-model", {"max_tokens": None}, 4096, ("max_tokens",)),
        (BUDGET, {"max_tokens": None, ASKED: 20_000}, 52_000, ("max_tokens",)),
        (BUDGET, {"max_tokens": None, ASKED: 60_000}, 64_000, ("max_tokens",)),
        (BUDGET, {"max_tokens": 100_000}, 64_000, ("max_tokens",)),
        ("somebody-elses-model", {"max_tokens": 100_000}, 100_000, ()),
    ],
)
def test_the_bound(model: str, members: dict[str, Any], expected: int, warned: tuple[str, ...]) -> None:
    rendered = render(model=model, **members)
    assert rendered.body["max_tokens"] == expected
    assert rendered.warned == warned


def test_an_endpoint_may_set_another_default_bound() -> None:
    endpoint = Endpoint(
        name="e",
        catalog="c",
        dialect="d",
        base_url="u",
        options={"default_max_tokens": "777"},
        drops=frozenset({"top_p"}),
        renames={"stop_sequences": "stop"},
    )
    rendered = render(endpoint=endpoint, max_tokens=None, top_p=0.5, stop=["x"])
    assert rendered.body["max_tokens"] == 777
    assert rendered.body["stop"] == ["x"]
    assert "top_p" not in rendered.body
    assert rendered.warned == ("max_tokens", "top_p")


TOP_K = {"extra_json": '{"top_k":5}'}
SAMPLING: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    (BUDGET, {"temperature": 0.0}, {"temperature": 0.0}, ()),
    (BUDGET, {"temperature": 1.7}, {"temperature": 1.0}, ("temperature",)),
    (BUDGET, {"temperature": -1.0}, {"temperature": 0.0}, ("temperature",)),
    (BUDGET, {"top_p": 0.5, **TOP_K}, {"top_p": 0.5, "top_k": 5}, ()),
    (BUDGET, {"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5}, ("top_p",)),
    (BUDGET, {"temperature": 0.5, "top_p": 1.0}, {"temperature": 0.5}, ()),
    (BUDGET, {"temperature": 1.0, "top_p": 0.5}, {"top_p": 0.5}, ()),
    ("claude-sonnet-4-0", {"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5, "top_p": 0.5}, ()),
    (BUDGET, {EFFORT: "low", "temperature": 1.0}, {"temperature": 1.0}, ()),
    (BUDGET, {EFFORT: "low", "temperature": 0.3}, {}, ("temperature",)),
    (BUDGET, {EFFORT: "low", "top_p": 0.96}, {"top_p": 0.96}, ()),
    (BUDGET, {EFFORT: "low", "top_p": 0.3, **TOP_K}, {}, ("top_p", "top_k")),
    (ADAPTIVE, {"temperature": 0.3, "top_p": 0.2, **TOP_K}, {}, ("temperature", "top_p", "top_k")),
    (ADAPTIVE, {"temperature": 1.0, "top_p": 1.0}, {}, ()),
]


@pytest.mark.parametrize(("model", "members", "expected", "warned"), SAMPLING)
def test_sampling(model: str, members: dict[str, Any], expected: dict[str, Any], warned: tuple[str, ...]) -> None:
    rendered = render(model=model, **members)
    names = {"temperature", "top_p", "top_k"}
    assert {name: value for name, value in rendered.body.items() if name in names} == expected
    assert rendered.warned == warned


def entry(key: str, value: str) -> pb.MetadataEntry:
    return pb.MetadataEntry(key=key, value=value)


SETTINGS: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({"stop": ["a", "\n"]}, {"stop_sequences": ["a"]}, ("stop",)),
    ({"stop": [" "]}, {}, ("stop",)),
    ({"user": "u"}, {"metadata": {"user_id": "u"}}, ()),
    ({"user": "u", "safety_identifier": "s"}, {"metadata": {"user_id": "s"}}, ()),
    ({"metadata": [entry("user_id", "m")]}, {"metadata": {"user_id": "m"}}, ()),
    ({"metadata": [entry("trace", "1")]}, {}, ("metadata",)),
    ({"service_tier": "auto"}, {"service_tier": "auto"}, ()),
    ({"service_tier": "default"}, {"service_tier": "standard_only"}, ()),
    ({"service_tier": "flex"}, {}, ("service_tier",)),
    ({"n": 1, "store": False, "logprobs": False, "frequency_penalty": 0.0}, {}, ()),
    ({"seed": 0}, {}, ("seed",)),
    ({"logprobs": True, "top_logprobs": 2}, {}, ("logprobs", "top_logprobs")),
    ({"frequency_penalty": 0.5, "presence_penalty": -1.0}, {}, ("frequency_penalty", "presence_penalty")),
    ({"logit_bias_json": "{}", "prediction_json": "{}", "store": True}, {}, ("logit_bias", "prediction", "store")),
    ({"verbosity": "low", "prompt_cache_key": "k"}, {}, ("prompt_cache_key", "verbosity")),
    (
        {"extra_json": '{"cache_control":{"type":"ephemeral"},"inference_geo":"us"}'},
        {"cache_control": {"type": "ephemeral"}, "inference_geo": "us"},
        (),
    ),
    ({"extra_json": '{"container":null,"zap":null}'}, {}, ()),
    ({"extra_json": '{"repetition_penalty":1.1}'}, {}, ("repetition_penalty",)),
    ({"modalities": ["text"], "stream_options": pb.StreamOptions(include_usage=True)}, {}, ()),
]


@pytest.mark.parametrize(("members", "expected", "warned"), SETTINGS)
def test_settings(members: dict[str, Any], expected: dict[str, Any], warned: tuple[str, ...]) -> None:
    rendered = render(**members)
    usual = {"model", "max_tokens", "messages"}
    assert {name: value for name, value in rendered.body.items() if name not in usual} == expected
    assert rendered.warned == warned


@pytest.mark.parametrize(
    ("extra", "betas"),
    [
        ('{"betas":["a-1","b-2"]}', "a-1,b-2"),
        ('{"anthropic_beta":"a-1, b-2"}', "a-1,b-2"),
        ('{"context_management":{"edits":[]}}', "context-management-2025-06-27"),
        (
            '{"context_management":{"edits":[{"type":"compact_20260112"}]}}',
            "context-management-2025-06-27,compact-2026-01-12",
        ),
        ('{"mcp_servers":[]}', "mcp-client-2025-04-04"),
        ('{"container":{"skills":[]}}', "skills-2025-10-02"),
        ('{"container":"container_1"}', None),
        ('{"speed":"fast"}', "fast-mode-2026-02-01"),
        ('{"speed":"standard"}', None),
        ('{"output_config":{"task_budget":{}}}', "task-budgets-2026-03-13"),
    ],
)
def test_members_of_the_api_ask_for_their_betas(extra: str, betas: str | None) -> None:
    rendered = render(extra_json=extra)
    assert rendered.headers["anthropic-version"] == "2023-06-01"
    assert rendered.headers.get("anthropic-beta") == betas


@pytest.mark.parametrize("extra", ['{"betas":1}', '{"betas":["a\\r\\nx: y"]}', "[]", '{"thinking":3}'])
def test_extra_members_of_the_wrong_shape_are_refused(extra: str) -> None:
    with pytest.raises(GatewayError) as caught:
        render(extra_json=extra)
    assert caught.value.name == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("members", "feature"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "audio_output"),
        ({"modalities": ["image"]}, "image_output"),
        ({"response_format": pb.ResponseFormat(opaque_json='{"type":"grammar"}')}, "response_format"),
    ],
)
def test_features_the_api_does_not_have_are_refused(members: dict[str, Any], feature: str) -> None:
    with pytest.raises(GatewayError) as caught:
        render(**members)
    assert caught.value.name == "UNSUPPORTED_FEATURE"
    assert caught.value.metadata["feature"] == feature
    assert caught.value.metadata["provider"] == ENDPOINT.name


@pytest.mark.parametrize(
    ("model", "same_as"),
    [
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic/claude-haiku-4.5", "claude-haiku-4-5"),
        ("us.anthropic.claude-opus-4-8-v1:0", "claude-opus-4-8"),
        ("claude-opus-4-1@20250805", "claude-opus-4-1"),
        ("claude-opus-4-20250514", "claude-opus-4-0"),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", "claude-3-5-haiku-latest"),
        ("claude-opus-5-9", "claude-nova-7"),
    ],
)
def test_a_models_name_is_read_with_vendor_version_and_date(model: str, same_as: str) -> None:
    assert facts_of(model) == facts_of(same_as)


def test_minor_versions_are_not_mistaken_for_one_another() -> None:
    assert facts_of("claude-opus-4-5").max_output == 64_000
    assert facts_of("claude-opus-4").max_output == 32_000
    assert facts_of("claude-opus-5-5").thinking_off == "never"
    assert facts_of("claude-opus-5").thinking_off == "disabled"
    assert facts_of("gpt-4o").max_output == 0
