"""Events to a client's chunks: valid by OpenAI's description, and added up rightly by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from tests.openai_json.recordings import Recording, recordings
from tests.openai_spec import validator
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.openai_json import ChunkDecoder, ChunkEncoder, encode_chat_reply
from trunkline.reply import ReplyFolder, fold, unfold

_STARTED = ChatEvent(started=events_pb.Started(id="c1", model="upstream", created_seconds=5))
_USAGE = ChatEvent(
    usage_reported=events_pb.UsageReported(usage=TokenUsage(input_tokens=1, output_tokens=2, total_tokens=3))
)


def _begin(part: pb.Part, number: int = 0, choice: int = 0) -> ChatEvent:
    return ChatEvent(part_started=events_pb.PartStarted(choice=choice, part=number, begin=part))


def _text(text: str, number: int = 0, choice: int = 0, **members: Any) -> ChatEvent:
    return ChatEvent(text_delta=events_pb.TextDelta(choice=choice, part=number, text=text, **members))


def _end(number: int = 0, choice: int = 0) -> ChatEvent:
    return ChatEvent(part_finished=events_pb.PartFinished(choice=choice, part=number))


def _finish(reason: pb.FinishReason.ValueType = pb.FINISH_REASON_STOP, choice: int = 0, raw: str = "") -> ChatEvent:
    finished = events_pb.ChoiceFinished(choice=choice, finish_reason=reason, raw_finish_reason=raw)
    return ChatEvent(choice_finished=finished)


def _extra(scope: events_pb.ExtraScope.ValueType, members: dict[str, Any]) -> ChatEvent:
    report = events_pb.ExtraReported(scope=scope, extra_json=json.dumps(members))
    return ChatEvent(extra_reported=report)


def _chunks(events: Sequence[ChatEvent], *, include_usage: bool = True) -> list[dict[str, Any]]:
    """What a client reads, each chunk of it valid. The events come one by one, as from a slow upstream."""
    encoder = ChunkEncoder(model="asked", include_usage=include_usage, fallback_id="chatcmpl-x", fallback_created=1)
    raw = [chunk for event in events for chunk in encoder.encode([event])] + encoder.end()
    chunks = [json.loads(chunk) for chunk in raw]
    schema = validator("CreateChatCompletionStreamResponse")
    for chunk in chunks:
        schema.validate(chunk)
    return chunks


def _added_up(chunks: Sequence[dict[str, Any]]) -> Any:
    """What OpenAI's own client makes of the chunks."""
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    for chunk in chunks:
        list(state.handle_chunk(ChatCompletionChunk.model_validate(chunk)))
    return state.current_completion_snapshot


def _deltas(chunks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def test_a_text_stream_has_openais_chunks() -> None:
    events = [
        _STARTED,
        _begin(pb.Part(text=pb.TextPart())),
        _text("Hel"),
        _text(""),
        _text("lo"),
        _end(),
        _finish(),
        _USAGE,
    ]
    chunks = _chunks(events)
    constant = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "asked"}

    def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        one = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**constant, "choices": [one], "usage": None}

    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert chunks == [
        choice({"role": "assistant", "content": "", "refusal": None}),
        choice({"content": "Hel"}),
        choice({"content": "lo"}),
        choice({}, "stop"),
        {**constant, "choices": [], "usage": usage},
    ]
    final = _added_up(chunks)
    assert (final.choices[0].message.role, final.choices[0].message.content) == ("assistant", "Hello")
    assert final.usage.total_tokens == 3


def test_without_asking_there_is_no_usage_and_no_chunk_without_choices() -> None:
    chunks = _chunks(
        [_STARTED, _begin(pb.Part(text=pb.TextPart())), _text("a"), _end(), _finish(), _USAGE], include_usage=False
    )
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_usage_that_was_replaced_is_the_one_reported() -> None:
    later = ChatEvent(usage_reported=events_pb.UsageReported(usage=TokenUsage(input_tokens=7)))
    assert _chunks([_STARTED, _finish(), _USAGE, later])[-1]["usage"]["prompt_tokens"] == 7


def test_many_events_at_once_are_the_same_chunks() -> None:
    events = [_STARTED, _begin(pb.Part(text=pb.TextPart())), *[_text("a")] * 5, _end(), _finish()]
    encoder = ChunkEncoder(model="asked", include_usage=True)
    assert [json.loads(chunk) for chunk in encoder.encode(events)] == _chunks(events)


