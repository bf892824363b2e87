"""A streamed answer of the Messages API as chat events.

`message_stop` is the terminal event: the choice is finished there and not before, so a stream cut earlier never looks
complete. Blocks become parts in the order they begin; blocks that only Anthropic understands are put together and given
whole when they stop.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.providers.dialects.anthropic_blocks import (
    finish_reason_of,
    parse_annotation,
    parse_block,
    tool_call_of,
)
from services.providers.dialects.anthropic_errors import parse_stream_error
from services.providers.dialects.anthropic_reply import MESSAGE_MEMBERS, stop_details_of
from services.providers.dialects.anthropic_structured import JSON_TOOL
from services.providers.dialects.anthropic_usage import UsageMeter
from services.providers.dialects.anthropic_wire import (
    DIALECT_NAME,
    Members,
    extras_of,
    malformed,
    parse_object,
    text_of,
    to_json,
)
from services.providers.dialects.base import Frame
from services.providers.endpoint import Endpoint
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent, ReasoningDelta, TextDelta, ToolCallDelta

__all__ = ["AnthropicStreamParser"]


class _Delta(msgspec.Struct, gc=False):
    """What the frequent deltas hold."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    citation: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct, gc=False):
    """What decides how an event is read; one decoding of the frequent kinds gives all of it."""

    type: str = ""
    index: int = -1
    delta: _Delta | None = None


_DECODE: Final = msgspec.json.Decoder(_Event).decode
_DELTA_MEMBERS: Final = frozenset({"stop_reason", "stop_sequence", "stop_details"})
_MESSAGE_DELTA_MEMBERS: Final = frozenset({"type", "delta", "usage"})


class _Block:
    """A block that has begun and not stopped."""

    __slots__ = ("arguments", "input_pieces", "is_json_answer", "kind", "members", "part", "whole")

    def __init__(self, kind: str, *, part: int = -1, whole: bytes = b"", arguments: str = "") -> None:
        self.kind = kind
        self.part = part
        self.arguments = arguments
        """A tool's input as given at the block's start; sent at its stop when no piece of it came before."""
        self.is_json_answer = False
        self.whole = whole
        """Of a block that is given whole: its JSON as it began."""
        self.members: dict[str, Any] | None = None
        """The same, decoded, once a delta changed it."""
        self.input_pieces: list[str] = []


