"""Reads the price data of the `genai-prices` package into our own rates.

The one rule: a price is found by the exact provider the data names, never by resemblance, so that a self-hosted model
is not billed as its namesake. Import it in a thread: it takes 75 ms and 10 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, PriceVariant, Provider, TieredPrices

from services.usage.pricing import Rate, Rates

__all__ = ["PriceData", "TimedRates"]

# Our class -> the data's member and nano-USD per unit of one USD in it: members are USD per million tokens or per
# thousand searches and requests.
_PER_MILLION: Final = Decimal(1_000)
_PER_THOUSAND: Final = Decimal(1_000_000)
_MEMBERS: Final[Mapping[str, tuple[str, Decimal]]] = MappingProxyType(
    {
        "input": ("input_mtok", _PER_MILLION),
        "output": ("output_mtok", _PER_MILLION),
        "input_cached": ("cache_read_mtok", _PER_MILLION),
        "input_cache_written": ("cache_write_mtok", _PER_MILLION),
        "input_cache_written_5m": ("cache_write_5m_mtok", _PER_MILLION),
        "input_cache_written_1h": ("cache_write_1h_mtok", _PER_MILLION),
        "input_audio": ("input_audio_mtok", _PER_MILLION),
        "input_image": ("input_image_mtok", _PER_MILLION),
        "output_reasoning": ("output_reasoning_mtok", _PER_MILLION),
        "output_audio": ("output_audio_mtok", _PER_MILLION),
        "output_image": ("output_image_mtok", _PER_MILLION),
        "web_search": ("web_searches_kcount", _PER_THOUSAND),
        "request": ("requests_kcount", _PER_THOUSAND),
    }
)


class TimedRates:
    """The rates of one model for one service tier, by time: prices change on a date, and some by the hour."""

    def __init__(self, model: ModelInfo, context: dict[str, str] | None) -> None:
        self._model = model
        self._context = context
        timed: list[ConditionalPrice | PriceVariant] = []
        if not isinstance(model.prices, ModelPrice):
            timed.extend(model.prices)
        if context:
            timed.extend(model.price_variants or ())
        self._constraints = [entry.constraint for entry in timed if entry.constraint is not None]
        self._known: dict[tuple[bool, ...], Rates] = {}
        """Which constraints hold -> the rates then. A model has a handful of combinations over its life."""

    def at(self, time: datetime) -> Rates:
        """Return the rates that held at a time, which knows its zone."""
        holding = tuple(constraint.active(time) for constraint in self._constraints)
        rates = self._known.get(holding)
        if rates is None:
            rates = self._known[holding] = _to_rates(self._model.get_prices(time, self._context))
        return rates


class PriceData:
    """The price data inside the installed package, indexed by the provider's id."""

    def __init__(self, providers: Iterable[Provider] | None = None) -> None:
        self._all = list(get_snapshot().providers if providers is None else providers)
        self._by_id = {provider.id: provider for provider in self._all}

    def find(self, catalog: str, model: str, service_tier: str) -> TimedRates | None:
        """Return the rates of a provider's model, or None when the data has none. Takes 15 to 300 us: cache it."""
        provider = self._by_id.get(catalog)
        if provider is None or not model:
            return None
        found = provider.find_model(model, all_providers=self._all)
        if found is None:
            return None
        # A tier's price is the provider's own; where it resells another's model the data says nothing of tiers.
        own = any(candidate is found for candidate in provider.models)
        return TimedRates(found, {"service_tier": service_tier} if own and service_tier else None)


def _to_rates(price: ModelPrice) -> Rates:
    return Rates(**{name: _to_rate(getattr(price, member), factor) for name, (member, factor) in _MEMBERS.items()})


def _to_rate(price: Decimal | TieredPrices | None, factor: Decimal) -> Rate | None:
    if price is None:
        return None
    if isinstance(price, TieredPrices):
        tiers = tuple((tier.start, tier.price * factor) for tier in price.tiers)
        return Rate(base=price.base * factor, tiers=tiers)
    return Rate(base=price * factor)
