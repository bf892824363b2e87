"""Finds what a record costs: the operator's prices, the upstream's own statement, the price data, in this order.

The one rule: what none of them knows is unpriced, never free.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

from services.usage.pricing import Rates, cost_nano_usd, upstream_cost_nano_usd
from trunkline.usage.v1.usage_service_pb2 import UsageRecord

__all__ = ["ANY_MODEL", "PackagedPrices", "PriceBook", "PriceSource", "RatesByTime"]

ANY_MODEL: Final = "*"
"""The model of a declared price that holds for every model of its catalog row or provider."""

# Callers choose model names where a route is a wildcard, so what is remembered must be bounded.
_MAX_REMEMBERED: Final = 4096


class RatesByTime(Protocol):
    """The rates of one model."""

    def at(self, time: datetime) -> Rates:
        """Return the rates that held at a time."""
        ...


class PriceSource(Protocol):
    """Price data of the public providers."""

    def find(self, catalog: str, model: str, service_tier: str) -> RatesByTime | None:
        """Return the rates of a provider's model, or None when they are not known."""
        ...


class PackagedPrices:
    """The price data of the installed package. Call `load` in a thread at start; else the first `find` does it."""

    def __init__(self) -> None:
        self._data: PriceSource | None = None

    def load(self) -> PriceSource:
        """Import the data."""
        if self._data is None:
            # 75 ms and 10 MB, which no other part of the process should wait for at its own import.
            from services.usage.price_data import PriceData  # noqa: PLC0415

            self._data = PriceData()
        return self._data

    def find(self, catalog: str, model: str, service_tier: str) -> RatesByTime | None:
        """Return the rates of a provider's model, or None when the data has none."""
        return (self._data or self.load()).find(catalog, model, service_tier)


class PriceBook:
    """Prices records.

    `declared` are rates by "<provider or catalog>/<model>", where the model may be ANY_MODEL: what the operator
    configured, and what is declared free. They win over what the upstream says it billed (OpenRouter and Perplexity
    do), because an operator who sets a price means it; and that wins over the price data, because it is the bill.
    """

    def __init__(self, declared: Mapping[str, Rates], source: PriceSource) -> None:
        self._declared = dict(declared)
        self._find = functools.lru_cache(maxsize=_MAX_REMEMBERED)(source.find)

    def cost_nano_usd(self, record: UsageRecord) -> int | None:
        """Return what the record cost in nano-USD, or None when that is not known. Nothing used costs 0."""
        if not record.HasField("usage"):
            return 0
        usage = record.usage
        declared = self._declared_rates(record)
        if declared is not None:
            return cost_nano_usd(usage, declared)
        billed = upstream_cost_nano_usd(usage)
        if billed is not None:
            return billed
        timed = self._find(record.catalog, record.upstream_model, record.service_tier)
        if timed is None:
            return None
        return cost_nano_usd(usage, timed.at(datetime.fromtimestamp(record.start_time.seconds, UTC)))

    def _declared_rates(self, record: UsageRecord) -> Rates | None:
        for model in (record.upstream_model, ANY_MODEL):
            for place in (record.provider, record.catalog):
                rates = self._declared.get(f"{place}/{model}")
                if rates is not None:
                    return rates
        return None
