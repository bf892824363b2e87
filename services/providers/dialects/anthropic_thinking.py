"""How much the model may think, and how long the answer may be: the two share max_tokens, so they are settled together.

Older models take a budget in tokens, newer ones think adaptively and take an effort; which is which stands in
`anthropic_models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from services.providers.dialects.anthropic_models import ModelFacts
from services.providers.dialects.anthropic_notes import RenderNotes, invalid, object_of
from services.providers.dialects.anthropic_wire import Members
from services.providers.endpoint import Endpoint
from trunkline.inference.v1.chat_pb2 import Chat

__all__ = ["Thinking", "default_max_tokens", "plan_thinking", "render_max_tokens"]

_MIN_BUDGET: Final = 1024
_BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_000, "max": 32_000}
_EFFORTS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_SAFE_DEFAULT: Final = 4096  # every model accepts it
_LARGE_DEFAULT: Final = 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """What a request says about thinking."""

    config: Any = None
    """The `thinking` member, None to leave it out."""
    effort: str | None = None
    """For output_config.effort."""
    budget: int = 0
    """Tokens it sets aside, 0 without a budget."""
    is_on: bool = False
    """Whether the request asks for thinking."""


_OFF: Final = Thinking()


def plan_thinking(
    chat: Chat, facts: ModelFacts, native: Members, notes: RenderNotes, *, budget_conflict: str
) -> Thinking:
    """Return what to say about thinking. `budget_conflict` says why a budget cannot be had, "" when it can."""
    if "thinking" in native:
        return _native_thinking(native["thinking"])
    effort = chat.reasoning_effort if chat.HasField("reasoning_effort") else None
    budget = chat.reasoning_budget_tokens if chat.HasField("reasoning_budget_tokens") else None
    if effort is None and budget is None:
        return _OFF
    if (effort == "none" and budget is None) or budget == 0:
        return _no_thinking(facts, notes)
    if effort is not None and effort != "none" and effort not in _EFFORTS:
        notes.warn("reasoning_effort", f"{effort!r} is not known; left out")
        return _OFF
    if facts.thinking == "none":
        notes.warn("reasoning_effort", "this model does not think; left out")
        return _OFF
    if facts.thinking == "budget" or (facts.thinking == "either" and budget is not None):
        if budget_conflict:
            notes.warn("reasoning_effort", f"{budget_conflict}; thinking was left out")
            return _OFF
        tokens = max(_MIN_BUDGET, budget if budget is not None else _BUDGETS[effort or "medium"])
        if budget is not None and budget < _MIN_BUDGET:
            notes.warn("reasoning_budget_tokens", f"raised to {_MIN_BUDGET}, the least the API takes")
        return Thinking(budget=tokens, is_on=True)
    return _adaptive(facts, effort if effort != "none" else None, budget, notes)


def _adaptive(facts: ModelFacts, effort: str | None, budget: int | None, notes: RenderNotes) -> Thinking:
    if effort is None:
        effort = next((name for name, tokens in _BUDGETS.items() if (budget or 0) <= tokens), "xhigh")
        notes.warn("reasoning_budget_tokens", f"this model takes no budget; sent as effort {_EFFORTS[effort]!r}")
    level = _EFFORTS[effort]
    if level == "xhigh" and not facts.has_xhigh:
        level = "max"
    config: dict[str, Any] = {"type": "adaptive"}
    if facts.hides_thinking:
        config["display"] = "summarized"  # who asks for reasoning expects to see it
    return Thinking(config=config, effort=level, is_on=True)


def _native_thinking(raw: msgspec.Raw) -> Thinking:
    """Return what the caller wrote in the API's own form, verbatim."""
    members = object_of(bytes(raw).decode(), "thinking")
    try:
        kind = msgspec.json.decode(members.get("type") or b'""', type=str)
        budget = msgspec.json.decode(members.get("budget_tokens") or b"0", type=int)
    except msgspec.DecodeError:
        raise invalid("thinking has members of the wrong type", "thinking") from None
    return Thinking(config=raw, budget=budget, is_on=kind in {"enabled", "adaptive"})


def _no_thinking(facts: ModelFacts, notes: RenderNotes) -> Thinking:
    if facts.thinking_off == "omit":
        return _OFF
    if facts.thinking_off == "never":
        notes.warn("reasoning_effort", "this model always thinks; sent as effort 'low'")
        return Thinking(effort="low")
    return Thinking(config={"type": facts.thinking_off})


def default_max_tokens(facts: ModelFacts, endpoint: Endpoint) -> int:
    """Return the bound for callers who set none, which the API demands.

    The endpoint's option "default_max_tokens", else the model's own maximum up to 32,000 (an answer that long leaves
    room for the prompt in every known context), else 4,096, which every model accepts.
    """
    option = endpoint.options.get("default_max_tokens", "")
    if option.isdecimal() and int(option) > 0:
        return int(option)
    return min(facts.max_output, _LARGE_DEFAULT) if facts.max_output else _SAFE_DEFAULT


def render_max_tokens(
    chat: Chat, facts: ModelFacts, thinking: Thinking, default: int, notes: RenderNotes
) -> tuple[int, Thinking]:
    """Return max_tokens and the thinking that fits below it."""
    asked: int | None = None
    if chat.HasField("max_completion_tokens"):
        asked = chat.max_completion_tokens
    elif chat.HasField("max_tokens"):
        asked = chat.max_tokens
    limit = default + thinking.budget if asked is None else asked
    if facts.max_output and limit > facts.max_output:
        limit = facts.max_output
        if asked is not None:
            notes.warn("max_tokens", f"lowered to {limit}, the most this model writes")
    if asked is None:
        notes.warn("max_tokens", f"the API demands a bound; {limit} was sent")
    if thinking.budget and thinking.config is None:
        thinking = _fit_budget(thinking, limit, notes)
    return limit, thinking


def _fit_budget(thinking: Thinking, limit: int, notes: RenderNotes) -> Thinking:
    """Keep a budget below max_tokens, with half of them left for the answer when it must shrink."""
    budget = thinking.budget
    if budget >= limit:
        budget = max(_MIN_BUDGET, limit // 2)
        if budget >= limit:
            notes.warn("reasoning_effort", f"max_tokens leaves no room for {_MIN_BUDGET} tokens of thinking; left out")
            return _OFF
        notes.warn("reasoning_effort", f"the thinking budget was lowered to {budget} to fit below max_tokens")
    return Thinking(config={"type": "enabled", "budget_tokens": budget}, budget=budget, is_on=True)
