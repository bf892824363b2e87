"""Anthropic's token counts in the contract's normal form.

The upstream's `input_tokens` excludes what a cache gave or took, ours includes it. Reports are cumulative: a later one
replaces an earlier one member by member, nothing is added up.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.providers.dialects.anthropic_wire import malformed, to_json
from trunkline.inference.v1.usage_pb2 import TokenUsage

__all__ = ["UsageMeter"]

_DECODER: Final = msgspec.json.Decoder(dict[str, Any])
_INPUT_MEMBERS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class UsageMeter:
    """Collects one answer's usage reports."""

    __slots__ = ("_merged",)

    def __init__(self) -> None:
        self._merged: dict[str, Any] = {}

    def update(self, raw: bytes | msgspec.Raw) -> bool:
        """Take a report; a member that is null or absent leaves the earlier one. Returns whether it said anything."""
        try:
            report = _DECODER.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if bytes(raw) in {b"", b"null"}:
                return False
            raise malformed("usage is not an object") from None
        said = {name: value for name, value in report.items() if value is not None}
        self._merged.update(said)
        return bool(said)

    @property
    def service_tier(self) -> str | None:
        """The tier that processed the answer, None until it is reported."""
        tier = self._merged.get("service_tier")
        return tier if isinstance(tier, str) else None

    def usage(self) -> TokenUsage:
        """Return the counts as reported so far."""
        merged = self._merged
        counts = [_count(merged, name) for name in _INPUT_MEMBERS]
        reported = [count for count in counts if count is not None]
        usage = TokenUsage(
            input_tokens=sum(reported) if reported else None,
            output_tokens=_count(merged, "output_tokens"),
            input_cached_tokens=counts[1],
            input_cache_written_tokens=counts[2],
            input_cache_written_5m_tokens=_count(merged.get("cache_creation"), "ephemeral_5m_input_tokens"),
            input_cache_written_1h_tokens=_count(merged.get("cache_creation"), "ephemeral_1h_input_tokens"),
            output_reasoning_tokens=_count(merged.get("output_tokens_details"), "thinking_tokens"),
            web_search_requests=_count(merged.get("server_tool_use"), "web_search_requests"),
            raw_json=to_json(merged) if merged else "",
        )
        self._add_compactions(usage)
        cost = merged.get("cost")  # OpenRouter states it, in US dollars
        if isinstance(cost, (int, float)) and not isinstance(cost, bool) and 0 <= cost < 1e9:
            usage.upstream_cost_nano_usd = round(cost * 1e9)
        return usage

    def _add_compactions(self, usage: TokenUsage) -> None:
        """Add the tokens spent on compacting the context: the totals leave them out, the bill does not.

        Advisor entries stay out: another model answered them, at its own price; they are in raw_json.
        """
        iterations = self._merged.get("iterations")
        for entry in iterations if isinstance(iterations, list) else ():
            if not isinstance(entry, dict) or entry.get("type") != "compaction":
                continue
            usage.input_tokens += sum(_count(entry, name) or 0 for name in _INPUT_MEMBERS)
            usage.output_tokens += _count(entry, "output_tokens") or 0
            usage.input_cached_tokens += _count(entry, "cache_read_input_tokens") or 0
            usage.input_cache_written_tokens += _count(entry, "cache_creation_input_tokens") or 0


def _count(members: object, name: str) -> int | None:
    value = members.get(name) if isinstance(members, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60 else None
