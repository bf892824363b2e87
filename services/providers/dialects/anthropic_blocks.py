"""Content blocks of an answer as parts of a message, in their order.

Nothing of a block is lost: members without a field of their own go to extra_json, blocks of the provider's own tools
and unknown ones are carried whole, so that the next request can send every block back as it came.
"""

from __future__ import annotations

from typing import Final

import msgspec

from services.providers.dialects.anthropic_structured import JSON_TOOL
from services.providers.dialects.anthropic_wire import (
    DIALECT_NAME,
    Members,
    extras_of,
    parse_array,
    parse_object,
    text_of,
    to_json,
)
from trunkline.inference.v1 import chat_pb2 as pb

__all__ = ["STOP_REASONS", "finish_reason_of", "parse_annotation", "parse_block", "tool_call_of"]

STOP_REASONS: Final[dict[str, pb.FinishReason.ValueType]] = {
    "end_turn": pb.FINISH_REASON_STOP,
    "stop_sequence": pb.FINISH_REASON_STOP,
    "pause_turn": pb.FINISH_REASON_STOP,
    "compaction": pb.FINISH_REASON_STOP,
    "max_tokens": pb.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": pb.FINISH_REASON_LENGTH,
    "tool_use": pb.FINISH_REASON_TOOL_CALLS,
    "refusal": pb.FINISH_REASON_CONTENT_FILTER,
}

_TEXT_MEMBERS: Final = frozenset({"type", "text", "citations"})
_THINKING_MEMBERS: Final = frozenset({"type", "thinking", "signature"})
_REDACTED_MEMBERS: Final = frozenset({"type", "data"})
_TOOL_USE_MEMBERS: Final = frozenset({"type", "id", "name", "input"})
_URL_CITATION_MEMBERS: Final = frozenset({"url", "title"})
_DIRECT_CALLER: Final = {"type": "direct"}


def finish_reason_of(stop_reason: str, *, has_tool_calls: bool) -> pb.FinishReason.ValueType:
    """Return the finish reason; a stop for the tool that carries structured output is an ordinary end."""
    if stop_reason == "tool_use" and not has_tool_calls:
        return pb.FINISH_REASON_STOP
    return STOP_REASONS.get(stop_reason, pb.FINISH_REASON_UNSPECIFIED)


def parse_block(raw: msgspec.Raw) -> pb.Part:
    """Return the part of a whole block."""
    members = parse_object(raw, "content block")
    kind = text_of(members, "type")
    if kind == "text":
        annotations = [parse_annotation(entry) for entry in parse_array(members.get("citations"), "citations")]
        extra = extras_of(members, _TEXT_MEMBERS)
        text = pb.TextPart(text=text_of(members, "text"), annotations=annotations, extra_json=extra)
        return pb.Part(text=text)
    if kind == "thinking":
        reasoning = pb.ReasoningPart(text=text_of(members, "thinking"), signature=text_of(members, "signature"))
        reasoning.extra_json = extras_of(members, _THINKING_MEMBERS)
        return pb.Part(reasoning=reasoning)
    if kind == "redacted_thinking":
        extra = extras_of(members, _REDACTED_MEMBERS)
        return pb.Part(reasoning=pb.ReasoningPart(encrypted=text_of(members, "data"), extra_json=extra))
    if kind == "tool_use":
        arguments = bytes(members.get("input") or b"").decode() or "{}"
        if text_of(members, "name") == JSON_TOOL:
            return pb.Part(text=pb.TextPart(text=arguments))
        call = tool_call_of(members)
        call.arguments_json = arguments
        return pb.Part(tool_call=call)
    return pb.Part(opaque=pb.OpaquePart(dialect=DIALECT_NAME, type=kind, json=bytes(raw).decode()))


def tool_call_of(members: Members) -> pb.ToolCall:
    """Return the call of a tool_use block, without its arguments."""
    known = _TOOL_USE_MEMBERS
    if "caller" in members and msgspec.json.decode(members["caller"]) == _DIRECT_CALLER:
        known |= {"caller"}  # what every ordinary call says; other upstreams would refuse it in the history
    return pb.ToolCall(id=text_of(members, "id"), name=text_of(members, "name"), extra_json=extras_of(members, known))


def parse_annotation(raw: msgspec.Raw) -> pb.Annotation:
    """Return a citation: "url_citation" where it has an address, else of the citation's own type.

    The other members are in extra_json; a url_citation's own type is there as `citation_type`.
    """
    members = parse_object(raw, "citation")
    kind = text_of(members, "type")
    if "url" not in members:
        return pb.Annotation(type=kind, extra_json=_verbatim(members, leave_out={"type"}))
    rest = {"citation_type" if name == "type" else name: value for name, value in members.items()}
    leave_out = _URL_CITATION_MEMBERS if text_of(members, "title") else {"url"}  # a null title is kept as such
    return pb.Annotation(
        type="url_citation",
        url=text_of(members, "url"),
        title=text_of(members, "title"),
        extra_json=_verbatim(rest, leave_out=leave_out),
    )


def _verbatim(members: Members, *, leave_out: set[str] | frozenset[str]) -> str:
    kept = {name: value for name, value in members.items() if name not in leave_out}
    return to_json(kept) if kept else ""
