"""What the meter sees in an answer: content, its size, its end."""

from __future__ import annotations

import pytest

from services.router.meter import AnswerMeter
from tests.router.scripted import make_usage
from trunkline.inference.v1 import chat_event_pb2, chat_pb2
from trunkline.inference.v1.chat_event_pb2 import (
    AnnotationAdded,
    AudioDelta,
    ChatEvent,
    ChoiceFinished,
    ExtraReported,
    PartFinished,
    PartStarted,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trunkline.inference.v1.chat_pb2 import (
    AudioPart,
    ChatReply,
    Choice,
    ImagePart,
    Message,
    OpaquePart,
    Part,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCall,
)


def started(part: Part, choice: int = 0) -> ChatEvent:
    return ChatEvent(part_started=PartStarted(choice=choice, begin=part))


def finished(choice: int = 0, reason: chat_pb2.FinishReason.ValueType = chat_pb2.FINISH_REASON_STOP) -> ChatEvent:
    return ChatEvent(choice_finished=ChoiceFinished(choice=choice, finish_reason=reason, raw_finish_reason="raw"))


CONTENT: dict[str, tuple[ChatEvent, int]] = {
    "text": (ChatEvent(text_delta=TextDelta(text="häl")), 4),
    "reasoning": (ChatEvent(reasoning_delta=ReasoningDelta(text="hm")), 2),
    "a reasoning signature": (ChatEvent(reasoning_delta=ReasoningDelta(signature="s")), 0),
    "encrypted reasoning": (ChatEvent(reasoning_delta=ReasoningDelta(encrypted="e")), 0),
    "arguments": (ChatEvent(tool_call_delta=ToolCallDelta(arguments_json="{}")), 2),
    "a refusal": (ChatEvent(refusal_delta=RefusalDelta(text="no")), 2),
    "sound": (ChatEvent(audio_delta=AudioDelta(data=b"x")), 0),
    "a transcript": (ChatEvent(audio_delta=AudioDelta(transcript="hi")), 2),
    "an annotation": (ChatEvent(annotation_added=AnnotationAdded()), 0),
    "the end of a choice": (finished(), 0),
    "a text that begins with words": (started(Part(text=TextPart(text="hi"))), 2),
    "a tool call by name": (started(Part(tool_call=ToolCall(id="1", name="look"))), 64 + 4),
    "a redacted block": (started(Part(reasoning=ReasoningPart(encrypted="e"))), 0),
    "an image": (started(Part(image=ImagePart(data=b"x"))), 0),
    "a block of a provider's own": (started(Part(opaque=OpaquePart(json="{}"))), 2),
    "a sound that begins": (started(Part(audio=AudioPart(data=b"x"))), 0),
}

NO_CONTENT: dict[str, ChatEvent] = {
    "the start": ChatEvent(started=Started(id="x")),
    "an empty text part": started(Part(text=TextPart())),
    "an empty reasoning part": started(Part(reasoning=ReasoningPart(member="reasoning"))),
    "an empty refusal": started(Part(refusal=RefusalPart())),
    "an empty sound": started(Part(audio=AudioPart(id="x"))),
    "an empty text": ChatEvent(text_delta=TextDelta()),
    "an empty reasoning": ChatEvent(reasoning_delta=ReasoningDelta()),
    "no arguments": ChatEvent(tool_call_delta=ToolCallDelta()),
    "the end of a part": ChatEvent(part_finished=PartFinished()),
    "usage": ChatEvent(usage_reported=UsageReported(usage=make_usage())),
    "members": ChatEvent(extra_reported=ExtraReported(extra_json="{}")),
    "an event of a newer server": ChatEvent(),
}


@pytest.mark.parametrize(("event", "size"), CONTENT.values(), ids=CONTENT)
def test_content_commits_and_counts(event: ChatEvent, size: int) -> None:
    meter = AnswerMeter()
    meter.observe([event])
    assert meter.has_content
    assert meter.output_bytes == size


@pytest.mark.parametrize("event", NO_CONTENT.values(), ids=NO_CONTENT)
def test_the_rest_does_not(event: ChatEvent) -> None:
    meter = AnswerMeter()
    meter.observe([event])
    assert not meter.has_content
    assert meter.output_bytes == 0


def test_every_event_of_the_contract_is_one_or_the_other() -> None:
    kinds = {event.WhichOneof("event") for event, _ in CONTENT.values()} | {
        event.WhichOneof("event") for event in NO_CONTENT.values()
    }
    assert kinds - {None} == {field.name for field in chat_event_pb2.ChatEvent.DESCRIPTOR.fields}


@pytest.mark.parametrize(
    ("events", "is_complete"),
    [
        ([], False),
        ([started(Part(text=TextPart()))], False),
        ([started(Part(text=TextPart())), finished()], True),
        ([finished()], True),
        ([started(Part(text=TextPart())), started(Part(text=TextPart()), 1), finished()], False),
        ([started(Part(text=TextPart())), started(Part(text=TextPart()), 1), finished(1), finished()], True),
    ],
)
def test_an_answer_is_complete_when_every_choice_that_began_has_ended(
    events: list[ChatEvent], is_complete: bool
) -> None:
    meter = AnswerMeter()
    meter.observe(events)
    assert meter.is_complete is is_complete


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (chat_pb2.FINISH_REASON_STOP, "stop"),
        (chat_pb2.FINISH_REASON_LENGTH, "length"),
        (chat_pb2.FINISH_REASON_TOOL_CALLS, "tool_calls"),
        (chat_pb2.FINISH_REASON_CONTENT_FILTER, "content_filter"),
        (chat_pb2.FINISH_REASON_FUNCTION_CALL, "function_call"),
        (chat_pb2.FINISH_REASON_UNSPECIFIED, "raw"),
    ],
)
def test_the_reason_is_told_in_the_apis_words(reason: chat_pb2.FinishReason.ValueType, told: str) -> None:
    meter = AnswerMeter()
    meter.observe([finished(0, reason), finished(1)])
    assert meter.finish_reason == told