def test_what_the_upstream_lacks_is_filled_in() -> None:
    chunk = _chunks([ChatEvent(started=events_pb.Started()), _finish()])[0]
    assert (chunk["id"], chunk["created"], chunk["model"]) == ("chatcmpl-x", 1, "asked")
    encoder = ChunkEncoder(include_usage=False)
    assert json.loads(encoder.encode([_STARTED, _finish()])[0])["model"] == "upstream"


def test_text_is_escaped() -> None:
    text = 'a "quoted"\n\\ \u2028 é 😀 \x00'
    assert (
        _added_up(_chunks([_STARTED, _begin(pb.Part(text=pb.TextPart())), _text(text), _end(), _finish()]))
        .choices[0]
        .message.content
        == text
    )


def test_parallel_calls_are_numbered_from_zero_whatever_parts_they_are() -> None:
    calls = [
        pb.ToolCall(id="a", name="f"),
        pb.ToolCall(id="b", name="g", signature="c2ln"),
        pb.ToolCall(id="c", name="h"),
    ]
    events = [_STARTED, _begin(pb.Part(text=pb.TextPart()), 0), _text("I call", 0), _end(0)]
    events += [_begin(pb.Part(tool_call=call), 1 + place) for place, call in enumerate(calls)]
    for piece in ('{"x":', "1}"):
        for part in (1, 2):
            delta = events_pb.ToolCallDelta(part=part, arguments_json=piece)
            events.append(ChatEvent(tool_call_delta=delta))
    events += [_end(1), _end(2), _end(3), _finish(pb.FINISH_REASON_TOOL_CALLS)]
    chunks = _chunks(events)
    final = _added_up(chunks).choices[0]
    assert [(call.id, call.type, call.function.name, call.function.arguments) for call in final.message.tool_calls] == [
        ("a", "function", "f", '{"x":1}'),
        ("b", "function", "g", '{"x":1}'),
        ("c", "function", "h", "{}"),
    ]
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls[1].extra_content == {"google": {"thought_signature": "c2ln"}}
    fragments = [call for delta in _deltas(chunks) for call in delta.get("tool_calls", ())]
    assert [("id" in each, "name" in each["function"]) for each in fragments] == [(True, True)] * 3 + [
        (False, False)
    ] * 5


def test_an_answer_of_calls_only_has_null_content() -> None:
    call = pb.Part(tool_call=pb.ToolCall(id="a", name="f", arguments_json="{}"))
    chunks = _chunks([_STARTED, _begin(call), _end(), _finish(pb.FINISH_REASON_TOOL_CALLS)])
    assert _deltas(chunks)[0]["content"] is None
    assert _added_up(chunks).choices[0].message.tool_calls[0].function.arguments == "{}"


def test_a_signature_that_comes_late_follows_its_call() -> None:
    late = ChatEvent(tool_call_delta=events_pb.ToolCallDelta(arguments_json="{}", signature="c2ln"))
    chunks = _chunks([_STARTED, _begin(pb.Part(tool_call=pb.ToolCall(id="a", name="f"))), late, _end(), _finish()])
    call = _added_up(chunks).choices[0].message.tool_calls[0]
    assert (call.function.arguments, call.extra_content["google"]["thought_signature"]) == ("{}", "c2ln")


def test_a_deprecated_call_streams_in_its_own_member() -> None:
    call = pb.Part(tool_call=pb.ToolCall(name="f", is_legacy_function_call=True))
    delta = ChatEvent(tool_call_delta=events_pb.ToolCallDelta(arguments_json="{}"))
    chunks = _chunks([_STARTED, _begin(call), delta, _end(), _finish(pb.FINISH_REASON_FUNCTION_CALL)])
    final = _added_up(chunks).choices[0]
    assert (final.message.function_call.name, final.message.function_call.arguments) == ("f", "{}")
    assert final.finish_reason == "function_call"


def test_refusal_and_logprobs_add_up() -> None:
    token = pb.TokenLogprob(token="a", logprob=-1, raw_bytes=b"a", top_logprobs=[pb.TopLogprob(token="b", logprob=-2)])
    refusal = events_pb.RefusalDelta(part=1, text="no", logprobs=[token])
    events = [_STARTED, _begin(pb.Part(text=pb.TextPart())), _text("a", logprobs=[token]), _text("", logprobs=[token])]
    events += [
        _end(),
        _begin(pb.Part(refusal=pb.RefusalPart()), 1),
        ChatEvent(refusal_delta=refusal),
        _end(1),
        _finish(),
    ]
    final = _added_up(_chunks(events)).choices[0]
    assert (final.message.content, final.message.refusal) == ("a", "no")
    assert [each.token for each in final.logprobs.content] == ["a", "a"]
    assert [each.bytes for each in final.logprobs.refusal] == [[97]]