class AnthropicStreamParser:
    """Reads one streamed answer; see ChatStreamParser."""

    __slots__ = (
        "_blocks",
        "_endpoint",
        "_has_calls",
        "_meter",
        "_parts",
        "_started",
        "_stop",
        "_stop_sequence",
        "is_complete",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._blocks: dict[int, _Block] = {}
        self._meter = UsageMeter()
        self._parts = 0
        self._started = False
        self._has_calls = False
        self._stop = ""
        self._stop_sequence: str | None = None
        self.is_complete = False

    def parse_frame(self, frame: Frame) -> list[ChatEvent]:
        """Return the events of one server-sent event. Unknown ones and pings have none."""
        if self.is_complete or not frame.data:
            return []
        try:
            event = _DECODE(frame.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._parse_unusual(frame)
        if event.type == "content_block_delta" and event.delta is not None:
            return self._parse_delta(event.index, event.delta, frame)
        return self._parse_step(event, frame)

    def parse_end(self) -> list[ChatEvent]:
        """Return nothing, or raise STREAM_TRUNCATED when message_stop never came."""
        if not self.is_complete:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_STREAM_TRUNCATED,
                f"{self._endpoint.name} ended its stream without message_stop",
                metadata={"provider": self._endpoint.name},
            )
        return []

    def _parse_unusual(self, frame: Frame) -> list[ChatEvent]:
        """Read what does not fit the usual event: an end marker some gateways add, else a broken frame."""
        if frame.data.strip() == b"[DONE]":
            return []
        members = parse_object(frame.data, "an event")
        if text_of(members, "type").startswith(("content_block", "message")):
            raise malformed("an event's members are of the wrong type")
        return self._parse_error(frame) if text_of(members, "type") == "error" else []

    def _parse_delta(self, index: int, delta: _Delta, frame: Frame) -> list[ChatEvent]:
        block = self._blocks.get(index)
        if block is None:
            raise malformed("a delta for a block that is not open")
        kind = block.kind
        if kind == "text" and delta.type == "text_delta":
            return [ChatEvent(text_delta=TextDelta(part=block.part, text=delta.text))]
        if kind == "thinking" and delta.type in {"thinking_delta", "signature_delta"}:
            piece = ReasoningDelta(part=block.part, text=delta.thinking, signature=delta.signature)
            return [ChatEvent(reasoning_delta=piece)]
        if kind == "tool_use" and delta.type == "input_json_delta":
            return self._parse_input(block, delta.partial_json)
        if kind == "text" and delta.type == "citations_delta":
            cited = events_pb.AnnotationAdded(part=block.part, annotation=parse_annotation(delta.citation))
            return [ChatEvent(annotation_added=cited)]
        if block.whole:
            self._collect(block, delta, frame)
        return []

    @staticmethod
    def _parse_input(block: _Block, piece: str) -> list[ChatEvent]:
        if not piece:
            return []
        block.arguments = ""
        if block.is_json_answer:
            return [ChatEvent(text_delta=TextDelta(part=block.part, text=piece))]
        return [ChatEvent(tool_call_delta=ToolCallDelta(part=block.part, arguments_json=piece))]

    @staticmethod
    def _collect(block: _Block, delta: _Delta, frame: Frame) -> None:
        """Add a delta to a block that is given whole. A kind we do not know appends to text and replaces the rest."""
        if delta.type == "input_json_delta":
            block.input_pieces.append(delta.partial_json)
            return
        if block.members is None:
            block.members = msgspec.json.decode(block.whole)
        members: dict[str, Any] = block.members or {}
        for name, value in msgspec.json.decode(frame.data)["delta"].items():
            before = members.get(name)
            if name == "citation":
                members["citations"] = [*(members.get("citations") or []), value]
            elif name != "type":
                members[name] = before + value if isinstance(before, str) and isinstance(value, str) else value

    def _parse_step(self, event: _Event, frame: Frame) -> list[ChatEvent]:
        kind = event.type
        if kind == "error":
            return self._parse_error(frame)
        if kind == "message_start":
            return self._start(parse_object(frame.data, kind))
        if not self._started:
            if kind in {"content_block_start", "content_block_stop", "message_delta", "message_stop"}:
                raise malformed(f"{kind} before message_start")
            return []
        if kind == "content_block_start":
            return self._start_block(event.index, parse_object(frame.data, kind))
        if kind == "content_block_stop":
            return self._stop_block(event.index)
        if kind == "message_delta":
            return self._parse_message_delta(parse_object(frame.data, kind))
        if kind == "message_stop":
            return self._finish()
        return []

    def _parse_error(self, frame: Frame) -> list[ChatEvent]:
        raise parse_stream_error(frame.data, self._endpoint)

    def _start(self, event: Members) -> list[ChatEvent]:
        if self._started:
            raise malformed("a second message_start")
        message = parse_object(event.get("message") or b"", "message")
        self._started = True
        has_usage = "usage" in message and self._meter.update(message["usage"])
        started = events_pb.Started(
            id=text_of(message, "id"),
            model=text_of(message, "model"),
            service_tier=self._meter.service_tier,
            extra_json=extras_of(message, MESSAGE_MEMBERS),
        )
        return [ChatEvent(started=started), *([self._usage_event()] if has_usage else [])]

    def _usage_event(self) -> ChatEvent:
        return ChatEvent(usage_reported=events_pb.UsageReported(usage=self._meter.usage()))

    def _start_block(self, index: int, event: Members) -> list[ChatEvent]:
        if index in self._blocks:
            raise malformed("a block begins while it is open")
        raw = event.get("content_block") or msgspec.Raw()
        members = parse_object(raw, "content_block")
        kind = text_of(members, "type")
        if kind == "tool_use":
            return self._start_tool_use(index, members)
        if kind not in {"text", "thinking", "redacted_thinking"}:
            self._blocks[index] = _Block(kind, whole=bytes(raw))
            return []
        self._blocks[index] = block = _Block(kind, part=self._parts)
        return self._open_part(block, parse_block(raw))

    def _start_tool_use(self, index: int, members: Members) -> list[ChatEvent]:
        arguments = bytes(members.get("input") or b"{}").decode()
        self._blocks[index] = block = _Block("tool_use", part=self._parts, arguments=arguments)
        if text_of(members, "name") == JSON_TOOL:
            block.is_json_answer = True
            return self._open_part(block, pb.Part(text=pb.TextPart()))
        self._has_calls = True
        return self._open_part(block, pb.Part(tool_call=tool_call_of(members)))

    def _open_part(self, block: _Block, begin: pb.Part) -> list[ChatEvent]:
        self._parts += 1
        return [ChatEvent(part_started=events_pb.PartStarted(part=block.part, begin=begin))]

    def _stop_block(self, index: int) -> list[ChatEvent]:
        block = self._blocks.pop(index, None)
        if block is None:
            raise malformed("a block stops that is not open")
        return self._close(block)

    def _close(self, block: _Block) -> list[ChatEvent]:
        begun: list[ChatEvent] = []
        if block.whole:
            block.part = self._parts
            part = pb.OpaquePart(dialect=DIALECT_NAME, type=block.kind, json=_assemble(block))
            begun = self._open_part(block, pb.Part(opaque=part))
        elif block.arguments:
            begun = self._parse_input(block, block.arguments)
        return [*begun, ChatEvent(part_finished=events_pb.PartFinished(part=block.part))]

    def _parse_message_delta(self, event: Members) -> list[ChatEvent]:
        delta = parse_object(event["delta"], "delta") if "delta" in event else {}
        self._stop = text_of(delta, "stop_reason") or self._stop
        self._stop_sequence = text_of(delta, "stop_sequence") or self._stop_sequence
        events = [
            ChatEvent(extra_reported=events_pb.ExtraReported(scope=scope, extra_json=extra))
            for scope, extra in (
                (events_pb.EXTRA_SCOPE_REPLY, extras_of(delta, _DELTA_MEMBERS)),
                (events_pb.EXTRA_SCOPE_REPLY, extras_of(event, _MESSAGE_DELTA_MEMBERS)),
                (events_pb.EXTRA_SCOPE_CHOICE, stop_details_of(delta)),
            )
            if extra
        ]
        if "usage" in event and self._meter.update(event["usage"]):
            events.append(self._usage_event())
        return events

    def _finish(self) -> list[ChatEvent]:
        events = [event for index in sorted(self._blocks) for event in self._close(self._blocks[index])]
        self._blocks.clear()
        finished = events_pb.ChoiceFinished(
            finish_reason=finish_reason_of(self._stop, has_tool_calls=self._has_calls),
            raw_finish_reason=self._stop,
            stop_sequence=self._stop_sequence,
        )
        self.is_complete = True
        return [*events, ChatEvent(choice_finished=finished)]


def _assemble(block: _Block) -> str:
    """Return the JSON of a block that is given whole, verbatim when no delta changed it."""
    pieces = "".join(block.input_pieces)
    if not pieces and block.members is None:
        return block.whole.decode()
    members: dict[str, Any] = block.members or msgspec.json.decode(block.whole, type=Members)
    if pieces:
        try:
            members["input"] = msgspec.json.decode(pieces, type=msgspec.Raw)
        except msgspec.DecodeError:  # the token limit cut it off; what came is kept as text
            members["input"] = pieces
    return to_json(members)
