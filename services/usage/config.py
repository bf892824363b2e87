"""What an operator says about the ledger and about prices. Every problem names its place, such as `prices.local/m`."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, field_validator

from services.runtime.config import StrictModel, validate
from services.usage.pricing import Rate, Rates

__all__ = ["PriceEntry", "UsageConfig", "declared_rates"]

_PRICES_FILE: Final = "prices.toml"
_PER_MILLION: Final = Decimal(1_000)  # nano-USD per token at one USD per million tokens
_PER_THOUSAND: Final = Decimal(1_000_000)  # nano-USD per unit at one USD per thousand units

# 10 + 10 digits are more than any price list has, and few enough for exact arithmetic.
_Usd = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=10, allow_inf_nan=False)]
_ModelName = Annotated[str, Field(pattern=r"^[^/]+/.+$", max_length=512)]


class PriceEntry(StrictModel):
    """What a model costs, in decimal USD. What is absent is billed at its parent's price, as `Rates` says."""

    input_per_million_usd: _Usd
    output_per_million_usd: _Usd
    input_cached_per_million_usd: _Usd | None = None
    input_cache_written_per_million_usd: _Usd | None = None
    input_cache_written_5m_per_million_usd: _Usd | None = None
    input_cache_written_1h_per_million_usd: _Usd | None = None
    input_audio_per_million_usd: _Usd | None = None
    input_image_per_million_usd: _Usd | None = None
    output_reasoning_per_million_usd: _Usd | None = None
    output_audio_per_million_usd: _Usd | None = None
    output_image_per_million_usd: _Usd | None = None
    web_search_per_thousand_usd: _Usd | None = None
    request_per_thousand_usd: _Usd | None = None

    def rates(self) -> Rates:
        """Return the entry as rates."""
        rates: dict[str, Rate | None] = {}
        for member, price in self:
            name, _, unit = member.partition("_per_")
            factor = _PER_MILLION if unit == "million_usd" else _PER_THOUSAND
            rates[name] = None if price is None else Rate(base=price * factor)
        return Rates(**rates)


class UsageConfig(StrictModel):
    """The `usage` part of the configuration."""

    database: Path | None = None
    """The ledger's SQLite file. Absent: `ledger.sqlite` in the data directory."""
    prices: dict[_ModelName, PriceEntry] = Field(default_factory=dict)
    """By "<provider or catalog>/<model at the provider>"; the model may be `*`. They win over every other price."""

    @field_validator("database", mode="before")
    @classmethod
    def _check_database(cls, value: Any) -> Any:
        if isinstance(value, str) and "://" in value:
            raise ValueError("only a path to a SQLite file is supported")
        return value


def declared_rates(config: UsageConfig) -> dict[str, Rates]:
    """Return the operator's prices over those that this project declares itself (`prices.toml`), as rates."""
    own = tomllib.loads(resources.files("services.usage").joinpath(_PRICES_FILE).read_text("utf-8"))
    entries = {name: validate(PriceEntry, entry, f"{_PRICES_FILE}: {name}") for name, entry in own.items()}
    return {name: entry.rates() for name, entry in {**entries, **config.prices}.items()}