def _reasoning(*deltas: events_pb.ReasoningDelta, **begin: Any) -> list[ChatEvent]:
    return [
        _STARTED,
        _begin(pb.Part(reasoning=pb.ReasoningPart(**begin))),
        *(ChatEvent(reasoning_delta=delta) for delta in deltas),
        _end(),
        _finish(),
    ]


@pytest.mark.parametrize(
    ("begin", "deltas", "members"),
    [
        pytest.param({}, [{"text": "a"}, {"text": "b"}], {"reasoning_content": "ab"}, id="words"),
        pytest.param(
            {"member": "reasoning"},
            [{"text": "a"}, {"text": "b"}],
            {"reasoning_content": "ab", "reasoning": "ab"},
            id="reasoning",
        ),
        pytest.param(
            {},
            [{"text": "a"}, {"text": "b"}, {"signature": "s1"}, {"signature": "s2"}],
            {
                "reasoning_content": "ab",
                "reasoning_details": [{"type": "reasoning.text", "text": "ab", "signature": "s1s2", "index": 0}],
            },
            id="signed",
        ),
        pytest.param(
            {"encrypted": "e"},
            [],
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "e", "index": 0}]},
            id="redacted",
        ),
        pytest.param(
            {"is_summary": True, "id": "rs"},
            [{"text": "a"}],
            {
                "reasoning_content": "a",
                "reasoning_details": [{"type": "reasoning.summary", "summary": "a", "id": "rs", "index": 0}],
            },
            id="summary",
        ),
        pytest.param(
            {"member": "reasoning_details", "extra_json": '{"format":"f","index":7}', "id": "i"},
            [{"text": "a"}, {"text": "b"}, {"signature": "s"}],
            {
                "reasoning_content": "ab",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "ab", "signature": "s", "format": "f", "id": "i", "index": 0}
                ],
            },
            id="reasoning details",
        ),
        pytest.param(
            {"member": "thinking_blocks"},
            [{"text": "a"}, {"signature": "s"}],
            {
                "reasoning_content": "a",
                "reasoning_details": [{"type": "reasoning.text", "text": "a", "signature": "s", "index": 0}],
                "thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": "s", "index": 0}],
            },
            id="thinking blocks",
        ),
    ],
)
def test_reasoning_adds_up_in_every_member_it_goes_to(
    begin: dict[str, Any], deltas: list[dict[str, Any]], members: dict[str, Any]
) -> None:
    events = _reasoning(*(events_pb.ReasoningDelta(**delta) for delta in deltas), **begin)
    message = _added_up(_chunks(events)).choices[0].message.model_dump()
    assert {name: value for name, value in message.items() if "reason" in name or "think" in name} == members


def test_blocks_of_reasoning_are_numbered_without_a_gap() -> None:
    events = [_STARTED]
    for number in range(4):
        events += [
            _begin(pb.Part(reasoning=pb.ReasoningPart(text="a", signature="s" * (number % 2))), number),
            _end(number),
        ]
    message = _added_up(_chunks([*events, _finish()])).choices[0].message
    assert [each["index"] for each in message.reasoning_details] == [0, 1]
    assert message.reasoning_content == "aaaa"


def test_annotations_come_as_one_list() -> None:
    citation = pb.Annotation(type="url_citation", url="https://a", title="A", start_index=0, end_index=1)
    file = pb.Annotation(type="file", extra_json='{"file":{}}')
    added = [
        ChatEvent(annotation_added=events_pb.AnnotationAdded(annotation=each)) for each in (citation, citation, file)
    ]
    chunks = _chunks(
        [_STARTED, _begin(pb.Part(text=pb.TextPart())), added[0], _text("a"), *added[1:], _end(), _finish()]
    )
    assert sum("annotations" in delta for delta in _deltas(chunks)) == 1
    message = _added_up(chunks).choices[0].message
    assert len(message.annotations) == 2
    assert message.provider_annotations == [{"type": "file", "file": {}}]


