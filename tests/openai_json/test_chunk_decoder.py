"""An upstream's stream of chunks to events: every way of sending one seen in the wild."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.openai_json.recordings import Recording, recordings
from tests.openai_json.strategies import json_objects, json_values
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.openai_json import ChunkDecoder
from trunkline.reply import GrammarChecker, ReplyFolder, fold

_DONE = b"[DONE]"


def _chunk(delta: dict[str, Any] | None = None, index: int = 0, finish: str | None = None, **members: Any) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [choice]}
    return msgspec.json.encode({**chunk, **members})


def _events(frames: Sequence[bytes]) -> list[ChatEvent]:
    decoder = ChunkDecoder()
    events = [event for frame in frames for event in decoder.decode(frame)]
    return events + decoder.end()


def _reply(*frames: bytes) -> pb.ChatReply:
    """The answer of a stream, whose grammar fold checks."""
    return fold(_events(frames))


def _parts(*frames: bytes) -> list[pb.Part]:
    return list(_reply(*frames).choices[0].message.parts)


def _kinds(events: Sequence[ChatEvent]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def _call(
    index: int | None = None, call_id: str | None = None, name: str | None = None, arguments: Any = None
) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    call = {"index": index, "id": call_id, "function": function or None}
    return {key: value for key, value in call.items() if value is not None}


def test_a_plain_stream_is_started_part_deltas_and_finish() -> None:
    events = _events(
        [
            _chunk({"role": "assistant", "content": ""}, service_tier="default", system_fingerprint="fp"),
            _chunk({"content": "Hel"}, service_tier="default", system_fingerprint="fp"),
            _chunk({"content": "lo"}, service_tier="default", system_fingerprint="fp"),
            _chunk({}, finish="stop"),
            _chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
            _DONE,
        ]
    )
    assert _kinds(events) == [
        "started",
        "part_started",
        "text_delta",
        "text_delta",
        "part_finished",
        "choice_finished",
        "usage_reported",
    ]
    started = events[0].started
    assert (started.id, started.model, started.created_seconds) == ("c1", "m", 5)
    assert (started.service_tier, started.system_fingerprint, started.extra_json) == ("default", "fp", "")
    assert [event.text_delta.text for event in events[2:4]] == ["Hel", "lo"]
    assert events[5].choice_finished.raw_finish_reason == "stop"


def test_empty_pieces_are_no_events() -> None:
    events = _events([_chunk({"role": "assistant", "content": ""}), _chunk({"content": ""}, finish="stop"), _DONE])
    assert _kinds(events) == ["started", "choice_finished"]


def test_the_fast_path_and_the_slow_one_give_the_same_events() -> None:
    fast = [_chunk({"content": "a"})] * 3
    slow = [_chunk({"content": "a"}, x=each) for each in range(3)]
    texts = [
        [event.text_delta for event in _events([*frames, _chunk(finish="stop")]) if event.HasField("text_delta")]
        for frames in (fast, slow)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(
            [_chunk(choices=[], id="", model="", object="", created=0, prompt_filter_results=[{"a": 1}])], id="azure"
        ),
        pytest.param([_chunk(choices=[])], id="together warms up"),
        pytest.param([_chunk(choices=None)], id="choices null"),
        pytest.param([_chunk(choices=[{"index": 0, "finish_reason": None}])], id="no delta"),
        pytest.param([_chunk(choices=[{"index": 0, "delta": None}])], id="delta null"),
        pytest.param([_chunk(choices=[{"delta": {"content": None, "role": None, "tool_calls": None}}])], id="nulls"),
        pytest.param([b"", b" \n"], id="empty data"),
        pytest.param([], id="none"),
    ],
)
def test_chunks_without_content_are_tolerated(first: list[bytes]) -> None:
    reply = _reply(*first, _chunk({"content": "a"}), _chunk(finish="stop"), _DONE)
    assert (reply.id, reply.model) == ("c1", "m")
    assert [part.text.text for part in reply.choices[0].message.parts] == ["a"]


def test_azures_filter_results_before_the_answer_belong_to_its_beginning() -> None:
    filters = [{"prompt_index": 0, "content_filter_results": {}}]
    first = _chunk(choices=[], id="", model="", created=0, prompt_filter_results=filters)
    events = _events([first, _chunk({"content": "a"}), _chunk(finish="stop"), _DONE])
    assert json.loads(events[0].started.extra_json) == {"prompt_filter_results": filters}


def test_azures_filter_results_after_the_finish_reason_are_reported() -> None:
    late = {"index": 0, "content_filter_offsets": {"check_offset": 1}, "finish_reason": None}
    reply = _reply(_chunk({"content": "a"}), _chunk(finish="stop"), _chunk(choices=[late]), _DONE)
    assert json.loads(reply.choices[0].extra_json) == {"content_filter_offsets": {"check_offset": 1}}


def test_a_change_of_kind_closes_the_part_before_it() -> None:
    events = _events(
        [
            _chunk({"reasoning_content": "why", "content": None}),
            _chunk({"content": "a"}),
            _chunk({"tool_calls": [_call(0, "i", "f", "{}")]}),
            _chunk({"content": "b"}),
            _chunk(finish="tool_calls"),
        ]
    )
    assert _kinds(events) == [
        "started",
        *("part_started", "reasoning_delta", "part_finished"),
        *("part_started", "text_delta", "part_finished"),
        *("part_started", "tool_call_delta"),
        *("part_started", "text_delta", "part_finished"),
        "part_finished",
        "choice_finished",
    ]
    assert [part.WhichOneof("part") for part in fold(events).choices[0].message.parts] == [
        "reasoning",
        "text",
        "tool_call",
        "text",
    ]


@pytest.mark.parametrize(
    ("frames", "calls"),
    [
        pytest.param(
            [
                [_call(0, "a", "f", "")],
                [_call(0, arguments='{"x":')],
                [_call(0, arguments="1}")],
                [_call(1, "b", "g", "")],
                [_call(1, arguments="{}")],
            ],
            [("a", "f", '{"x":1}'), ("b", "g", "{}")],
            id="openai",
        ),
        pytest.param(
            [[_call(0, "a", "f", "{"), _call(1, "b", "g", "{")], [_call(1, arguments="}"), _call(0, arguments="}")]],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="interleaved",
        ),
        pytest.param(
            [[_call(0, "a", "f", "{}"), _call(0, "b", "g", "{}")]],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="all index 0",
        ),
        pytest.param(
            [[_call(0, "a", "f", "{}")], [_call(0, "b", "g", "{}")]],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="all index 0, a chunk each",
        ),
        pytest.param(
            [[_call(None, "a", "f", "{}"), _call(None, "b", "f", "{}")]],
            [("a", "f", "{}"), ("b", "f", "{}")],
            id="no index",
        ),
        pytest.param(
            [[_call(None, "a", "f", "{")], [_call(None, None, None, "}")], [_call(None, "b", "g", "{}")]],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="no index, in pieces",
        ),
        pytest.param([[_call(5, "a", "f", "{}")]], [("a", "f", "{}")], id="index from 5"),
        pytest.param([[_call(0, "a", "f", {"x": 1})]], [("a", "f", '{"x":1}')], id="arguments an object"),
        pytest.param([[_call(0, "a", "f")]], [("a", "f", "{}")], id="no arguments"),
        pytest.param([[_call(0, "a", "f", "")], [_call(0, "", None, "")]], [("a", "f", "{}")], id="empty arguments"),
        pytest.param(
            [[_call(0, "a", "f", "{")], [_call(0, "a", "f", "}")]], [("a", "f", "{}")], id="id and name repeated"
        ),
        pytest.param(
            [[_call(0, "a", "f", "{")], [_call(0, "b", None, "}")]], [("a", "f", "{}")], id="a new id each time"
        ),
        pytest.param([[_call(0, "a", "f", "{")], [_call(0, None, "f", "}")]], [("a", "f", "{}")], id="name repeated"),
        pytest.param([[_call(0, "a")], [_call(0, None, "f", "{}")]], [("a", "f", "{}")], id="name after id"),
        pytest.param([[_call(0, "a", "f")], [_call(0, None, None, "{}")]], [("a", "f", "{}")], id="hugging face"),
    ],
)
def test_every_way_of_sending_tool_calls(frames: list[list[dict[str, Any]]], calls: list[tuple[str, str, str]]) -> None:
    parts = _parts(*(_chunk({"tool_calls": each}) for each in frames), _chunk(finish="tool_calls"), _DONE)
    assert [(part.tool_call.id, part.tool_call.name, part.tool_call.arguments_json) for part in parts] == calls


@pytest.mark.parametrize("call_id", [None, "", "null"])
def test_whole_calls_without_ids_are_told_apart_and_get_ids(call_id: str | None) -> None:
    first, second = _call(0, call_id, "f", "{}"), _call(0, call_id, "f", '{"x":1}')
    for frames in ([[first, second]], [[first], [second]]):
        parts = _parts(*(_chunk({"tool_calls": each}) for each in frames), _chunk(finish="tool_calls"))
        assert [part.tool_call.arguments_json for part in parts] == ["{}", '{"x":1}']
        ids = [part.tool_call.id for part in parts]
        assert len(set(ids)) == 2
        assert all(each.startswith("call_") for each in ids)


def test_ids_are_made_by_the_given_function() -> None:
    decoder = ChunkDecoder(mint=lambda reply_id, choice, position: f"{reply_id}.{choice}.{position}")
    events = decoder.decode(_chunk({"tool_calls": [_call(0, None, "f", "{}")]}))
    assert events[1].part_started.begin.tool_call.id == "c1.0.0"


def test_a_custom_tools_input_streams_like_arguments() -> None:
    begin = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "math", "input": ""}}
    more = {"index": 0, "custom": {"input": "4 + 4"}}
    parts = _parts(_chunk({"tool_calls": [begin]}), _chunk({"tool_calls": [more]}), _chunk(finish="tool_calls"))
    call = parts[0].tool_call
    assert (call.kind, call.name, call.arguments_json) == ("custom", "math", "4 + 4")


def test_the_deprecated_function_call_is_a_call_without_an_id() -> None:
    parts = _parts(
        _chunk({"function_call": {"name": "f", "arguments": ""}}),
        _chunk({"function_call": {"arguments": "{"}}),
        _chunk({"function_call": {"arguments": "}"}}),
        _chunk(finish="function_call"),
    )
    call = parts[0].tool_call
    assert (call.id, call.name, call.arguments_json, call.is_legacy_function_call) == ("", "f", "{}", True)
    assert _parts(_chunk({"content": "a", "function_call": {"name": "", "arguments": ""}}), _DONE)[1:] == []


def test_a_thought_signature_is_typed_when_it_comes_and_when_it_comes_late() -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    early = _parts(_chunk({"tool_calls": [{**_call(0, "a", "f", "{}"), "extra_content": signature}]}), _DONE)
    late = _parts(
        _chunk({"tool_calls": [_call(0, "a", "f", "{}")]}),
        _chunk({"tool_calls": [{"index": 0, "extra_content": signature}]}),
        _DONE,
    )
    assert early[0].tool_call.signature == late[0].tool_call.signature == "c2ln"


@pytest.mark.parametrize(
    ("deltas", "blocks"),
    [
        pytest.param(
            [{"reasoning_content": "a"}, {"reasoning_content": "b"}],
            [pb.ReasoningPart(text="ab", member="reasoning_content")],
            id="deepseek",
        ),
        pytest.param(
            [{"reasoning": "a"}, {"reasoning": "b"}], [pb.ReasoningPart(text="ab", member="reasoning")], id="groq"
        ),
        pytest.param(
            [{"reasoning": "a", "reasoning_content": "a"}],
            [pb.ReasoningPart(text="a", member="reasoning_content")],
            id="both strings",
        ),
        pytest.param(
            [
                {
                    "reasoning": "a",
                    "reasoning_details": [{"type": "reasoning.text", "text": "a", "format": "f", "index": 0}],
                },
                {
                    "reasoning": "b",
                    "reasoning_details": [{"type": "reasoning.text", "text": "b", "format": "f", "index": 0}],
                },
                {"reasoning_details": [{"type": "reasoning.text", "signature": "s", "format": "f", "index": 0}]},
            ],
            [
                pb.ReasoningPart(
                    text="ab", signature="s", member="reasoning_details", extra_json='{"format":"f","index":0}'
                )
            ],
            id="openrouter",
        ),
        pytest.param(
            [
                {"reasoning_details": [{"type": "reasoning.summary", "summary": "a", "id": "rs", "index": 0}]},
                {"reasoning_details": [{"type": "reasoning.encrypted", "data": "e", "id": "rs", "index": 0}]},
            ],
            [
                pb.ReasoningPart(
                    text="a", is_summary=True, id="rs", member="reasoning_details", extra_json='{"index":0}'
                ),
                pb.ReasoningPart(encrypted="e", id="rs", member="reasoning_details", extra_json='{"index":0}'),
            ],
            id="summary and encrypted",
        ),
        pytest.param(
            [
                {"reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0}]},
                {"reasoning_details": [{"type": "reasoning.text", "text": "b", "index": 1}]},
            ],
            [
                pb.ReasoningPart(text="a", member="reasoning_details", extra_json='{"index":0}'),
                pb.ReasoningPart(text="b", member="reasoning_details", extra_json='{"index":1}'),
            ],
            id="two blocks",
        ),
        pytest.param(
            [
                {"reasoning_content": "a", "thinking_blocks": [{"type": "thinking", "thinking": "a"}]},
                {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]},
            ],
            [pb.ReasoningPart(text="a", signature="s", member="thinking_blocks")],
            id="thinking blocks",
        ),
        pytest.param(
            [
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]},
                {"content": [{"type": "thinking", "thinking": []}]},
                {"content": [{"type": "thinking", "thinking": "b"}]},
            ],
            [pb.ReasoningPart(text="ab")],
            id="mistral",
        ),
    ],
)
def test_every_way_of_sending_reasoning(deltas: list[dict[str, Any]], blocks: list[pb.ReasoningPart]) -> None:
    parts = _parts(*(_chunk(delta) for delta in deltas), _chunk({"content": "x"}), _chunk(finish="stop"))
    assert [part.reasoning for part in parts if part.WhichOneof("part") == "reasoning"] == blocks
    assert parts[-1].text.text == "x"


def test_content_lists_give_text_and_opaque_parts() -> None:
    content = [
        {"type": "text", "text": "a"},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "b"},
    ]
    parts = _parts(_chunk({"content": content}), _chunk(finish="stop"))
    assert [part.WhichOneof("part") for part in parts] == ["text", "opaque", "text"]
    assert json.loads(parts[1].opaque.json) == {"type": "reference", "reference_ids": [1]}


def test_refusal_annotations_and_logprobs_are_typed() -> None:
    token = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    citation = {
        "type": "url_citation",
        "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 1},
    }
    reply = _reply(
        _chunk(choices=[{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token], "refusal": None}}]),
        _chunk(choices=[{"index": 0, "delta": {"content": ""}, "logprobs": {"content": [token]}}]),
        _chunk({"annotations": [citation]}),
        _chunk(choices=[{"index": 0, "delta": {"refusal": "no"}, "logprobs": {"refusal": [token]}}]),
        _chunk(finish="stop"),
    )
    text, refusal = reply.choices[0].message.parts
    assert [each.token for each in text.text.logprobs] == ["a", "a"]
    assert text.text.annotations[0].url == "https://a"
    assert (refusal.refusal.text, len(refusal.refusal.logprobs)) == ("no", 1)
    assert reply.choices[0].has_logprobs


def test_logprobs_that_belong_to_no_text_are_carried() -> None:
    token = {"token": "{", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    delta = {"tool_calls": [_call(0, "a", "f", "{}")]}
    reply = _reply(_chunk(choices=[{"index": 0, "delta": delta, "logprobs": {"content": [token]}}]), _DONE)
    assert json.loads(reply.choices[0].extra_json) == {"other_logprobs": {"content": [token]}}


def test_audio_is_decoded_over_any_split_of_its_base64() -> None:
    sound = bytes(range(50))
    encoded = msgspec.json.decode(msgspec.json.encode(sound))
    for step in (1, 3, 4, 7, 100):
        pieces = [encoded[place : place + step] for place in range(0, len(encoded), step)]
        reply = _reply(
            _chunk({"audio": {"id": "a1", "transcript": "he"}}),
            *(_chunk({"audio": {"data": piece}}) for piece in pieces),
            _chunk({"audio": {"transcript": "y"}}),
            _chunk({"audio": {"expires_at": 9}}),
            _chunk(finish="stop"),
        )
        audio = reply.choices[0].message.parts[0].audio
        assert (audio.id, audio.data, audio.transcript, audio.expires_at_seconds) == ("a1", sound, "hey", 9)


def test_choices_interleave() -> None:
    reply = _reply(
        _chunk({"content": "a"}, 0),
        _chunk({"content": "x"}, 1),
        _chunk({"content": "b"}, 0),
        _chunk({}, 1, finish="length"),
        _chunk({"content": "c"}, 0),
        _chunk({}, 0, finish="stop"),
        _DONE,
    )
    assert [choice.message.parts[0].text.text for choice in reply.choices] == ["abc", "x"]
    assert [choice.raw_finish_reason for choice in reply.choices] == ["stop", "length"]


def test_usage_is_reported_once_however_often_it_comes() -> None:
    counts = [{"prompt_tokens": 5, "completion_tokens": each, "total_tokens": 5 + each} for each in (1, 2, 3)]
    events = _events([*(_chunk({"content": "a"}, usage=each) for each in counts), _chunk(finish="stop"), _DONE])
    reported = [event.usage_reported.usage for event in events if event.HasField("usage_reported")]
    assert [usage.output_tokens for usage in reported] == [3]
    assert reported[0].raw_json == '{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}'


@pytest.mark.parametrize(
    "last",
    [
        pytest.param([_chunk(finish="stop", usage={"total_tokens": 8})], id="with the finish reason"),
        pytest.param([_chunk(finish="stop"), _chunk(choices=[], usage={"total_tokens": 8})], id="alone"),
        pytest.param([_chunk(finish="stop", x_groq={"id": "r", "usage": {"total_tokens": 8}})], id="groq"),
        pytest.param([_chunk(finish="stop"), _chunk({"content": ""}, usage={"total_tokens": 8})], id="openrouter"),
        pytest.param(
            [_chunk(finish="stop"), _chunk({"content": ""}, 0, "stop", usage={"total_tokens": 8})], id="again"
        ),
    ],
)
@pytest.mark.parametrize("end", [[_DONE], []])
def test_usage_is_found_in_every_place(last: list[bytes], end: list[bytes]) -> None:
    reply = _reply(_chunk({"content": "a"}), *last, *end)
    assert reply.usage.total_tokens == 8
    assert reply.choices[0].finish_reason == pb.FINISH_REASON_STOP


def test_content_after_a_finish_reason_still_counts_until_the_choice_is_over() -> None:
    reply = _reply(_chunk({"content": "a"}, finish="stop"), _chunk({"content": "b"}, finish="length"), _DONE)
    assert reply.choices[0].message.parts[0].text.text == "ab"
    assert reply.choices[0].raw_finish_reason == "length"


def test_content_after_the_end_of_its_choice_is_malformed() -> None:
    decoder = ChunkDecoder()
    for frame in (_chunk({"content": "a"}, finish="stop"), _chunk(choices=[])):
        decoder.decode(frame)
    assert decoder.decode(_chunk({"role": "assistant", "content": ""}, finish="stop")) == []
    with pytest.raises(GatewayError) as caught:
        decoder.decode(_chunk({"content": "b"}))
    assert caught.value.name == "UPSTREAM_MALFORMED_REPLY"


def test_a_finish_is_announced_as_soon_as_nothing_can_follow() -> None:
    decoder = ChunkDecoder()
    decoder.decode(_chunk({"content": "a"}))
    assert decoder.decode(_chunk(finish="stop")) == []
    assert _kinds(decoder.decode(_chunk(choices=[], usage={"total_tokens": 1}))) == [
        "part_finished",
        "choice_finished",
        "usage_reported",
    ]
    assert decoder.decode(_DONE) == []
    assert decoder.is_complete
    assert decoder.decode(_chunk({"content": "late"})) == []
    assert decoder.end() == []


def test_untyped_members_are_reported_once_for_each_value() -> None:
    def chunk(**members: Any) -> bytes:
        choice = {"index": 0, "delta": {"content": "a", "channel": members.pop("channel")}, "native": None}
        return _chunk(choices=[{**choice, "filter": {"a": 1}}], obfuscation=members["x"], p="abc", **members)

    events = _events([chunk(provider="P", x="1", channel="c"), chunk(provider="P", x="1", channel="c"), _DONE])
    assert json.loads(events[0].started.extra_json) == {"provider": "P", "x": "1"}
    reports = [event.extra_reported for event in events if event.HasField("extra_reported")]
    assert [(report.scope, json.loads(report.extra_json)) for report in reports] == [
        (events_pb.EXTRA_SCOPE_MESSAGE, {"channel": "c"}),
        (events_pb.EXTRA_SCOPE_CHOICE, {"filter": {"a": 1}}),
    ]


def test_a_tier_that_comes_late_is_reported_for_the_reply() -> None:
    reply = _reply(_chunk({"content": "a"}, service_tier=None), _chunk({"content": "b"}, service_tier="flex"), _DONE)
    assert reply.service_tier == "flex"


def test_perplexitys_accumulated_message_and_togethers_text_are_not_content() -> None:
    def frame(text: str, so_far: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "message": {"content": so_far}, "text": text}
        return _chunk(choices=[choice], citations=["https://a"])

    reply = _reply(frame("Par", "Par"), frame("is", "Paris"), _chunk(finish="stop"))
    assert reply.choices[0].message.parts[0].text.text == "Paris"
    assert json.loads(reply.extra_json) == {"citations": ["https://a"]}


def test_a_whole_reply_in_a_frame_is_read() -> None:
    message = {"role": "assistant", "content": "a", "tool_calls": [_call(None, "i", "f", "{}")]}
    whole = _chunk(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}], object="chat.completion")
    assert [part.WhichOneof("part") for part in _parts(whole, _DONE)] == ["text", "tool_call"]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"{", "UPSTREAM_MALFORMED_REPLY"),
        (b"<html>", "UPSTREAM_MALFORMED_REPLY"),
        (b'{"choices":"\xff"}', "UPSTREAM_MALFORMED_REPLY"),
        (b"[" * 5000, "UPSTREAM_MALFORMED_REPLY"),
        (b"1", "UPSTREAM_MALFORMED_REPLY"),
        (b"[]", "UPSTREAM_MALFORMED_REPLY"),
        (_chunk(choices={}), "UPSTREAM_MALFORMED_REPLY"),
        (_chunk(choices=[1]), "UPSTREAM_MALFORMED_REPLY"),
        (_chunk({}, -1), "UPSTREAM_MALFORMED_REPLY"),
        (_chunk({}, 2**31), "UPSTREAM_MALFORMED_REPLY"),
        (_chunk({"tool_calls": {"index": 0}}), "UPSTREAM_MALFORMED_REPLY"),
        (_chunk({"tool_calls": [1]}), "UPSTREAM_MALFORMED_REPLY"),
        (_chunk({"audio": {"data": "a!b?"}}), "UPSTREAM_MALFORMED_REPLY"),
        (b'{"error":{"message":"m","code":502}}', "UPSTREAM_OVERLOADED"),
        (_chunk({"content": "lost"}, finish="error", error={"code": 429, "message": "m"}), "UPSTREAM_RATE_LIMITED"),
        (b'{"object":"error","message":"m","code":400}', "INVALID_REQUEST"),
        (b'[{"error":{"code":503,"message":"m"}}]', "UPSTREAM_OVERLOADED"),
        (b'{"message":"m","code":"context_length_exceeded"}', "CONTEXT_LENGTH_EXCEEDED"),
        (_chunk(x_groq={"id": "r", "error": "boom"}), "UPSTREAM_OVERLOADED"),
        (_chunk(finish="error"), "UPSTREAM_OVERLOADED"),
        (_chunk(finish="insufficient_system_resource"), "UPSTREAM_OVERLOADED"),
    ],
)
def test_an_error_inside_the_stream_is_typed(frame: bytes, reason: str) -> None:
    decoder = ChunkDecoder()
    decoder.decode(_chunk({"content": "a"}))
    with pytest.raises(GatewayError) as caught:
        decoder.decode(frame)
    assert caught.value.name == reason


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([], id="nothing"),
        pytest.param([_DONE], id="only the end"),
        pytest.param([_chunk(choices=[])], id="no choice"),
        pytest.param([_chunk({"content": "a"})], id="cut"),
        pytest.param([_chunk({"content": "a"}), _chunk(choices=[], usage={"total_tokens": 1})], id="cut after usage"),
        pytest.param([_chunk({"content": "a"}, 0, "stop"), _chunk({"content": "a"}, 1)], id="one choice open"),
    ],
)
def test_a_stream_without_its_end_is_truncated(frames: list[bytes]) -> None:
    with pytest.raises(GatewayError) as caught:
        _events(frames)
    assert caught.value.name == "STREAM_TRUNCATED"


def test_an_announced_end_is_an_end_even_without_a_finish_reason() -> None:
    reply = _reply(_chunk({"content": "a"}), _DONE)
    assert reply.choices[0].finish_reason == pb.FINISH_REASON_UNSPECIFIED


def _meaning(frames: Sequence[bytes], index: int) -> tuple[str, str, str, list[str]]:
    """What a recorded stream says in one choice, read naively."""
    content, refusal, reasoning, arguments = "", "", "", list[str]()
    choices = [each for frame in frames if frame != _DONE for each in json.loads(frame).get("choices", ())]
    for delta in (each.get("delta") or {} for each in choices if each.get("index", 0) == index):
        text = delta.get("content") or ""
        for part in text if isinstance(text, list) else ():
            reasoning += "".join(each["text"] for each in part.get("thinking", ()))
            content += part.get("text", "")
        content += text if isinstance(text, str) else ""
        refusal += delta.get("refusal") or ""
        reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
        arguments += [call["function"].get("arguments", "") for call in delta.get("tool_calls") or ()]
    return content, refusal, reasoning, arguments


@recordings(lambda each: each.status == 200 and bool(each.frames))
def test_a_recorded_stream_is_decoded_grammatically(recording: Recording) -> None:
    decoder, checker, folder = ChunkDecoder(), GrammarChecker(), ReplyFolder()
    try:
        for frame in recording.frames:
            for event in decoder.decode(frame):
                checker.check(event)
                folder.add(event)
        for event in decoder.end():
            checker.check(event)
            folder.add(event)
    except GatewayError as error:
        assert b'"error"' in b"".join(recording.frames)
        assert error.name == "INVALID_REQUEST"  # noqa: PT017 - the recording's own error
        return
    checker.end()
    for choice in folder.reply().choices:
        content, refusal, reasoning, arguments = _meaning(recording.frames, choice.index)
        parts = choice.message.parts
        assert "".join(part.text.text for part in parts) == content
        assert "".join(part.refusal.text for part in parts) == refusal
        assert "".join(part.reasoning.text for part in parts) == reasoning
        called = "".join(part.tool_call.arguments_json for part in parts)
        assert called == ("".join(arguments) or "{}" * bool(arguments))


_strange_deltas = st.dictionaries(
    st.sampled_from(
        [
            *("role", "content", "refusal", "tool_calls", "function_call", "audio", "annotations", "x"),
            *("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks"),
        ]
    ),
    json_values | st.lists(json_objects | st.just({"type": "text", "text": "a"}), max_size=2) | json_objects,
    max_size=4,
)
_strange_choices = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(0, 2) | json_values,
        "delta": _strange_deltas | json_values,
        "message": _strange_deltas,
        "finish_reason": st.sampled_from(["stop", "", None]) | json_values,
        "logprobs": json_values,
        "x": json_values,
    },
)
_strange_chunks = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "created": json_values,
        "choices": st.lists(_strange_choices, max_size=2) | json_values,
        "usage": json_objects | json_values,
        "x_groq": json_objects,
        "service_tier": json_values,
        "error": st.none(),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_strange_chunks.map(msgspec.json.encode) | st.binary(max_size=20) | st.just(_DONE), max_size=5))
def test_no_stream_is_too_strange_and_every_one_keeps_the_grammar(frames: list[bytes]) -> None:
    decoder, checker = ChunkDecoder(), GrammarChecker()
    try:
        for frame in frames:
            for event in decoder.decode(frame):
                checker.check(event)
        for event in decoder.end():
            checker.check(event)
    except GatewayError:
        return
    if all(_indices(frame) for frame in frames):
        checker.end()


def _decoded(frames: Sequence[bytes], *, in_full: bool) -> list[ChatEvent | str]:
    """The events of frames, with every chunk read in full or with the short way for those like the one before."""
    decoder, events = ChunkDecoder(), list[ChatEvent | str]()
    try:
        for frame in frames:
            if in_full:
                decoder._last = decoder._shape = None
            events += decoder.decode(frame)
        events += decoder.end()
    except GatewayError as error:
        events.append(error.name)
    return events


@recordings(lambda each: each.status == 200 and bool(each.frames))
def test_the_short_way_gives_the_same_events_for_a_recorded_stream(recording: Recording) -> None:
    assert _decoded(recording.frames, in_full=False) == _decoded(recording.frames, in_full=True)


_steady = st.builds(
    lambda content, extra, tier, finish: _chunk({"content": content}, 0, finish, x=extra, service_tier=tier),
    st.sampled_from(["", "a", None]),
    st.sampled_from([1, 2]),
    st.sampled_from([None, "flex"]),
    st.sampled_from([None, None, None, "stop"]),
)
_others = st.sampled_from(
    [
        _chunk({"reasoning_content": "r"}, x=1),
        _chunk({"tool_calls": [_call(0, "i", "f", "{}")]}, x=1),
        _chunk({"content": "a", "y": 1}, x=1),
        _chunk({"content": "a"}, 1, x=1),
        _chunk(choices=[], usage={"total_tokens": 1}),
        _chunk({"content": "a"}, usage={"total_tokens": 2}, x=1),
    ]
)


@given(st.lists(_steady | _others | _strange_chunks.map(msgspec.json.encode), max_size=8))
def test_the_short_way_gives_the_same_events(frames: list[bytes]) -> None:
    assert _decoded(frames, in_full=False) == _decoded(frames, in_full=True)


def _indices(frame: bytes) -> bool:
    """Whether a frame's choices are all number 0, so that none is left out."""
    try:
        chunk = json.loads(frame)
    except ValueError:
        return True
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    return not isinstance(choices, list) or all(
        isinstance(each, dict) and each.get("index", 0) == 0 for each in choices
    )
