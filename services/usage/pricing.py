"""What an answer costs: token counts times rates, exactly. Pure.

The one rule: money is an integer of nano-USD, made once per record by rounding half to even; everything before that is
decimal arithmetic without loss. A cost that is not known is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final, NamedTuple

from trunkline.inference.v1.usage_pb2 import TokenUsage

__all__ = [
    "MAX_COUNT",
    "MAX_NANO_USD",
    "Rate",
    "Rates",
    "TokenClasses",
    "cost_nano_usd",
    "plausible",
    "split_tokens",
    "upstream_cost_nano_usd",
]

MAX_COUNT: Final = 10**12
"""No answer has more tokens. A larger count, or a negative one, is an upstream's mistake and taken for not reported."""

MAX_NANO_USD: Final = 10**16
"""No answer costs more (10 million USD). Keeps sums of costs within 64 bits."""

# Products of a count and a rate have 12 + 20 digits at most, so nothing is rounded before the end.
_EXACT: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)


class TokenClasses(NamedTuple):
    """Tokens by what is billed apart. Disjoint: the input ones add up to input_tokens, the others to output_tokens."""

    input: int
    input_cached: int
    input_cache_written: int
    input_cache_written_5m: int
    input_cache_written_1h: int
    input_audio: int
    input_image: int
    output: int
    output_reasoning: int
    output_audio: int
    output_image: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Nano-USD per token, search or request.

    `tiers` are (threshold, rate), thresholds ascending: with more input tokens than a threshold its rate holds for ALL
    of them, which is how every provider with tiers bills.
    """

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        """Return the rate for a prompt of that many tokens."""
        rate = self.base
        for threshold, tier_rate in self.tiers:
            if input_tokens > threshold:
                rate = tier_rate
        return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a model costs, by class. An absent class is billed at its parent's rate:

    input_cached, input_audio, input_image, input_cache_written -> input; input_cache_written_5m, _1h ->
    input_cache_written -> input; output_reasoning, output_audio, output_image -> output.
    """

    input: Rate | None = None
    output: Rate | None = None
    input_cached: Rate | None = None
    input_cache_written: Rate | None = None
    input_cache_written_5m: Rate | None = None
    input_cache_written_1h: Rate | None = None
    input_audio: Rate | None = None
    input_image: Rate | None = None
    output_reasoning: Rate | None = None
    output_audio: Rate | None = None
    output_image: Rate | None = None
    web_search: Rate | None = None
    request: Rate | None = None
    by_class: tuple[Rate | None, ...] = field(init=False, repr=False, compare=False)
    """The rate of each of TokenClasses, in its order, parents' rates filled in: worked out once, used per record."""

    def __post_init__(self) -> None:
        written = self.input_cache_written or self.input
        rates = {
            "input": self.input,
            "input_cached": self.input_cached or self.input,
            "input_cache_written": written,
            "input_cache_written_5m": self.input_cache_written_5m or written,
            "input_cache_written_1h": self.input_cache_written_1h or written,
            "input_audio": self.input_audio or self.input,
            "input_image": self.input_image or self.input,
            "output": self.output,
            "output_reasoning": self.output_reasoning or self.output,
            "output_audio": self.output_audio or self.output,
            "output_image": self.output_image or self.output,
        }
        object.__setattr__(self, "by_class", tuple(rates[name] for name in TokenClasses._fields))


def plausible(count: int) -> bool:
    """Whether a reported count can be true."""
    return 0 <= count <= MAX_COUNT


def upstream_cost_nano_usd(usage: TokenUsage) -> int | None:
    """Return what the upstream says it billed, or None when it says nothing, or nothing that can be true."""
    cost = usage.upstream_cost_nano_usd
    return cost if usage.HasField("upstream_cost_nano_usd") and 0 <= cost <= MAX_NANO_USD else None


def split_tokens(usage: TokenUsage) -> TokenClasses:
    """Return the counts as disjoint classes.

    Upstreams do not say how cached tokens and modalities overlap. Each subset is taken out of what the former left, so
    overlaps and contradictions never bill a token twice: cache-written first (the hour's first: it costs most), then
    cached, audio, image; reasoning after audio and image.
    """
    left = _count(usage.input_tokens)
    hour = _count(usage.input_cache_written_1h_tokens)
    minutes = _count(usage.input_cache_written_5m_tokens)
    written = min(left, max(_count(usage.input_cache_written_tokens), hour + minutes))
    hour = min(hour, written)
    minutes = min(minutes, written - hour)
    left -= written
    cached = min(left, _count(usage.input_cached_tokens))
    left -= cached
    audio = min(left, _count(usage.input_audio_tokens))
    left -= audio
    image = min(left, _count(usage.input_image_tokens))
    rest = _count(usage.output_tokens)
    output_audio = min(rest, _count(usage.output_audio_tokens))
    rest -= output_audio
    output_image = min(rest, _count(usage.output_image_tokens))
    rest -= output_image
    reasoning = min(rest, _count(usage.output_reasoning_tokens))
    return TokenClasses(
        input=left - image,
        input_cached=cached,
        input_cache_written=written - hour - minutes,
        input_cache_written_5m=minutes,
        input_cache_written_1h=hour,
        input_audio=audio,
        input_image=image,
        output=rest - reasoning,
        output_reasoning=reasoning,
        output_audio=output_audio,
        output_image=output_image,
    )


def cost_nano_usd(usage: TokenUsage, rates: Rates) -> int | None:
    """Return the cost in nano-USD, or None when it cannot be known.

    That is: neither count was reported plausibly, or something was used that has no rate and no parent's. One count
    alone is billed alone (an embedding has no output, a stream that broke may have none yet).
    """
    has_input = usage.HasField("input_tokens") and plausible(usage.input_tokens)
    has_output = usage.HasField("output_tokens") and plausible(usage.output_tokens)
    if not (has_input or has_output):
        return None
    input_tokens = _count(usage.input_tokens)
    total = Decimal(0) if rates.request is None else rates.request.base
    counts = (*split_tokens(usage), _count(usage.web_search_requests))
    for count, rate in zip(counts, (*rates.by_class, rates.web_search), strict=True):
        if count:
            if rate is None:
                return None
            total = _EXACT.add(total, _EXACT.multiply(rate.at(input_tokens), count))
    if total > MAX_NANO_USD:
        return None
    return int(total.to_integral_value(ROUND_HALF_EVEN))


def _count(count: int) -> int:
    return count if 0 <= count <= MAX_COUNT else 0  # plausible, without its call: asked 13 times for each record
