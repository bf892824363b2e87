"""What differs between Claude models, in one table. Facts only; nothing else in the dialect looks at a model's name.

Sources: the listing of /v1/models with its capabilities (recorded), the model and migration pages of the reference as
of November 2026, and the 400s they name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["ModelFacts", "facts_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a model's requests may hold."""

    max_output: int
    """The largest max_tokens it accepts."""
    thinking: Literal["none", "budget", "either", "adaptive"]
    """How thinking is asked for: with a budget in tokens, adaptively with an effort, or either way."""
    thinking_off: Literal["omit", "disabled", "between_tools", "never"] = "omit"
    """How a request says that there should be none: by silence where that is the default, else by this type."""
    hides_thinking: bool = False
    """Thinking comes without its text unless `display` asks for it."""
    has_xhigh: bool = False
    """Knows the effort "xhigh"; others go from "high" to "max"."""
    sampling: Literal["both", "one", "none"] = "one"
    """Accepts temperature and top_p together, one of the two, or neither."""
    native_json: bool = True
    """Knows output_config.format and `strict` tools."""
    forced_tools: bool = True
    """Accepts tool_choice "any" and "tool"."""
    system_turns: bool = False
    """Accepts system messages within the conversation, after a user's turn."""


_CLAUDE_3: Final = ModelFacts(max_output=4096, thinking="none", sampling="both", native_json=False)
_CLAUDE_3_5: Final = replace(_CLAUDE_3, max_output=8192)
_SONNET_4: Final = ModelFacts(max_output=64_000, thinking="budget", sampling="both", native_json=False)
_CLAUDE_4_5: Final = ModelFacts(max_output=64_000, thinking="budget")
_CLAUDE_4_6: Final = ModelFacts(max_output=128_000, thinking="either")
_CLAUDE_4_7: Final = ModelFacts(
    max_output=128_000, thinking="adaptive", hides_thinking=True, has_xhigh=True, sampling="none"
)
_CLAUDE_4_8: Final = replace(_CLAUDE_4_7, system_turns=True)
_CLAUDE_5: Final = replace(_CLAUDE_4_8, thinking_off="disabled")
_ALWAYS_THINKS: Final = replace(_CLAUDE_5, thinking_off="never")
_ALWAYS_THINKS_UNFORCED: Final = replace(_ALWAYS_THINKS, forced_tools=False)

# The longest name that a model's name begins with counts.
_TABLE: Final[dict[str, ModelFacts]] = {
    "claude-2-0": _CLAUDE_3,
    "claude-2-1": _CLAUDE_3,
    "claude-instant-1": _CLAUDE_3,
    "claude-3": _CLAUDE_3,
    "claude-3-5": _CLAUDE_3_5,
    "claude-3-7": _SONNET_4,
    "claude-sonnet-4": _SONNET_4,
    "claude-4-sonnet": _SONNET_4,
    "claude-opus-4": replace(_SONNET_4, max_output=32_000),
    "claude-4-opus": replace(_SONNET_4, max_output=32_000),
    "claude-opus-4-1": replace(_CLAUDE_4_5, max_output=32_000),
    "claude-sonnet-4-5": _CLAUDE_4_5,
    "claude-haiku-4-5": _CLAUDE_4_5,
    "claude-opus-4-5": _CLAUDE_4_5,
    "claude-sonnet-4-6": _CLAUDE_4_6,
    "claude-opus-4-6": _CLAUDE_4_6,
    "claude-opus-4-7": _CLAUDE_4_7,
    "claude-opus-4-8": _CLAUDE_4_8,
    "claude-mythos-preview": _ALWAYS_THINKS_UNFORCED,
    "claude-sonnet-5": _CLAUDE_5,
    "claude-opus-5": _CLAUDE_5,
    "claude-fable-5": _ALWAYS_THINKS,
    "claude-mythos-5": _ALWAYS_THINKS,
    "claude-fable-5-1": _ALWAYS_THINKS_UNFORCED,
    "claude-fable-5-2": _ALWAYS_THINKS_UNFORCED,
    "claude-mythos-5-1": _ALWAYS_THINKS_UNFORCED,
    "claude-mythos-5-2": _ALWAYS_THINKS_UNFORCED,
    "claude-opus-5-5": _ALWAYS_THINKS_UNFORCED,
    "claude-sonnet-5-5": replace(_CLAUDE_5, thinking_off="between_tools", forced_tools=False),
    "claude-haiku-5-5": _CLAUDE_5,
}
_NEWER_CLAUDE: Final = _ALWAYS_THINKS_UNFORCED
# Other vendors' models behind this wire format know its first form: budgets and sampling, no structured output.
_NOT_CLAUDE: Final = replace(_SONNET_4, max_output=0)


def facts_of(model: str) -> ModelFacts:
    """Return the facts of a model by its upstream name, with or without a vendor's prefix and a date.

    An unknown Claude counts as the newest kind. max_output is 0 where it is not known.
    """
    name = model.lower().replace(".", "-").replace("@", "-")
    start = name.find("claude-")
    if start < 0:
        return _NOT_CLAUDE
    name = name[start:]
    known = max((prefix for prefix in _TABLE if _begins(name, prefix)), key=len, default=None)
    return _TABLE[known] if known is not None else replace(_NEWER_CLAUDE, max_output=0)


def _begins(name: str, prefix: str) -> bool:
    """Whether a name is of this version: "-5" after "claude-opus-5" is another one, a date or "-0" is not."""
    if not name.startswith(prefix):
        return False
    rest = name[len(prefix) :]
    minor = rest[1:].split("-")[0]
    return rest[:1] in {"", ":"} or (rest[0] == "-" and (minor == "0" or not minor.isdigit() or len(minor) > 2))
