"""Why an answer ended: the words of many upstreams, the contract's few, and OpenAI's.

The one rule: a word that means failure is an error and never a reason. Unknown words are kept raw.
"""

from __future__ import annotations

from typing import Any, Final

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_pb2 as pb

__all__ = ["decode_finish_reason", "encode_finish_reason", "native_finish_reason"]

_STOP, _LENGTH, _FILTER = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_CONTENT_FILTER

_REASONS: Final[dict[str, pb.FinishReason.ValueType]] = {
    "stop": _STOP,
    "STOP": _STOP,
    "eos": _STOP,
    "eos_token": _STOP,
    "end_turn": _STOP,
    "stop_sequence": _STOP,
    "COMPLETE": _STOP,
    "completed": _STOP,
    "length": _LENGTH,
    "max_tokens": _LENGTH,
    "MAX_TOKENS": _LENGTH,
    "model_length": _LENGTH,
    "model_context_window_exceeded": _LENGTH,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
    "tool_use": pb.FINISH_REASON_TOOL_CALLS,
    "content_filter": _FILTER,
    "content_filtered": _FILTER,
    "refusal": _FILTER,
    "safety": _FILTER,
    "SAFETY": _FILTER,
    "sensitive": _FILTER,
    "function_call": pb.FINISH_REASON_FUNCTION_CALL,
}
_FAILURES: Final = frozenset({"error", "ERROR", "insufficient_system_resource", "network_error", "abort", "TIMEOUT"})

_WORDS: Final = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
    pb.FINISH_REASON_CONTENT_FILTER: "content_filter",
    pb.FINISH_REASON_FUNCTION_CALL: "function_call",
}


def decode_finish_reason(word: Any) -> pb.FinishReason.ValueType:
    """Return the reason of an upstream's word. Raises UPSTREAM_OVERLOADED for a word that means failure."""
    if type(word) is not str:
        return pb.FINISH_REASON_UNSPECIFIED
    if word in _FAILURES:
        raise GatewayError(
            reasons.ERROR_REASON_UPSTREAM_OVERLOADED,
            "The upstream failed while it was answering.",
            metadata={"upstream_code": word},
        )
    return _REASONS.get(word, pb.FINISH_REASON_UNSPECIFIED)


def encode_finish_reason(reason: pb.FinishReason.ValueType, *, has_calls: bool) -> str:
    """Return OpenAI's word. A reason that is not known is what the answer looks like."""
    return _WORDS.get(reason) or ("tool_calls" if has_calls else "stop")


def native_finish_reason(raw: str, word: str) -> dict[str, str]:
    """Return the member that tells the provider's own word where it is another than OpenAI's."""
    return {"native_finish_reason": raw} if raw and raw != word else {}