def test_the_last_usage_counts() -> None:
    meter = AnswerMeter()
    meter.observe([ChatEvent(usage_reported=UsageReported(usage=make_usage(1, output))) for output in (1, 2)])
    assert meter.usage == make_usage(1, 2)


@pytest.mark.parametrize(
    ("extra", "tier"),
    [('{"service_tier":"flex"}', "flex"), ('{"service_tier":null}', ""), ('{"service_tier', ""), ("{}", "")],
)
def test_a_tier_that_is_told_late_is_seen(extra: str, tier: str) -> None:
    meter = AnswerMeter()
    meter.observe([ChatEvent(extra_reported=ExtraReported(extra_json=extra))])
    assert meter.service_tier == tier


def test_a_whole_answer_is_measured_alike() -> None:
    meter = AnswerMeter()
    parts = [Part(text=TextPart(text="hi")), Part(tool_call=ToolCall(name="look", arguments_json="{}"))]
    reply = ChatReply(
        id="r", choices=[Choice(message=Message(parts=parts), finish_reason=chat_pb2.FINISH_REASON_TOOL_CALLS)]
    )
    reply.service_tier = "priority"
    meter.observe_reply(reply)
    assert (meter.reply_id, meter.service_tier, meter.finish_reason) == ("r", "priority", "tool_calls")
    assert meter.output_bytes == 2 + 64 + 6
    assert meter.usage is None
    assert meter.has_content


def test_of_a_whole_answer_that_says_what_it_used_the_words_are_not_counted() -> None:
    meter = AnswerMeter()
    message = Message(parts=[Part(text=TextPart(text="hi"))])
    meter.observe_reply(ChatReply(choices=[Choice(message=message)], usage=make_usage()))
    assert meter.output_bytes == 0
    assert meter.usage == make_usage()
