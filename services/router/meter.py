"""What an answer holds, as far as routing and accounting care: did content come, is it whole, what did it use.

One meter for each attempt, fed with every event that is forwarded. On the hot path: it looks into an event only where
it must, and keeps no text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from services.router.estimate import estimate_input, part_bytes, text_bytes, tokens_of_bytes
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent, ChoiceFinished, ExtraReported, PartStarted, Started
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply, Part
from trunkline.inference.v1.usage_pb2 import TokenUsage

__all__ = ["AnswerMeter", "settle_usage"]

_FINISH_REASONS: Final = {
    chat_pb2.FINISH_REASON_STOP: "stop",
    chat_pb2.FINISH_REASON_LENGTH: "length",
    chat_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    chat_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
    chat_pb2.FINISH_REASON_FUNCTION_CALL: "function_call",
}

# A part of these kinds comes whole in its PartStarted, or with a name that is content already.
_CONTENT_AT_START: Final = frozenset({"tool_call", "image", "file", "opaque"})


class AnswerMeter:
    """Watches one answer. All of its attributes are what was seen so far."""

    __slots__ = (
        "_begun",
        "_finished",
        "finish_reason",
        "has_content",
        "output_bytes",
        "reply_id",
        "service_tier",
        "usage",
    )

    def __init__(self) -> None:
        self.has_content = False
        """Whether anything came that a caller would see as part of the answer."""
        self.output_bytes = 0
        """UTF-8 bytes of text, reasoning, refusals, tool calls. Not counted where a whole answer says what it used."""
        self.reply_id = ""
        self.service_tier = ""
        self.finish_reason = ""
        """Of the first choice that ended."""
        self.usage: TokenUsage | None = None
        """As last reported."""
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every choice that began has ended, and one at least."""
        return bool(self._finished) and self._begun <= self._finished

    def observe(self, events: Iterable[ChatEvent]) -> None:
        """Take note of some events of a stream."""
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "text_delta":
                text = event.text_delta.text
                if text:
                    self.has_content = True
                    self.output_bytes += len(text) if text.isascii() else len(text.encode())
            elif kind is not None and (note := _OBSERVERS.get(kind)) is not None:
                note(self, event)

    def observe_reply(self, reply: ChatReply) -> None:
        """Take note of a whole answer."""
        self.has_content = True
        self.reply_id = reply.id
        self.service_tier = reply.service_tier
        if reply.HasField("usage"):
            self.usage = reply.usage
        is_counted = self.usage is not None and self.usage.HasField("output_tokens")
        for choice in reply.choices:
            self._finish(choice.index, choice.finish_reason, choice.raw_finish_reason)
            if not is_counted:
                for part in choice.message.parts:
                    self.output_bytes += part_bytes(part)

    def add_content(self, size: int) -> None:
        """Count so many bytes of the answer; 0 are no content."""
        if size:
            self.has_content = True
            self.output_bytes += size

    def start_part(self, started: PartStarted) -> None:
        """Take note of a part that begins, perhaps with content."""
        self._begun.add(started.choice)
        self.add_content(part_bytes(started.begin))
        if _has_content_beside_text(started.begin):
            self.has_content = True

    def start(self, started: Started) -> None:
        """Take note of who answers."""
        self.reply_id = started.id
        self.service_tier = started.service_tier

    def finish_choice(self, finished: ChoiceFinished) -> None:
        """Take note of a choice that ends."""
        self.has_content = True
        self._finish(finished.choice, finished.finish_reason, finished.raw_finish_reason)

    def read_late_tier(self, extra: ExtraReported) -> None:
        """Take note of the tier, which some upstreams name only in a later chunk; it decides the price."""
        if "service_tier" not in extra.extra_json:
            return
        try:
            members = msgspec.json.decode(extra.extra_json)
        except msgspec.DecodeError:
            return
        if isinstance(members, dict) and isinstance(tier := members.get("service_tier"), str):
            self.service_tier = tier

    def _finish(self, choice: int, reason: chat_pb2.FinishReason.ValueType, raw_reason: str) -> None:
        if not self._finished:
            self.finish_reason = _FINISH_REASONS.get(reason) or raw_reason
        self._finished.add(choice)


def _has_content_beside_text(begin: Part) -> bool:
    kind = begin.WhichOneof("part")
    if kind == "audio":
        return bool(begin.audio.data or begin.audio.data_base64)
    if kind == "reasoning":
        return bool(begin.reasoning.signature or begin.reasoning.encrypted)
    return kind in _CONTENT_AT_START


def _observe_reasoning(meter: AnswerMeter, event: ChatEvent) -> None:
    delta = event.reasoning_delta
    meter.add_content(text_bytes(delta.text))
    if delta.signature or delta.encrypted:
        meter.has_content = True


def _observe_audio(meter: AnswerMeter, event: ChatEvent) -> None:
    delta = event.audio_delta
    meter.add_content(text_bytes(delta.transcript))
    if delta.data:
        meter.has_content = True


def _observe_annotation(meter: AnswerMeter, _event: ChatEvent) -> None:
    meter.has_content = True


def _observe_usage(meter: AnswerMeter, event: ChatEvent) -> None:
    meter.usage = event.usage_reported.usage


_OBSERVERS: Final[Mapping[str, Callable[[AnswerMeter, ChatEvent], None]]] = {
    "started": lambda meter, event: meter.start(event.started),
    "part_started": lambda meter, event: meter.start_part(event.part_started),
    "reasoning_delta": _observe_reasoning,
    "tool_call_delta": lambda meter, event: meter.add_content(text_bytes(event.tool_call_delta.arguments_json)),
    "refusal_delta": lambda meter, event: meter.add_content(text_bytes(event.refusal_delta.text)),
    "audio_delta": _observe_audio,
    "annotation_added": _observe_annotation,
    "choice_finished": lambda meter, event: meter.finish_choice(event.choice_finished),
    "usage_reported": _observe_usage,
    "extra_reported": lambda meter, event: meter.read_late_tier(event.extra_reported),
}
"""What to do with the events other than text; with those that are not here, nothing."""


def settle_usage(chat: Chat, meter: AnswerMeter, *, completed: bool, was_cut_by_caller: bool) -> TokenUsage | None:
    """Return what the record says was used; None when nothing was. A count that is not the upstream's is marked.

    A complete answer counts as reported, with estimates for what was not. An answer that broke off counts at least what
    was forwarded of it. Without any content nothing was used, unless the upstream said otherwise, or the caller went
    away while the upstream was at work: it has read the prompt then.
    """
    reported = meter.usage
    if reported is None:
        if not meter.has_content and not was_cut_by_caller:
            return None
        return TokenUsage(
            input_tokens=estimate_input(chat), output_tokens=tokens_of_bytes(meter.output_bytes), estimated=True
        )
    has_input, has_output = reported.HasField("input_tokens"), reported.HasField("output_tokens")
    forwarded = 0 if completed and has_output else tokens_of_bytes(meter.output_bytes)
    if has_input and has_output and reported.output_tokens >= forwarded:
        return reported
    settled = TokenUsage()
    settled.CopyFrom(reported)
    settled.estimated = True
    settled.ClearField("total_tokens")
    if not has_input:
        settled.input_tokens = estimate_input(chat)
    settled.output_tokens = max(reported.output_tokens, forwarded)
    return settled