def test_audio_adds_up_to_base64() -> None:
    sound = bytes(range(50))
    events = [_STARTED, _begin(pb.Part(audio=pb.AudioPart(id="a1")))]
    for place in range(0, 50, 7):
        delta = events_pb.AudioDelta(data=sound[place : place + 7], transcript="x")
        events.append(ChatEvent(audio_delta=delta))
    events += [ChatEvent(audio_delta=events_pb.AudioDelta(expires_at_seconds=9)), _end(), _finish()]
    audio = _added_up(_chunks(events)).choices[0].message.audio
    assert (audio.id, audio.data, audio.transcript, audio.expires_at) == (
        "a1",
        msgspec.json.decode(msgspec.json.encode(sound)),
        "x" * 8,
        9,
    )


def test_choices_appear_in_order_even_when_a_later_one_speaks_first() -> None:
    events = [_STARTED, _begin(pb.Part(text=pb.TextPart()), 0, 2), _text("c", 0, 2), _end(0, 2), _finish(choice=2)]
    for choice in (0, 1):
        events += [
            _begin(pb.Part(text=pb.TextPart()), 0, choice),
            _text("x", 0, choice),
            _end(0, choice),
            _finish(choice=choice),
        ]
    chunks = _chunks(events)
    assert [choice.message.content for choice in _added_up(chunks).choices] == ["x", "x", "c"]
    assert sum("role" in delta for delta in _deltas(chunks)) == 3


def test_untyped_members_go_back_to_their_scope_once() -> None:
    started = events_pb.Started(id="c1", extra_json='{"provider":"P","id":"x","choices":[]}', service_tier="on_demand")
    started.warnings.add(param="seed", message="dropped")
    events = [
        ChatEvent(started=started),
        _begin(pb.Part(text=pb.TextPart())),
        _text("a"),
        _extra(events_pb.EXTRA_SCOPE_REPLY, {"citations": ["https://a"], "system_fingerprint": "fp", "model": "x"}),
        _extra(events_pb.EXTRA_SCOPE_CHOICE, {"filter": {"a": 1}, "finish_reason": "x"}),
        _extra(events_pb.EXTRA_SCOPE_MESSAGE, {"executed": [{"a": 1}], "token": 5, "content": "x"}),
        _text("b"),
        _text("c"),
        _extra(events_pb.EXTRA_SCOPE_MESSAGE, {"executed": [{"b": 1}], "token": 6}),
        _text("d"),
        _end(),
        _extra(events_pb.EXTRA_SCOPE_CHOICE, {"native": "x"}),
        _finish(raw="eos"),
    ]
    chunks = _chunks(events)
    assert (chunks[0]["provider"], chunks[0]["provider_service_tier"]) == ("P", "on_demand")
    assert chunks[0]["warnings"] == [{"param": "seed", "message": "dropped"}]
    assert (chunks[2]["citations"], chunks[2]["system_fingerprint"]) == (["https://a"], "fp")
    assert chunks[2]["choices"][0]["filter"] == {"a": 1}
    assert chunks[2]["choices"][0]["delta"] == {"content": "b", "executed": [{"a": 1}], "token": 5}
    assert chunks[3]["choices"][0]["delta"] == {"content": "c"}
    assert chunks[4]["choices"][0]["delta"] == {"content": "d"}
    assert (chunks[4]["choices"][0]["executed"], chunks[4]["choices"][0]["token"]) == ([{"b": 1}], 6)
    assert (chunks[5]["choices"][0]["native"], chunks[5]["choices"][0]["native_finish_reason"]) == ("x", "eos")
    assert all("citations" not in chunk for chunk in chunks[3:])
    message = _added_up(chunks).choices[0].message
    assert (message.content, message.token) == ("abcd", 5)


@pytest.mark.parametrize("include_usage", [True, False])
def test_members_that_come_after_the_end_are_not_lost(include_usage: bool) -> None:
    events = [_STARTED, _finish(), _USAGE]
    events += [_extra(events_pb.EXTRA_SCOPE_REPLY, {"timings": 1}), _extra(events_pb.EXTRA_SCOPE_CHOICE, {"late": 2})]
    chunks = _chunks(events, include_usage=include_usage)
    assert sum(chunk.get("timings", 0) for chunk in chunks) == 1
    assert sum(choice.get("late", 0) for chunk in chunks for choice in chunk["choices"]) == 2
    assert sum(choice["finish_reason"] is not None for chunk in chunks for choice in chunk["choices"]) == 1


def test_an_unknown_event_is_ignored() -> None:
    assert _chunks([_STARTED, ChatEvent(), _finish()])[-1]["choices"][0]["finish_reason"] == "stop"


