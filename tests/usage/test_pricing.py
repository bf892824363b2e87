"""Prices worked out by hand: in nano-USD, USD per million tokens is 1,000 times the nano-USD per token."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.usage.pricing import MAX_COUNT, Rate, Rates, cost_nano_usd, split_tokens, upstream_cost_nano_usd
from trunkline.inference.v1.usage_pb2 import TokenUsage


def per_million(usd: str) -> Rate:
    return Rate(base=Decimal(usd) * 1000)


OPENAI = Rates(input=per_million("1.25"), input_cached=per_million("0.125"), output=per_million("10"))
ANTHROPIC = Rates(
    input=per_million("3"),
    input_cached=per_million("0.30"),
    input_cache_written=per_million("3.75"),
    input_cache_written_1h=per_million("6"),
    output=per_million("15"),
    web_search=Rate(base=Decimal(10_000_000)),
)
DEEPSEEK = Rates(input=per_million("0.27"), input_cached=per_million("0.07"), output=per_million("1.10"))
AUDIO = Rates(
    input=per_million("2.5"), output=per_million("10"), input_audio=per_million("32"), output_audio=per_million("64")
)
TIERED = Rates(
    input=Rate(base=Decimal(3000), tiers=((200_000, Decimal(6000)),)),
    input_cached=Rate(base=Decimal(300), tiers=((200_000, Decimal(600)),)),
    output=Rate(base=Decimal(15_000), tiers=((200_000, Decimal(22_500)),)),
)
REASONING = Rates(input=per_million("2"), output=per_million("8"), output_reasoning=per_million("3"))
PER_REQUEST = Rates(input=per_million("1"), output=per_million("1"), request=Rate(base=Decimal(12_000_000)))
FREE = Rates(input=per_million("0"), output=per_million("0"))
ODD = Rates(input=Rate(base=Decimal("0.5")), output=Rate(base=Decimal("0.25")))


@pytest.mark.parametrize(
    ("rates", "usage", "cost"),
    [
        pytest.param(
            OPENAI,
            {
                "input_tokens": 9_000,
                "input_cached_tokens": 8_000,
                "output_tokens": 500,
                "output_reasoning_tokens": 3,
            },
            1_000 * 1_250 + 8_000 * 125 + 500 * 10_000,
            id="openai: cached is a part of input, reasoning of output at its price",
        ),
        pytest.param(
            ANTHROPIC,
            {
                "input_tokens": 100 + 2_000 + 700 + 300,
                "input_cached_tokens": 2_000,
                "input_cache_written_tokens": 1_000,
                "input_cache_written_5m_tokens": 700,
                "input_cache_written_1h_tokens": 300,
                "output_tokens": 50,
            },
            100 * 3_000 + 2_000 * 300 + 700 * 3_750 + 300 * 6_000 + 50 * 15_000,
            id="anthropic: cache written for 5 minutes and for an hour, and read",
        ),
        pytest.param(
            ANTHROPIC,
            {"input_tokens": 1_500, "input_cache_written_tokens": 1_000, "output_tokens": 1},
            500 * 3_000 + 1_000 * 3_750 + 15_000,
            id="anthropic: cache written without its time to live",
        ),
        pytest.param(
            ANTHROPIC,
            {"input_tokens": 1_500, "input_cache_written_1h_tokens": 1_000, "output_tokens": 1},
            500 * 3_000 + 1_000 * 6_000 + 15_000,
            id="anthropic: only the hour's part was reported",
        ),
        pytest.param(
            ANTHROPIC,
            {"input_tokens": 10, "output_tokens": 10, "web_search_requests": 3},
            10 * 3_000 + 10 * 15_000 + 3 * 10_000_000,
            id="anthropic: searches",
        ),
        pytest.param(
            DEEPSEEK,
            {"input_tokens": 1_000, "input_cached_tokens": 640, "output_tokens": 100},
            360 * 270 + 640 * 70 + 100 * 1_100,
            id="deepseek: hit and miss",
        ),
        pytest.param(
            AUDIO,
            {"input_tokens": 120, "input_audio_tokens": 100, "output_tokens": 90, "output_audio_tokens": 80},
            20 * 2_500 + 100 * 32_000 + 10 * 10_000 + 80 * 64_000,
            id="audio in and out",
        ),
        pytest.param(
            OPENAI,
            {"input_tokens": 120, "input_audio_tokens": 100, "input_image_tokens": 10, "output_tokens": 1},
            120 * 1_250 + 10_000,
            id="a class without its own price costs what its parent costs",
        ),
        pytest.param(
            TIERED,
            {"input_tokens": 200_000, "input_cached_tokens": 100_000, "output_tokens": 10},
            100_000 * 3_000 + 100_000 * 300 + 10 * 15_000,
            id="a tier begins above its threshold",
        ),
        pytest.param(
            TIERED,
            {"input_tokens": 200_001, "input_cached_tokens": 100_000, "output_tokens": 10},
            100_001 * 6_000 + 100_000 * 600 + 10 * 22_500,
            id="a tier holds for all tokens",
        ),
        pytest.param(
            REASONING,
            {"input_tokens": 10, "output_tokens": 100, "output_reasoning_tokens": 60},
            10 * 2_000 + 40 * 8_000 + 60 * 3_000,
            id="reasoning at a price of its own",
        ),
        pytest.param(PER_REQUEST, {"input_tokens": 10, "output_tokens": 10}, 20 * 1_000 + 12_000_000, id="per request"),
        pytest.param(OPENAI, {"input_tokens": 0, "output_tokens": 0}, 0, id="zero usage costs nothing"),
        pytest.param(FREE, {"input_tokens": 10_000, "output_tokens": 500}, 0, id="free"),
        pytest.param(OPENAI, {"input_tokens": 10}, 12_500, id="no output count: the input is billed"),
        pytest.param(OPENAI, {"output_tokens": 10}, 100_000, id="no input count: the output is billed"),
        pytest.param(OPENAI, {"input_tokens": 10, "output_tokens": 1, "estimated": True}, 22_500, id="an estimate"),
        pytest.param(ODD, {"input_tokens": 1, "output_tokens": 0}, 0, id="half rounds to even: 0.5 to 0"),
        pytest.param(ODD, {"input_tokens": 3, "output_tokens": 0}, 2, id="half rounds to even: 1.5 to 2"),
        pytest.param(ODD, {"input_tokens": 5, "output_tokens": 0}, 2, id="half rounds to even: 2.5 to 2"),
        pytest.param(ODD, {"input_tokens": 1, "output_tokens": 1}, 1, id="rounded once, not per class"),
    ],
)
def test_costs_worked_out_by_hand(rates: Rates, usage: dict[str, Any], cost: int) -> None:
    assert cost_nano_usd(TokenUsage(**usage), rates) == cost


@pytest.mark.parametrize(
    ("rates", "usage"),
    [
        pytest.param(OPENAI, {}, id="no count was reported"),
        pytest.param(OPENAI, {"total_tokens": 100, "raw_json": "{}"}, id="only a total was reported"),
        pytest.param(OPENAI, {"input_tokens": -1}, id="a negative count is none"),
        pytest.param(OPENAI, {"output_tokens": MAX_COUNT + 1}, id="an absurd count is none"),
        pytest.param(Rates(), {"input_tokens": 1, "output_tokens": 1}, id="no rate at all"),
        pytest.param(Rates(input=per_million("1")), {"input_tokens": 1, "output_tokens": 1}, id="no rate for output"),
        pytest.param(OPENAI, {"input_tokens": 1, "web_search_requests": 1}, id="no rate for a search that was made"),
        pytest.param(
            Rates(input=per_million("99999999")), {"input_tokens": MAX_COUNT}, id="more than an answer can cost"
        ),
    ],
)
def test_what_is_not_known_is_none_and_never_zero(rates: Rates, usage: dict[str, Any]) -> None:
    assert cost_nano_usd(TokenUsage(**usage), rates) is None


def test_an_embedding_needs_no_rate_for_output() -> None:
    assert cost_nano_usd(TokenUsage(input_tokens=8), Rates(input=per_million("0.02"))) == 160


def test_exact_with_many_digits_and_tokens() -> None:
    rates = Rates(input=Rate(base=Decimal("0.0000000001")), output=Rate(base=Decimal("123456.7890123456")))
    usage = TokenUsage(input_tokens=999_999_999_999, output_tokens=999_999)
    assert cost_nano_usd(usage, rates) == 123_456_665_656  # 99.9999999999 + 123456665555.5565876544


counts = st.integers(-5, 10**13) | st.integers(0, 100)
COUNT_FIELDS = [
    "input_tokens",
    "output_tokens",
    "input_cached_tokens",
    "input_cache_written_tokens",
    "input_cache_written_5m_tokens",
    "input_cache_written_1h_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "output_reasoning_tokens",
    "output_audio_tokens",
    "output_image_tokens",
]


@settings(deadline=None)  # the machine may be busy
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(COUNT_FIELDS, counts)))
def test_classes_are_disjoint_and_add_up_whatever_was_reported(reported: dict[str, Any]) -> None:
    usage = TokenUsage(**reported)
    classes = split_tokens(usage)._asdict()
    assert min(classes.values()) >= 0
    for direction in ("input", "output"):
        total = reported.get(f"{direction}_tokens", 0)
        parts = [count for name, count in classes.items() if name.startswith(direction)]
        assert sum(parts) == (total if 0 <= total <= MAX_COUNT else 0)


@settings(deadline=None)  # the machine may be busy
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(COUNT_FIELDS, counts)))
def test_one_rate_for_all_costs_the_same_however_it_is_split(reported: dict[str, Any]) -> None:
    usage = TokenUsage(**reported)
    flat = Rates(input=Rate(base=Decimal(7)), output=Rate(base=Decimal(7)))
    cost = cost_nano_usd(usage, flat)
    if cost is not None:
        assert cost == 7 * sum(split_tokens(usage))


@pytest.mark.parametrize(
    ("cost", "believed"), [(None, None), (0, 0), (5, 5), (10**16, 10**16), (10**16 + 1, None), (-1, None)]
)
def test_an_upstream_statement_is_believed_where_it_can_be_true(cost: int | None, believed: int | None) -> None:
    assert upstream_cost_nano_usd(TokenUsage(upstream_cost_nano_usd=cost)) == believed
