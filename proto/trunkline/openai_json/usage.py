"""The usage object of OpenAI-shaped answers, in both directions, with the many dialects of counting made one.

The one rule: counts are corrected only where the upstream's own total proves them wrong. Where the total is larger than
prompt plus completion, the difference is something the upstream left out of one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.openai_json.extras import merge_extra, pack_extra
from trunkline.openai_json.members import INT64_MAX

__all__ = ["decode_usage", "encode_usage"]

# OpenAI's names, which encode_usage writes back, so that they need not be kept as untyped members.
_INPUT_DETAILS: Final = {
    "cached_tokens": "input_cached_tokens",
    "cache_write_tokens": "input_cache_written_tokens",
    "audio_tokens": "input_audio_tokens",
    "image_tokens": "input_image_tokens",
    "text_tokens": "input_text_tokens",
}
_OUTPUT_DETAILS: Final = {
    "reasoning_tokens": "output_reasoning_tokens",
    "audio_tokens": "output_audio_tokens",
    "image_tokens": "output_image_tokens",
    "text_tokens": "output_text_tokens",
    "accepted_prediction_tokens": "output_accepted_prediction_tokens",
    "rejected_prediction_tokens": "output_rejected_prediction_tokens",
}
_TOTALS: Final = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "total_tokens": "total_tokens",
}
_GROUPS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("prompt_tokens_details", _INPUT_DETAILS),
    ("completion_tokens_details", _OUTPUT_DETAILS),
    (
        "cache_creation",  # Anthropic's member, for want of one of OpenAI's
        {
            "ephemeral_5m_input_tokens": "input_cache_written_5m_tokens",
            "ephemeral_1h_input_tokens": "input_cache_written_1h_tokens",
        },
    ),
)
# By number of the field: the group and the member that its count stands in.
_PLACES: Final[dict[int, tuple[str, str]]] = {
    TokenUsage.DESCRIPTOR.fields_by_name[field].number: (name, member)
    for name, fields in _GROUPS
    for member, field in fields.items()
}
# Other vendors' names for the same counts, read when OpenAI's is absent. They stay untyped members as well.
_OTHER_NAMES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("input_tokens", ("input_tokens",)),
    ("output_tokens", ("output_tokens",)),
    ("input_cached_tokens", ("prompt_cache_hit_tokens",)),
    ("input_cached_tokens", ("cached_tokens",)),
    ("input_cached_tokens", ("cache_read_input_tokens",)),
    ("input_cache_written_tokens", ("prompt_tokens_details", "cache_creation_tokens")),
    ("input_cache_written_tokens", ("prompt_tokens_details", "cache_creation_input_tokens")),
    ("input_cache_written_tokens", ("cache_creation_input_tokens",)),
    ("input_cache_written_5m_tokens", ("cache_creation", "ephemeral_5m_input_tokens")),
    ("input_cache_written_1h_tokens", ("cache_creation", "ephemeral_1h_input_tokens")),
    ("output_reasoning_tokens", ("reasoning_tokens",)),
    ("web_search_requests", ("num_search_queries",)),
    ("web_search_requests", ("server_tool_use", "web_search_requests")),
    ("web_search_requests", ("server_tool_use_details", "web_search_requests")),
)
_NANO: Final = Decimal(10**9)
_USD_PER_TICK: Final = Decimal("1e-10")


def decode_usage(obj: Mapping[str, Any], raw_json: str = "") -> TokenUsage:
    """Return the counts of a usage object. `raw_json` is its own text where that is at hand. Never raises."""
    counts: dict[str, Any] = {}
    left = _take(obj, _TOTALS, counts)
    for name, fields in _GROUPS[:2]:
        details = left.get(name)
        if type(details) is dict:
            details = _take(details, fields, counts)
            if details:
                left[name] = details
            else:
                del left[name]
    if left:  # what OpenAI's own names do not say
        for field, path in _OTHER_NAMES:
            count = None if field in counts else _count(_at(obj, path))
            if count is not None:
                counts[field] = count
        cost = _cost(obj)
        if cost is not None:
            counts["upstream_cost_nano_usd"] = cost
    _balance(counts, obj)
    raw_json = raw_json or msgspec.json.encode(obj).decode()
    return TokenUsage(raw_json=raw_json, extra_json=pack_extra(left), **counts)


def _take(members: Mapping[str, Any], fields: Mapping[str, str], counts: dict[str, int]) -> dict[str, Any]:
    """Put the counts that members hold, by field, into `counts`; return the other members."""
    left = {}
    for name, value in members.items():
        field = fields.get(name)
        if field is None:
            left[name] = value
        elif type(value) is int and 0 <= value <= INT64_MAX:  # `_count` of nearly every value
            counts[field] = value
        elif value is not None:
            count = _count(value)
            if count is None:
                left[name] = value
            else:
                counts[field] = count
    return left


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if type(obj) is not dict:
            return None
        obj = obj.get(name)
    return obj


def _count(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= INT64_MAX else None


def _balance(counts: dict[str, int], obj: Mapping[str, Any]) -> None:
    """Make input include everything cached and output everything reasoned, where the upstream counts them beside."""
    input_tokens, output_tokens, total = map(counts.get, _TOTALS.values())
    if input_tokens is None or output_tokens is None or total == input_tokens + output_tokens:
        return
    read, written = _count(obj.get("cache_read_input_tokens")) or 0, _count(obj.get("cache_creation_input_tokens")) or 0
    if total is None:
        if read + written > input_tokens:  # a part cannot be larger than the whole
            counts["input_tokens"] = min(input_tokens + read + written, INT64_MAX)
        return
    surplus = total - input_tokens - output_tokens
    if surplus <= 0:
        return
    reasoning = counts.get("output_reasoning_tokens", 0)
    audio = counts.get("input_audio_tokens", 0)
    if surplus == reasoning:  # xAI
        counts["output_tokens"] += surplus
    elif surplus in (read, written, read + written, audio):  # Anthropic's way of counting; Mistral's audio
        counts["input_tokens"] += surplus
    elif not reasoning:  # Gemini's OpenAI endpoint: thinking is in the total and nowhere else
        counts["output_tokens"] += surplus


def _cost(obj: Mapping[str, Any]) -> int | None:
    """Return the price the upstream states, in nano-USD."""
    cost = obj.get("cost")
    if type(cost) is dict:
        cost = cost.get("total_cost")
    ticks = obj.get("cost_in_usd_ticks")
    usd = _decimal(cost)
    if usd is None:
        usd = _decimal(ticks)
        usd = None if usd is None else usd * _USD_PER_TICK
    if usd is None:
        return None
    nano = int((usd * _NANO).to_integral_value())
    return nano if 0 <= nano <= INT64_MAX else None


def _decimal(value: Any) -> Decimal | None:
    if type(value) not in (int, float, str):
        return None
    try:
        number = Decimal(str(value))  # a double's shortest text is what the upstream wrote
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < 10**9 else None


def encode_usage(usage: TokenUsage) -> dict[str, Any]:
    """Return the usage object. The three totals are always there, as the API requires."""
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    total = usage.total_tokens if usage.HasField("total_tokens") else input_tokens + output_tokens
    value: dict[str, Any] = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": total}
    groups: dict[str, dict[str, int]] = {}
    for field, count in usage.ListFields():
        place = _PLACES.get(field.number)
        if place is not None:
            name, member = place
            if name in groups:
                groups[name][member] = count
            else:
                groups[name] = {member: count}
    for name, _ in _GROUPS:
        if name in groups:
            value[name] = groups[name]
    extra = usage.extra_json
    if not extra and usage.web_search_requests:  # else the upstream's own member tells
        value["server_tool_use"] = {"web_search_requests": usage.web_search_requests}
    merge_extra(value, extra, "usage.extra_json")
    return value
