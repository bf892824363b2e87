"""Where a price comes from: declared, billed, looked up, or not known. With the installed package's real data."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot

from services.usage.config import UsageConfig, declared_rates
from services.usage.price_book import PackagedPrices, PriceBook
from services.usage.price_data import PriceData
from services.usage.pricing import Rate, Rates, cost_nano_usd
from tests.usage.records import make_record
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.usage.v1 import usage_service_pb2 as pb

NOON = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)
TEN_AND_ONE = TokenUsage(input_tokens=10, output_tokens=1)


@pytest.fixture(scope="module")
def packaged() -> PackagedPrices:
    prices = PackagedPrices()
    prices.load()
    return prices


@pytest.fixture
def book(packaged: PackagedPrices) -> PriceBook:
    return PriceBook(declared_rates(UsageConfig()), packaged)


def record_of(catalog: str, model: str, **fields: Any) -> pb.UsageRecord:
    fields.setdefault("provider", catalog)
    fields.setdefault("usage", TEN_AND_ONE)
    return make_record(catalog=catalog, upstream_model=model, **fields)


@pytest.mark.parametrize(
    ("catalog", "model", "usage", "cost"),
    [
        pytest.param(
            "openai",
            "gpt-5",
            {
                "input_tokens": 9_000,
                "input_cached_tokens": 8_000,
                "output_tokens": 500,
                "output_reasoning_tokens": 3,
            },
            1_000 * 1_250 + 8_000 * 125 + 500 * 10_000,
            id="openai",
        ),
        pytest.param(
            "anthropic",
            "claude-opus-4-1",
            {
                "input_tokens": 3_100,
                "input_cached_tokens": 2_000,
                "input_cache_written_tokens": 1_000,
                "input_cache_written_5m_tokens": 700,
                "input_cache_written_1h_tokens": 300,
                "output_tokens": 50,
            },
            100 * 15_000 + 2_000 * 1_500 + 700 * 18_750 + 300 * 30_000 + 50 * 75_000,
            id="anthropic",
        ),
        pytest.param(
            "groq",
            "llama-3.3-70b-versatile",
            {"input_tokens": 9, "output_tokens": 5},
            9 * 590 + 5 * 790,
            id="groq",
        ),
    ],
)
def test_public_providers_are_priced_from_the_package(
    book: PriceBook, catalog: str, model: str, usage: dict[str, Any], cost: int
) -> None:
    assert book.cost_nano_usd(record_of(catalog, model, usage=TokenUsage(**usage))) == cost


@pytest.mark.parametrize(
    ("catalog", "model"),
    [
        ("openai", "a-model-nobody-knows"),
        ("openai", ""),
        ("openai_compatible", "gpt-4o"),
        ("vllm", "llama-3.3-70b-versatile"),
        ("ollama", "llama3"),
        ("", "gpt-4o"),
    ],
)
def test_what_nobody_knows_is_unpriced_and_self_hosted_models_are_not_taken_for_their_namesakes(
    book: PriceBook, catalog: str, model: str
) -> None:
    assert book.cost_nano_usd(record_of(catalog, model)) is None
    assert book.cost_nano_usd(record_of(catalog, model, usage=TokenUsage(input_tokens=0, output_tokens=0))) is None


def test_a_request_that_used_nothing_costs_nothing(book: PriceBook) -> None:
    assert book.cost_nano_usd(record_of("openai", "a-model-nobody-knows", usage=None)) == 0


def test_the_demo_provider_is_free_by_declaration(packaged: PackagedPrices, book: PriceBook) -> None:
    assert book.cost_nano_usd(record_of("demo", "echo")) == 0
    assert PriceBook({}, packaged).cost_nano_usd(record_of("demo", "echo")) is None


def test_what_the_upstream_billed_wins_over_the_price_data(book: PriceBook) -> None:
    usage = TokenUsage(input_tokens=10, output_tokens=1, upstream_cost_nano_usd=123)
    assert book.cost_nano_usd(record_of("openrouter", "openai/gpt-4o", usage=usage)) == 123
    assert book.cost_nano_usd(record_of("openrouter", "nobody/knows-it", usage=usage)) == 123
    usage.upstream_cost_nano_usd = 0
    assert book.cost_nano_usd(record_of("openrouter", "openai/gpt-4o", usage=usage)) == 0
    usage.upstream_cost_nano_usd = -1
    assert book.cost_nano_usd(record_of("openrouter", "openai/gpt-4o", usage=usage)) == 10 * 2_500 + 10_000


def test_the_operator_wins_over_everyone_and_the_exact_name_over_the_wildcard(packaged: PackagedPrices) -> None:
    def flat(rate: int) -> Rates:
        return Rates(input=Rate(base=Decimal(rate)), output=Rate(base=Decimal(rate)))

    declared = {"local/m": flat(1), "openai/m": flat(2), "local/*": flat(3), "openai/*": flat(4), "demo/*": flat(5)}
    book = PriceBook(declared, packaged)
    usage = TokenUsage(input_tokens=1, output_tokens=0, upstream_cost_nano_usd=99)
    for provider, model, cost in (
        ("local", "m", 1),
        ("other", "m", 2),
        ("local", "gpt-4o", 3),
        ("other", "gpt-4o", 4),
    ):
        assert book.cost_nano_usd(record_of("openai", model, provider=provider, usage=usage)) == cost


@pytest.mark.parametrize(
    ("tier", "cost"),
    [("", 10 * 1_250 + 10_000), ("default", 10 * 1_250 + 10_000), ("flex", 10 * 625 + 5_000), ("new", 22_500)],
)
def test_a_service_tier_has_its_own_price(book: PriceBook, tier: str, cost: int) -> None:
    record = record_of("openai", "gpt-5", service_tier=tier)
    record.start_time.FromDatetime(NOON)
    assert book.cost_nano_usd(record) == cost


def test_the_price_is_the_one_of_the_requests_time(book: PriceBook) -> None:
    by_day = {}
    for day in (9, 10):
        record = record_of("openai", "o3")
        record.start_time.FromDatetime(datetime.datetime(2025, 6, day, 12, tzinfo=datetime.UTC))
        by_day[day] = book.cost_nano_usd(record)
    assert by_day == {9: 10 * 10_000 + 40_000, 10: 10 * 2_000 + 8_000}


def test_hours_of_the_day_are_told_apart(book: PriceBook) -> None:
    by_hour = {}
    for hour in (12, 20):
        usage = TokenUsage(input_tokens=1_000, input_cached_tokens=640, output_tokens=100)
        record = record_of("deepseek", "deepseek-chat", usage=usage)
        record.start_time.FromDatetime(NOON.replace(hour=hour))
        by_hour[hour] = book.cost_nano_usd(record)
    assert by_hour == {12: 360 * 270 + 640 * 70 + 100 * 1_100, 20: 360 * 135 + 640 * 35 + 100 * 550}


def test_look_ups_are_remembered_within_a_bound(packaged: PackagedPrices) -> None:
    class Counting:
        def __init__(self) -> None:
            self.calls = 0

        def find(self, catalog: str, model: str, service_tier: str) -> Any:
            self.calls += 1
            return packaged.find(catalog, model, service_tier)

    source = Counting()
    book = PriceBook({}, source)
    for _ in range(3):
        book.cost_nano_usd(record_of("openai", "gpt-4o"))
        book.cost_nano_usd(record_of("openai", "a-model-nobody-knows"))
    assert source.calls == 2
    for number in range(5_000):
        book._find("openai", f"nobody-knows-{number}", "")
    assert book._find.cache_info().currsize <= 4096


def test_our_arithmetic_agrees_with_the_packages_own_over_all_its_models() -> None:
    """Every model that is priced per token only: their calculation is in USD and rounds nothing."""
    data = PriceData()
    usage = TokenUsage(
        input_tokens=250_000,
        input_cached_tokens=120_000,
        input_cache_written_tokens=30_000,
        output_tokens=7_000,
        output_reasoning_tokens=3_000,
    )
    theirs_of = Usage(
        input_tokens=250_000,
        cache_read_tokens=120_000,
        cache_write_tokens=30_000,
        output_tokens=7_000,
        output_reasoning_tokens=3_000,
    )
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            timed = data.find(provider.id, model.id, "")
            if timed is None:
                continue
            ours = cost_nano_usd(usage, timed.at(NOON))
            if ours is None:
                continue
            theirs = calc_price(theirs_of, model.id, provider_id=provider.id, genai_request_timestamp=NOON)
            assert ours == round(theirs.total_price * 10**9), (provider.id, model.id)
            compared += 1
    assert compared > 1000
