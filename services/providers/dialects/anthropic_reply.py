"""A whole answer of the Messages API as a ChatReply."""

from __future__ import annotations

from typing import Final

from services.providers.dialects.anthropic_blocks import finish_reason_of, parse_block
from services.providers.dialects.anthropic_errors import parse_stream_error
from services.providers.dialects.anthropic_usage import UsageMeter
from services.providers.dialects.anthropic_wire import (
    Members,
    extras_of,
    malformed,
    parse_array,
    parse_object,
    text_of,
    to_json,
)
from services.providers.endpoint import Endpoint
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.reply import content_form_of

__all__ = ["MESSAGE_MEMBERS", "parse_reply", "stop_details_of"]

MESSAGE_MEMBERS: Final = frozenset(
    {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details", "usage"}
)
"""Members of a message that have a field of their own; the others are the reply's extras."""


def parse_reply(body: bytes, endpoint: Endpoint) -> pb.ChatReply:
    """Return the answer of a 2xx body. Raises UPSTREAM_MALFORMED_REPLY, or the error inside a 200."""
    members = parse_object(body, "the answer")
    if text_of(members, "type") == "error":
        raise parse_stream_error(body, endpoint)
    if "content" not in members:
        raise malformed("no content")
    parts = [parse_block(raw) for raw in parse_array(members["content"], "content")]
    meter = UsageMeter()
    has_usage = "usage" in members and meter.update(members["usage"])
    stop_reason = text_of(members, "stop_reason")
    has_calls = any(part.HasField("tool_call") for part in parts)
    choice = pb.Choice(
        message=pb.Message(role=pb.ROLE_ASSISTANT, parts=parts, content_form=content_form_of(parts)),
        finish_reason=finish_reason_of(stop_reason, has_tool_calls=has_calls),
        raw_finish_reason=stop_reason,
        stop_sequence=text_of(members, "stop_sequence") or None,
        extra_json=stop_details_of(members),
    )
    return pb.ChatReply(
        id=text_of(members, "id"),
        model=text_of(members, "model"),
        choices=[choice],
        usage=meter.usage() if has_usage else None,
        service_tier=meter.service_tier,
        extra_json=extras_of(members, MESSAGE_MEMBERS),
    )


def stop_details_of(members: Members) -> str:
    """Return what is said about the stop beside its reason as the choice's extra members, "" when nothing is."""
    details = members.get("stop_details")
    return "" if details is None or bytes(details) == b"null" else to_json({"stop_details": details})
