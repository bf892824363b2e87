"""The chat stream grammar and the two forms of an answer."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1 import usage_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import ChatReply
from trunkline.reply import GrammarChecker, GrammarError, ReplyFolder, content_form_of, fold, merge_json, unfold

_words = st.text(max_size=12)
_names = st.text("abc_", max_size=6)
_extras = st.sampled_from(["", '{"b":1,"a":[1.0,{"z":null}]}', '{"cache_control":{"type":"ephemeral"}}'])
_optional_words = st.none() | _words
_numbers = st.integers(0, 2**40)


def _logprob(token: str, other: str, value: float, with_bytes: bool) -> pb.TokenLogprob:
    piece = token.encode() if with_bytes else None
    return pb.TokenLogprob(
        token=token, logprob=value, raw_bytes=piece, top_logprobs=[pb.TopLogprob(token=other, logprob=value)]
    )


_logprobs = st.lists(st.builds(_logprob, _words, _words, st.floats(-9, 0), st.booleans()), max_size=2)
_annotations = st.lists(
    st.builds(
        pb.Annotation, type=_names, url=_words, title=_words, start_index=st.none() | _numbers, extra_json=_extras
    ),
    max_size=2,
)
_parts = st.one_of(
    st.builds(
        lambda **members: pb.Part(text=pb.TextPart(**members)),
        text=_words,
        annotations=_annotations,
        logprobs=_logprobs,
        extra_json=_extras,
    ),
    st.builds(
        lambda **members: pb.Part(refusal=pb.RefusalPart(**members)),
        text=_words,
        logprobs=_logprobs,
        in_content=st.booleans(),
        extra_json=_extras,
    ),
    st.builds(
        lambda **members: pb.Part(reasoning=pb.ReasoningPart(**members)),
        text=_words,
        is_summary=st.booleans(),
        signature=_words,
        encrypted=_words,
        id=_names,
        member=_names,
        extra_json=_extras,
    ),
    st.builds(
        lambda **members: pb.Part(tool_call=pb.ToolCall(**members)),
        id=_names,
        name=_names,
        arguments_json=_words,
        kind=st.sampled_from(["", "function", "custom"]),
        signature=_words,
        extra_json=_extras,
    ),
    st.builds(
        lambda **members: pb.Part(audio=pb.AudioPart(**members)),
        data=st.none() | st.binary(max_size=9),
        format=_names,
        id=_optional_words,
        transcript=_optional_words,
        expires_at_seconds=st.none() | _numbers,
        extra_json=_extras,
    ),
    st.builds(
        lambda text, said: pb.Part(audio=pb.AudioPart(data_base64=text, transcript=said)), _words, _optional_words
    ),
    st.builds(lambda url: pb.Part(image=pb.ImagePart(url=url)), _words),
    st.builds(lambda data: pb.Part(file=pb.FilePart(data=data, filename="f")), st.binary(max_size=9)),
    st.builds(lambda kind: pb.Part(opaque=pb.OpaquePart(dialect="d", type=kind, json='{"x":1}')), _names),
)


@st.composite
def replies(draw: st.DrawFn) -> ChatReply:
    """Replies in the form that dialects give: what events can say, and what follows from it."""
    choices = []
    for index in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(_parts, max_size=4))
        message = pb.Message(
            role=pb.ROLE_ASSISTANT, parts=parts, content_form=content_form_of(parts), extra_json=draw(_extras)
        )
        choice = pb.Choice(
            index=index,
            message=message,
            finish_reason=draw(st.sampled_from(list(pb.FinishReason.values()))),
            raw_finish_reason=draw(_names),
            stop_sequence=draw(_optional_words),
            has_logprobs=any(part.text.logprobs or part.refusal.logprobs for part in parts),
            extra_json=draw(_extras),
        )
        choices.append(choice)
    usage = st.builds(usage_pb2.TokenUsage, input_tokens=st.none() | _numbers, raw_json=_extras)
    return ChatReply(
        id=draw(_names),
        model=draw(_names),
        created_seconds=draw(_numbers),
        choices=choices,
        usage=draw(st.none() | usage),
        service_tier=draw(_optional_words),
        system_fingerprint=draw(_optional_words),
        warnings=draw(st.lists(st.builds(pb.Warning, param=_names, message=_words), max_size=2)),
        extra_json=draw(_extras),
    )


def _split(event: ChatEvent) -> list[ChatEvent]:
    """Split a delta of text in two, as an upstream may."""
    kind = event.WhichOneof("event")
    if kind not in {"text_delta", "reasoning_delta", "refusal_delta"}:
        return [event]
    first, second = ChatEvent(), ChatEvent()
    first.CopyFrom(event)
    second.CopyFrom(event)
    head, tail = getattr(first, kind), getattr(second, kind)
    half = len(head.text) // 2
    head.text, tail.text = head.text[:half], tail.text[half:]
    for member in {"logprobs", "signature", "encrypted"} & set(type(head).DESCRIPTOR.fields_by_name):
        head.ClearField(member)
    return [first, second]


def _interleave(events: Sequence[ChatEvent], rng: random.Random) -> list[ChatEvent]:
    """Return the same steps in another valid order: each part's, and each choice's starts, stay in order."""
    queues: dict[tuple[int, int], list[ChatEvent]] = {}
    ends: dict[int, list[ChatEvent]] = {}
    rest: list[ChatEvent] = []
    for event in events[1:]:
        kind = event.WhichOneof("event")
        step = getattr(event, kind or "started")
        if kind == "choice_finished":
            ends.setdefault(step.choice, []).append(event)
        elif hasattr(step, "part"):
            queues.setdefault((step.choice, step.part), []).extend(_split(event))
        else:
            rest.append(event)
    out = [events[0], *rest]
    begun: dict[int, int] = {}
    while queues or ends:
        ready: list[tuple[int, int] | int] = [key for key in queues if key[1] <= begun.get(key[0], 0)]
        ready += [choice for choice in ends if all(key[0] != choice for key in queues)]
        pick = rng.choice(ready)
        if isinstance(pick, int):
            out += ends.pop(pick)
            continue
        event = queues[pick].pop(0)
        if event.HasField("part_started"):
            begun[pick[0]] = pick[1] + 1
        out.append(event)
        if not queues[pick]:
            del queues[pick]
    return out


@given(replies())
def test_folding_what_was_unfolded_gives_the_reply(reply: ChatReply) -> None:
    assert fold(unfold(reply)) == reply


@given(replies(), st.randoms(use_true_random=False))
def test_any_valid_interleaving_folds_alike(reply: ChatReply, rng: random.Random) -> None:
    assert fold(_interleave(unfold(reply), rng)) == reply


@given(replies())
def test_unfolding_and_folding_change_nothing_they_are_given(reply: ChatReply) -> None:
    before = reply.SerializeToString(deterministic=True)
    events = unfold(reply)
    kept = [event.SerializeToString(deterministic=True) for event in events]
    fold(events)
    assert reply.SerializeToString(deterministic=True) == before
    assert [event.SerializeToString(deterministic=True) for event in events] == kept


@given(replies())
def test_a_stream_of_one_choice_cut_before_its_end_is_truncated(reply: ChatReply) -> None:
    del reply.choices[1:]
    events = unfold(reply)
    last = next(i for i, event in enumerate(events) if event.HasField("choice_finished"))
    for length in range(last):
        with pytest.raises(GrammarError, match=r"^rule 7 "):
            fold(events[:length])


STARTED = ChatEvent(started=events_pb.Started(id="r"))
USAGE = ChatEvent(usage_reported=events_pb.UsageReported(usage=usage_pb2.TokenUsage(input_tokens=1)))


def _start(part: int, choice: int = 0, **kinds: object) -> ChatEvent:
    begin = pb.Part(**(kinds or {"text": pb.TextPart()}))  # type: ignore[arg-type]  # one of several message types
    return ChatEvent(part_started=events_pb.PartStarted(choice=choice, part=part, begin=begin))


def _text(part: int, choice: int = 0) -> ChatEvent:
    return ChatEvent(text_delta=events_pb.TextDelta(choice=choice, part=part, text="x"))


def _done(part: int, choice: int = 0) -> ChatEvent:
    return ChatEvent(part_finished=events_pb.PartFinished(choice=choice, part=part))


def _end(choice: int = 0) -> ChatEvent:
    return ChatEvent(choice_finished=events_pb.ChoiceFinished(choice=choice, finish_reason=pb.FINISH_REASON_STOP))


def _extra(scope: events_pb.ExtraScope.ValueType, choice: int = 0) -> ChatEvent:
    return ChatEvent(extra_reported=events_pb.ExtraReported(scope=scope, choice=choice, extra_json='{"a":1}'))


_SOUND = ChatEvent(audio_delta=events_pb.AudioDelta(part=0, data=b"s"))

VIOLATIONS: list[tuple[str, int, list[ChatEvent]]] = [
    ("nothing at all", 7, []),
    ("a part before Started", 1, [_start(0)]),
    ("usage before Started", 1, [USAGE]),
    ("Started twice", 1, [STARTED, STARTED]),
    ("the first part is numbered 1", 2, [STARTED, _start(1)]),
    ("a part number is used twice", 2, [STARTED, _start(0), _start(0)]),
    ("a choice below zero", 2, [STARTED, _start(0, choice=-1)]),
    ("choice 1 without choice 0", 2, [STARTED, _end(1)]),
    ("a delta for a part that never began", 3, [STARTED, _text(0)]),
    ("a delta for a part that is finished", 3, [STARTED, _start(0), _done(0), _text(0)]),
    ("a delta for the other choice's part", 3, [STARTED, _start(0), _text(0, choice=1)]),
    ("a text delta for a tool call", 3, [STARTED, _start(0, tool_call=pb.ToolCall()), _text(0)]),
    ("a delta for an image", 3, [STARTED, _start(0, image=pb.ImagePart(url="u")), _text(0)]),
    ("sound for a part in base64", 3, [STARTED, _start(0, audio=pb.AudioPart(data_base64="eA==")), _SOUND]),
    ("a part finished twice", 3, [STARTED, _start(0), _done(0), _done(0)]),
    ("the choice ends while a part is open", 4, [STARTED, _start(0), _end()]),
    ("a part after the choice's end", 5, [STARTED, _end(), _start(0)]),
    ("the choice ends twice", 5, [STARTED, _end(), _end()]),
    ("usage that says nothing", 6, [STARTED, ChatEvent(usage_reported=events_pb.UsageReported())]),
    ("no choice", 7, [STARTED, USAGE]),
    ("a part is left open", 7, [STARTED, _start(0)]),
    ("one of two choices never ends", 7, [STARTED, _start(0, choice=1), _end(0)]),
    ("a choice of which only an extra was seen", 7, [STARTED, _end(0), _extra(events_pb.EXTRA_SCOPE_CHOICE, 1)]),
]


@pytest.mark.parametrize(("rule", "events"), [pytest.param(r, e, id=name) for name, r, e in VIOLATIONS])
def test_a_violation_names_its_rule(rule: int, events: list[ChatEvent]) -> None:
    with pytest.raises(GrammarError, match=f"^rule {rule} ") as caught:
        fold(events)
    assert caught.value.rule == rule


def test_every_rule_has_a_violating_example() -> None:
    assert {rule for _, rule, _ in VIOLATIONS} == {1, 2, 3, 4, 5, 6, 7}


ACCEPTED: list[tuple[str, list[ChatEvent]]] = [
    ("an answer without parts", [STARTED, _end()]),
    ("choice 1 begins before choice 0", [STARTED, _start(0, choice=1), _done(0, choice=1), _end(0), _end(1)]),
    ("choice 1 goes on after choice 0 ended", [STARTED, _end(0), _start(0, choice=1), _done(0, choice=1), _end(1)]),
    ("extras after the choice's end", [STARTED, _end(), _extra(events_pb.EXTRA_SCOPE_CHOICE), USAGE]),
    ("usage twice and late", [STARTED, USAGE, _end(), USAGE]),
    ("an event of a newer kind, even first", [ChatEvent(), STARTED, ChatEvent(), _end()]),
    ("a part of a newer kind", [STARTED, ChatEvent(part_started=events_pb.PartStarted()), _done(0), _end()]),
]


@pytest.mark.parametrize("events", [pytest.param(e, id=name) for name, e in ACCEPTED])
def test_what_no_rule_forbids_is_accepted(events: list[ChatEvent]) -> None:
    fold(events)


def test_a_later_usage_replaces_an_earlier_one_whole() -> None:
    early = events_pb.UsageReported(usage=usage_pb2.TokenUsage(input_tokens=5, output_tokens=1))
    late = events_pb.UsageReported(usage=usage_pb2.TokenUsage(output_tokens=9))
    reply = fold([STARTED, ChatEvent(usage_reported=early), _end(), ChatEvent(usage_reported=late)])
    assert reply.usage == usage_pb2.TokenUsage(output_tokens=9)


def test_a_beginning_may_hold_text_and_deltas_add_to_it() -> None:
    call = pb.ToolCall(id="c", name="f", arguments_json='{"a"', signature="early")
    deltas = [
        ChatEvent(tool_call_delta=events_pb.ToolCallDelta(part=0, arguments_json=":1}")),
        ChatEvent(tool_call_delta=events_pb.ToolCallDelta(part=0, signature="late")),
    ]
    reply = fold([STARTED, _start(0, tool_call=call), *deltas, _done(0), _end()])
    assert reply.choices[0].message.parts[0].tool_call == pb.ToolCall(
        id="c", name="f", arguments_json='{"a":1}', signature="late"
    )


def test_a_tier_reported_late_goes_to_its_field_and_the_rest_stays() -> None:
    late = '{"x":1.0,"service_tier":"priority","system_fingerprint":null}'
    report = events_pb.ExtraReported(scope=events_pb.EXTRA_SCOPE_REPLY, extra_json=late)
    reply = fold([STARTED, ChatEvent(extra_reported=report), _end()])
    assert reply.service_tier == "priority"
    assert reply.extra_json == '{"x":1.0,"system_fingerprint":null}'


def test_a_broken_stream_folds_to_what_came_before_the_break() -> None:
    folder = ReplyFolder()
    for event in [STARTED, _start(0), _text(0), _text(0)]:
        folder.add(event)
    assert folder.reply().choices[0].message.parts[0].text.text == "xx"
    folder.add(_text(0))
    assert folder.reply().choices[0].message.parts[0].text.text == "xxx"


def test_a_checker_reads_a_stream_beside_its_consumer() -> None:
    checker = GrammarChecker()
    for event in [STARTED, _start(0), _text(0)]:
        checker.check(event)
    with pytest.raises(GrammarError, match="rule 7"):
        checker.end()


@pytest.mark.parametrize(
    ("parts", "form"),
    [
        ([], pb.CONTENT_FORM_NULL),
        ([pb.Part(tool_call=pb.ToolCall(id="c"))], pb.CONTENT_FORM_NULL),
        ([pb.Part(refusal=pb.RefusalPart(text="no"))], pb.CONTENT_FORM_NULL),
        ([pb.Part(text=pb.TextPart())], pb.CONTENT_FORM_STRING),
        ([pb.Part(reasoning=pb.ReasoningPart()), pb.Part(text=pb.TextPart(text="a"))], pb.CONTENT_FORM_STRING),
        ([pb.Part(text=pb.TextPart()), pb.Part(text=pb.TextPart())], pb.CONTENT_FORM_LIST),
        ([pb.Part(refusal=pb.RefusalPart(text="no", in_content=True))], pb.CONTENT_FORM_LIST),
        ([pb.Part(image=pb.ImagePart(url="u"))], pb.CONTENT_FORM_LIST),
    ],
)
def test_content_form_follows_from_the_parts(parts: list[pb.Part], form: pb.ContentForm.ValueType) -> None:
    assert content_form_of(parts) == form


MERGED = '{"b":12345678901234567890,"a":{"z":1,"y":2},"c":null}'


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("", "", ""),
        ('{ "a": 1.0 }', "", '{ "a": 1.0 }'),
        ("", '{"a":1e3}', '{"a":1e3}'),
        ('{"b":1.0,"a":{"z":1,"y":2}}', '{"c":null,"b":12345678901234567890}', MERGED),
    ],
)
def test_merging_members_keeps_values_verbatim(first: str, second: str, merged: str) -> None:
    assert merge_json(first, second) == merged
