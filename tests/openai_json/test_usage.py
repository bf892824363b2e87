"""Usage: the many ways of counting made one, and OpenAI's object back from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from tests.openai_json.strategies import json_objects
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.openai_json import decode_usage, encode_usage

_OPENAI = {
    "prompt_tokens": 1420,
    "completion_tokens": 100,
    "total_tokens": 1520,
    "prompt_tokens_details": {"cached_tokens": 1280, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def _counts(usage: TokenUsage) -> dict[str, int]:
    return {field.name: value for field, value in usage.ListFields() if field.name not in ("raw_json", "extra_json")}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        pytest.param(
            _OPENAI,
            {
                "input_tokens": 1420,
                "output_tokens": 100,
                "total_tokens": 1520,
                "input_cached_tokens": 1280,
                "input_audio_tokens": 0,
                "output_reasoning_tokens": 0,
                "output_audio_tokens": 0,
                "output_accepted_prediction_tokens": 0,
                "output_rejected_prediction_tokens": 0,
            },
            id="openai",
        ),
        pytest.param(
            {
                "prompt_tokens": 20,
                "completion_tokens": 30,
                "total_tokens": 50,
                "prompt_cache_hit_tokens": 16,
                "prompt_cache_miss_tokens": 4,
                "completion_tokens_details": {"reasoning_tokens": 25},
            },
            {
                "input_tokens": 20,
                "output_tokens": 30,
                "total_tokens": 50,
                "input_cached_tokens": 16,
                "output_reasoning_tokens": 25,
            },
            id="deepseek",
        ),
        pytest.param(
            {
                "prompt_tokens": 291,
                "completion_tokens": 26,
                "total_tokens": 513,
                "prompt_tokens_details": {"cached_tokens": 290, "text_tokens": 291},
                "completion_tokens_details": {"reasoning_tokens": 196},
                "cost_in_usd_ticks": 1330500,
            },
            {
                "input_tokens": 291,
                "output_tokens": 222,
                "total_tokens": 513,
                "input_cached_tokens": 290,
                "input_text_tokens": 291,
                "output_reasoning_tokens": 196,
                "upstream_cost_nano_usd": 133050,
            },
            id="xai counts reasoning beside",
        ),
        pytest.param(
            {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
            {"input_tokens": 35, "output_tokens": 74, "total_tokens": 109},
            id="gemini leaves thinking out",
        ),
        pytest.param(
            {
                "prompt_tokens": 11,
                "completion_tokens": 15,
                "total_tokens": 401,
                "prompt_tokens_details": {"audio_tokens": 375, "cached_tokens": 9},
            },
            {
                "input_tokens": 386,
                "output_tokens": 15,
                "total_tokens": 401,
                "input_audio_tokens": 375,
                "input_cached_tokens": 9,
            },
            id="mistral counts audio beside",
        ),
        pytest.param(
            {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "total_tokens": 1112,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 100,
                "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
            },
            {
                "input_tokens": 1105,
                "output_tokens": 7,
                "total_tokens": 1112,
                "input_cached_tokens": 1000,
                "input_cache_written_tokens": 100,
                "input_cache_written_5m_tokens": 60,
                "input_cache_written_1h_tokens": 40,
            },
            id="anthropic's cache beside",
        ),
        pytest.param(
            {
                "prompt_tokens": 1105,
                "completion_tokens": 7,
                "total_tokens": 1112,
                "cache_read_input_tokens": 1000,
                "prompt_tokens_details": {"cached_tokens": 1000, "cache_creation_tokens": 100},
            },
            {
                "input_tokens": 1105,
                "output_tokens": 7,
                "total_tokens": 1112,
                "input_cached_tokens": 1000,
                "input_cache_written_tokens": 100,
            },
            id="anthropic's cache inside",
        ),
        pytest.param(
            {"prompt_tokens": 5, "completion_tokens": 7, "cache_read_input_tokens": 1000},
            {"input_tokens": 1005, "output_tokens": 7, "input_cached_tokens": 1000},
            id="a part larger than the whole",
        ),
        pytest.param(
            {
                "prompt_tokens": 12,
                "completion_tokens": 43,
                "total_tokens": 55,
                "num_search_queries": 2,
                "reasoning_tokens": 3,
                "cost": {"input_tokens_cost": 0.0001, "total_cost": 0.005},
            },
            {
                "input_tokens": 12,
                "output_tokens": 43,
                "total_tokens": 55,
                "output_reasoning_tokens": 3,
                "web_search_requests": 2,
                "upstream_cost_nano_usd": 5_000_000,
            },
            id="perplexity",
        ),
        pytest.param(
            {"prompt_tokens": 3332, "completion_tokens": 176, "total_tokens": 3508, "cost": 0.00048784},
            {"input_tokens": 3332, "output_tokens": 176, "total_tokens": 3508, "upstream_cost_nano_usd": 487_840},
            id="openrouter",
        ),
        pytest.param(
            {"prompt_tokens": 41, "completion_tokens": 15, "total_tokens": 56, "cached_tokens": 9},
            {"input_tokens": 41, "output_tokens": 15, "total_tokens": 56, "input_cached_tokens": 9},
            id="together",
        ),
        pytest.param(
            {"prompt_tokens": 397, "completion_tokens": None, "total_tokens": None, "cache_read_input_tokens": 0},
            {"input_tokens": 397, "input_cached_tokens": 0},
            id="databricks in mid-stream",
        ),
        pytest.param({"input_tokens": 1, "output_tokens": 2.0}, {"input_tokens": 1, "output_tokens": 2}, id="bare"),
        pytest.param({"prompt_tokens": -1, "completion_tokens": True, "total_tokens": "9"}, {}, id="no counts"),
        pytest.param({}, {}, id="empty"),
    ],
)
def test_counts_are_normalised(obj: dict[str, Any], expected: dict[str, int]) -> None:
    assert _counts(decode_usage(obj)) == expected


@pytest.mark.parametrize(
    ("cost", "nano"),
    [
        (0, 0),
        (1e-9, 1),
        (0.0000036, 3600),
        (0.1, 100_000_000),
        (0.29, 290_000_000),
        ("0.0076509169", 7_650_917),
        (12345.678901234, 12_345_678_901_234),
        (-1, None),
        ("free", None),
        (True, None),
        ({"total_cost": None}, None),
    ],
)
def test_a_stated_price_is_decimal(cost: object, nano: int | None) -> None:
    usage = decode_usage({"prompt_tokens": 1, "cost": cost})
    assert (usage.upstream_cost_nano_usd if usage.HasField("upstream_cost_nano_usd") else None) == nano


def test_openais_own_object_comes_back_and_foreign_members_stay() -> None:
    assert encode_usage(decode_usage(_OPENAI)) == _OPENAI
    groq = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "queue_time": 0.01, "details": {"a": [1]}}
    assert encode_usage(decode_usage(groq)) == groq


def test_the_upstreams_text_is_kept_verbatim() -> None:
    assert decode_usage({"cost": 3.6e-06}, '{ "cost": 0.0000036 }').raw_json == '{ "cost": 0.0000036 }'
    assert decode_usage({"prompt_tokens": 1}).raw_json == '{"prompt_tokens":1}'


def test_usage_of_another_wire_format_has_the_three_totals() -> None:
    usage = TokenUsage(
        input_tokens=125,
        output_tokens=89,
        input_cached_tokens=100,
        input_cache_written_tokens=5,
        input_cache_written_5m_tokens=5,
        web_search_requests=1,
    )
    assert encode_usage(usage) == {
        "prompt_tokens": 125,
        "completion_tokens": 89,
        "total_tokens": 214,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 5},
        "cache_creation": {"ephemeral_5m_input_tokens": 5},
        "server_tool_use": {"web_search_requests": 1},
    }
    assert encode_usage(TokenUsage()) == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@given(json_objects, json_objects, json_objects)
def test_no_object_is_too_strange(members: dict[str, Any], prompt: dict[str, Any], counts: dict[str, Any]) -> None:
    strange = {**members, "prompt_tokens_details": prompt, **counts, "cost": members, "cache_creation": counts}
    encode_usage(decode_usage(strange))
