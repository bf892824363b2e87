"""Unfolds a whole reply into the events of a valid stream, so that a unary answer can be given as a stream.

What grows comes as deltas, never in a part's beginning, as it does from an upstream that streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import ChatReply

__all__ = ["unfold"]


def unfold(reply: ChatReply) -> list[ChatEvent]:
    """Return the events of a complete reply, a valid stream of which `fold` gives the reply back.

    The reply needs at least one choice, choices numbered from 0 without a gap. Each part comes as one delta of all its
    text; what the events cannot carry (a message's name, a role) is what `fold` supplies.
    """
    started = events_pb.Started(
        id=reply.id,
        model=reply.model,
        created_seconds=reply.created_seconds,
        service_tier=reply.service_tier if reply.HasField("service_tier") else None,
        system_fingerprint=reply.system_fingerprint if reply.HasField("system_fingerprint") else None,
        warnings=reply.warnings,
        extra_json=reply.extra_json,
    )
    events = [ChatEvent(started=started)]
    for choice in reply.choices:
        if choice.message.extra_json:
            events.append(_extra(events_pb.EXTRA_SCOPE_MESSAGE, choice.index, choice.message.extra_json))
        for number, part in enumerate(choice.message.parts):
            events.extend(_unfold_part(choice.index, number, part))
    for choice in reply.choices:
        if choice.extra_json:
            events.append(_extra(events_pb.EXTRA_SCOPE_CHOICE, choice.index, choice.extra_json))
        finished = events_pb.ChoiceFinished(
            choice=choice.index,
            finish_reason=choice.finish_reason,
            raw_finish_reason=choice.raw_finish_reason,
            stop_sequence=choice.stop_sequence if choice.HasField("stop_sequence") else None,
        )
        events.append(ChatEvent(choice_finished=finished))
    if reply.HasField("usage"):
        events.append(ChatEvent(usage_reported=events_pb.UsageReported(usage=reply.usage)))
    return events


def _extra(scope: events_pb.ExtraScope.ValueType, choice: int, extra_json: str) -> ChatEvent:
    return ChatEvent(extra_reported=events_pb.ExtraReported(scope=scope, choice=choice, extra_json=extra_json))


def _unfold_part(choice: int, number: int, part: pb.Part) -> list[ChatEvent]:
    begin = pb.Part()
    begin.CopyFrom(part)
    kind = begin.WhichOneof("part")
    take = _TAKE.get(kind) if kind else None
    steps = [ChatEvent(part_finished=events_pb.PartFinished(choice=choice, part=number))]
    if take is not None:
        steps[:0] = take(choice, number, begin)  # empties `begin`, so it runs before the part's start is built
    return [ChatEvent(part_started=events_pb.PartStarted(choice=choice, part=number, begin=begin)), *steps]


def _take_text(choice: int, number: int, begin: pb.Part) -> Iterator[ChatEvent]:
    text = begin.text
    if text.text or text.logprobs:
        delta = events_pb.TextDelta(choice=choice, part=number, text=text.text, logprobs=text.logprobs)
        yield ChatEvent(text_delta=delta)
    for annotation in text.annotations:
        added = events_pb.AnnotationAdded(choice=choice, part=number, annotation=annotation)
        yield ChatEvent(annotation_added=added)
    for member in ("text", "logprobs", "annotations"):
        text.ClearField(member)


def _take_refusal(choice: int, number: int, begin: pb.Part) -> Iterator[ChatEvent]:
    said = begin.refusal
    if said.text or said.logprobs:
        delta = events_pb.RefusalDelta(choice=choice, part=number, text=said.text, logprobs=said.logprobs)
        yield ChatEvent(refusal_delta=delta)
    said.ClearField("text")
    said.ClearField("logprobs")


def _take_reasoning(choice: int, number: int, begin: pb.Part) -> Iterator[ChatEvent]:
    thought = begin.reasoning
    delta = events_pb.ReasoningDelta(choice=choice, part=number, text=thought.text)
    delta.signature, delta.encrypted = thought.signature, thought.encrypted
    if thought.text or thought.signature or thought.encrypted:
        yield ChatEvent(reasoning_delta=delta)
    thought.text = thought.signature = thought.encrypted = ""


def _take_tool_call(choice: int, number: int, begin: pb.Part) -> Iterator[ChatEvent]:
    call = begin.tool_call
    if call.arguments_json:
        delta = events_pb.ToolCallDelta(choice=choice, part=number, arguments_json=call.arguments_json)
        yield ChatEvent(tool_call_delta=delta)
    call.arguments_json = ""


def _take_audio(choice: int, number: int, begin: pb.Part) -> Iterator[ChatEvent]:
    audio = begin.audio
    if audio.WhichOneof("source") == "data_base64" or not (audio.data or audio.transcript):
        return  # sound in base64 comes whole
    delta = events_pb.AudioDelta(choice=choice, part=number, data=audio.data, transcript=audio.transcript)
    yield ChatEvent(audio_delta=delta)
    for member in ("data", "transcript"):
        if getattr(audio, member):  # one that is set and empty stays, as no delta can say so
            audio.ClearField(member)


_TAKE: Final[dict[str, Callable[[int, int, pb.Part], Iterator[ChatEvent]]]] = {
    "text": _take_text,
    "refusal": _take_refusal,
    "reasoning": _take_reasoning,
    "tool_call": _take_tool_call,
    "audio": _take_audio,
}