@recordings(lambda each: each.status == 200 and bool(each.frames))
def test_a_recorded_stream_adds_up_to_the_reply_it_folds_to(recording: Recording) -> None:
    decoder, folder, events = ChunkDecoder(), ReplyFolder(), list[ChatEvent]()
    try:
        for frame in recording.frames:
            events += decoder.decode(frame)
        events += decoder.end()
    except GatewayError:
        assert b'"error"' in b"".join(recording.frames)
        return
    for event in events:
        folder.add(event)
    whole = json.loads(encode_chat_reply(folder.reply()))
    streamed = _added_up(_chunks(events)).model_dump()
    assert len(streamed["choices"]) == len(whole["choices"])
    for got, expected in zip(streamed["choices"], whole["choices"], strict=True):
        message, reply = got["message"], expected["message"]
        assert (message["content"] or "") == (reply["content"] or "")
        assert got["finish_reason"] == expected["finish_reason"]
        for member in ("refusal", "reasoning_content", "reasoning"):
            assert message.get(member) == reply.get(member)
        assert _plain_calls(message) == _plain_calls(reply)
        assert (message.get("annotations") or []) == reply["annotations"]
        assert _without_index(message) == _without_index(reply)
    assert (streamed["usage"] or {}).get("total_tokens") == whole.get("usage", {}).get("total_tokens")


def _plain_calls(message: dict[str, Any]) -> list[tuple[str, str, str]]:
    calls = message.get("tool_calls") or ()
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


def _without_index(message: dict[str, Any]) -> list[dict[str, Any]]:
    details = message.get("reasoning_details") or ()
    return [{name: value for name, value in each.items() if name != "index"} for each in details]


_words = st.text(st.characters(codec="utf-8"), max_size=8)
_pieces = _words.filter(bool)
_parts = st.one_of(
    st.builds(lambda text: pb.Part(text=pb.TextPart(text=text)), _words),
    st.builds(lambda text: pb.Part(refusal=pb.RefusalPart(text=text)), _pieces),
    st.builds(
        lambda text, signature, member: pb.Part(
            reasoning=pb.ReasoningPart(text=text, signature=signature, member=member)
        ),
        _pieces,
        _words,
        st.sampled_from(["", "reasoning", "reasoning_content", "reasoning_details", "thinking_blocks"]),
    ),
    st.builds(lambda data: pb.Part(reasoning=pb.ReasoningPart(encrypted=data)), _pieces),
    st.builds(
        lambda call_id, name, arguments: pb.Part(
            tool_call=pb.ToolCall(id=call_id, name=name, kind="function", arguments_json=arguments)
        ),
        _pieces.filter(lambda call_id: call_id != "null"),
        _pieces,
        _pieces,
    ),
)


def _unique_ids(parts: list[pb.Part]) -> list[pb.Part]:
    for number, part in enumerate(parts):
        if part.tool_call.id:
            part.tool_call.id += str(number)
    return parts


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(_parts, max_size=5), min_size=1, max_size=2))
def test_events_mean_the_same_after_the_round_trip(choices: list[list[pb.Part]]) -> None:
    reply = pb.ChatReply(id="c", model="m", created_seconds=5)
    for index, parts in enumerate(choices):
        message = pb.Message(role=pb.ROLE_ASSISTANT, parts=_unique_ids(parts))
        reply.choices.add(index=index, message=message, finish_reason=pb.FINISH_REASON_STOP, raw_finish_reason="stop")
    reply.usage.MergeFrom(TokenUsage(input_tokens=3, output_tokens=4, total_tokens=7))
    events = list(unfold(reply))
    chunks = _chunks(events)
    _added_up(chunks)
    decoder = ChunkDecoder()
    decoded = [event for chunk in chunks for event in decoder.decode(msgspec.json.encode(chunk))]
    again = fold([*decoded, *decoder.decode(b"[DONE]")])
    assert _said(again) == _said(fold(events))
    assert again.usage.total_tokens == 7


def _said(reply: pb.ChatReply) -> list[tuple[Any, ...]]:
    """What a reply says, whatever the order of its kinds."""
    said: list[tuple[Any, ...]] = []
    for choice in reply.choices:
        parts = choice.message.parts
        calls = [(part.tool_call.id, part.tool_call.name, part.tool_call.arguments_json) for part in parts]
        said.append(
            (
                *("".join(getattr(part, kind).text for part in parts) for kind in ("text", "refusal")),
                [call for call in calls if call[0]],
                choice.finish_reason,
            )
        )
    return said
