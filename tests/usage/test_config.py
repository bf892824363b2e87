"""The usage part of the configuration: decimal prices, and problems that name their place."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.runtime.config import ConfigError, parse_yaml, validate
from services.usage.config import UsageConfig, declared_rates
from services.usage.pricing import Rate


def read(text: str) -> UsageConfig:
    return validate(UsageConfig, parse_yaml(text, {}, where="test"))


def test_prices_are_decimal_strings_and_become_exact_rates() -> None:
    config = read("""
        prices:
          local/meta-llama/Llama-3:
            input_per_million_usd: "0.15"
            output_per_million_usd: 0.6
            input_cached_per_million_usd: "0.0375"
            web_search_per_thousand_usd: "10"
          "vllm/*": {input_per_million_usd: "0", output_per_million_usd: "0"}
    """)
    rates = declared_rates(config)
    llama = rates["local/meta-llama/Llama-3"]
    assert llama.input == Rate(base=Decimal(150))
    assert llama.output == Rate(base=Decimal(600))
    assert llama.input_cached == Rate(base=Decimal("37.5"))
    assert llama.web_search == Rate(base=Decimal(10000000))
    assert llama.input_audio is None
    assert rates["vllm/*"].input == Rate(base=Decimal(0))


def test_declared_prices_of_the_project_are_there_and_can_be_overridden() -> None:
    assert declared_rates(UsageConfig())["demo/*"].output == Rate(base=Decimal(0))
    config = read('prices: {"demo/*": {input_per_million_usd: "1", output_per_million_usd: "2"}}')
    assert declared_rates(config)["demo/*"].output == Rate(base=Decimal(2000))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('prices: {"gpt-4o": {input_per_million_usd: "1", output_per_million_usd: "1"}}', "prices.gpt-4o"),
        ('prices: {"a/b": {input_per_million_usd: "1"}}', "prices.a/b.output_per_million_usd"),
        (
            'prices: {"a/b": {input_per_million_usd: "-1", output_per_million_usd: "1"}}',
            "prices.a/b.input_per_million_usd",
        ),
        (
            'prices: {"a/b": {input_per_million_usd: "cheap", output_per_million_usd: "1"}}',
            "prices.a/b.input_per_million_usd",
        ),
        (
            'prices: {"a/b": {input_per_million_usd: .nan, output_per_million_usd: "1"}}',
            "prices.a/b.input_per_million_usd",
        ),
        (
            'prices: {"a/b": {input_per_million_usd: "0.00000000001", output_per_million_usd: "1"}}',
            "prices.a/b.input_per_million_usd",
        ),
        (
            'prices: {"a/b": {input_per_million_usd: "1", output_per_million_usd: "1", per_image: "1"}}',
            "prices.a/b.per_image",
        ),
        ("database: postgresql://there/db", "database"),
        ("ledger: x", "ledger"),
    ],
)
def test_a_problem_names_its_place(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert path in str(caught.value)


@pytest.mark.parametrize("value", ["ledger.sqlite", Path("ledger.sqlite")])
def test_a_database_is_a_path(value: Any) -> None:
    assert UsageConfig(database=value).database == Path("ledger.sqlite")
