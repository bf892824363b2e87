"""Replies: an upstream's JSON to ChatReply, and ChatReply to what clients get."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.openai_json.recordings import Recording, recordings
from tests.openai_json.strategies import json_objects, json_values
from tests.openai_spec import validator
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.openai_json import decode_chat_reply, encode_chat_reply

_STRICT_MODEL = "gpt-test"


def _body(message: dict[str, Any], choice: dict[str, Any] | None = None, **members: Any) -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": "stop", **(choice or {})}]
    return msgspec.json.encode(
        {"id": "c1", "object": "chat.completion", "created": 5, "model": "m", "choices": choices, **members}
    )


def _decode(message: dict[str, Any], choice: dict[str, Any] | None = None, **members: Any) -> pb.ChatReply:
    return decode_chat_reply(_body(message, choice, **members))


def _encode(reply: pb.ChatReply) -> dict[str, Any]:
    """What a client reads, which is always valid."""
    value: dict[str, Any] = json.loads(encode_chat_reply(reply))
    return value


def _kinds(reply: pb.ChatReply) -> list[str | None]:
    return [part.WhichOneof("part") for part in reply.choices[0].message.parts]


def test_openais_own_reply_comes_back_as_it_was() -> None:
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1750000000,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi",
                    "refusal": None,
                    "annotations": [
                        {
                            "type": "url_citation",
                            "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 2},
                        }
                    ],
                },
                "logprobs": {
                    "content": [
                        {
                            "token": "Hi",
                            "logprob": -0.5,
                            "bytes": [72, 105],
                            "top_logprobs": [{"token": "Hi", "logprob": -0.5, "bytes": None}],
                        }
                    ],
                    "refusal": None,
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "service_tier": "default",
        "system_fingerprint": "fp",
    }
    reply = decode_chat_reply(msgspec.json.encode(body))
    assert reply.choices[0].message.parts[0].text.logprobs[0].raw_bytes == b"Hi"
    assert _encode(reply) == body
    validator("CreateChatCompletionResponse").validate(_encode(reply))


@pytest.mark.parametrize(
    ("message", "kinds"),
    [
        ({"content": "a"}, ["text"]),
        ({"content": ""}, ["text"]),
        ({"content": None}, []),
        ({}, []),
        ({"content": {"name": "Emily"}}, ["text"]),
        ({"content": [{"type": "text", "text": "a"}, "b"]}, ["text", "text"]),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"type": "reference"}]},
            ["reasoning", "opaque"],
        ),
        ({"content": "a", "reasoning_content": "r", "reasoning": "r"}, ["reasoning", "text"]),
        ({"content": "a", "reasoning_content": "", "reasoning": None, "reasoning_details": []}, ["text"]),
        ({"content": None, "refusal": "no"}, ["refusal"]),
        ({"content": "a", "refusal": ""}, ["text"]),
        ({"content": "a", "tool_calls": None}, ["text"]),
        ({"content": "a", "tool_calls": []}, ["text"]),
        ({"content": "", "function_call": {"name": "", "arguments": ""}}, ["text"]),
        ({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, ["tool_call"]),
        ({"content": None, "audio": {"id": "a", "data": "aGk=", "transcript": "hi", "expires_at": 9}}, ["audio"]),
    ],
)
def test_every_shape_of_message_is_read_and_answered_validly(message: dict[str, Any], kinds: list[str]) -> None:
    reply = _decode(message)
    assert _kinds(reply) == kinds
    validator("CreateChatCompletionResponse").validate(_encode(reply))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}, ("a", '{"x": 1}')),
        ({"id": "a", "index": 3, "function": {"name": "f", "arguments": {"x": 1}}}, ("a", '{"x":1}')),
        ({"id": "a", "function": {"name": "f", "arguments": None}}, ("a", "{}")),
        ({"id": "a", "function": {"name": "f"}}, ("a", "{}")),
        ({"id": "a", "function": {"name": "f", "arguments": ""}}, ("a", "{}")),
        ({"id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}, ("a", "")),
    ],
)
def test_every_shape_of_tool_call_is_read(call: dict[str, Any], expected: tuple[str, str]) -> None:
    decoded = _decode({"content": None, "tool_calls": [call]}).choices[0].message.parts[0].tool_call
    assert (decoded.id, decoded.arguments_json) == expected
    assert decoded.name == "f"


@pytest.mark.parametrize("missing", [{}, {"id": ""}, {"id": None}, {"id": "null"}])
def test_calls_without_an_id_get_one_that_follows_from_their_place(missing: dict[str, Any]) -> None:
    calls = [{**missing, "function": {"name": "f", "arguments": "{}"}} for _ in range(2)]
    body = _body({"content": None, "tool_calls": calls})
    first, second = (part.tool_call.id for part in decode_chat_reply(body).choices[0].message.parts)
    assert first != second
    assert [part.tool_call.id for part in decode_chat_reply(body).choices[0].message.parts] == [first, second]
    minted = decode_chat_reply(body, mint=lambda reply_id, choice, position: f"{reply_id}.{choice}.{position}")
    assert [part.tool_call.id for part in minted.choices[0].message.parts] == ["c1.0.0", "c1.0.1"]


def test_signatures_and_foreign_members_of_a_call_come_back() -> None:
    call = {
        "id": "a",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "c2ln"}},
        "x": [1],
    }
    reply = _decode({"content": None, "tool_calls": [call]})
    assert reply.choices[0].message.parts[0].tool_call.signature == "c2ln"
    assert _encode(reply)["choices"][0]["message"]["tool_calls"] == [call]


def test_members_nobody_knows_come_back_where_they_were() -> None:
    reply = _decode(
        {"content": "a", "executed_tools": [1], "reasoning_encrypted": False},
        {"content_filter_results": {"hate": {"filtered": False}}, "seed": 7},
        provider="p",
        citations=["https://a"],
        x_groq={"id": "req"},
    )
    value = _encode(reply)
    choice = value["choices"][0]
    assert choice["message"]["executed_tools"] == [1]
    assert choice["message"]["reasoning_encrypted"] is False
    assert choice["content_filter_results"] == {"hate": {"filtered": False}}
    assert choice["seed"] == 7
    assert (value["provider"], value["citations"], value["x_groq"]) == ("p", ["https://a"], {"id": "req"})


@pytest.mark.parametrize(
    ("word", "reason", "answered"),
    [
        ("stop", pb.FINISH_REASON_STOP, "stop"),
        ("eos", pb.FINISH_REASON_STOP, "stop"),
        ("length", pb.FINISH_REASON_LENGTH, "length"),
        ("model_length", pb.FINISH_REASON_LENGTH, "length"),
        ("max_tokens", pb.FINISH_REASON_LENGTH, "length"),
        ("tool_calls", pb.FINISH_REASON_TOOL_CALLS, "tool_calls"),
        ("content_filter", pb.FINISH_REASON_CONTENT_FILTER, "content_filter"),
        ("function_call", pb.FINISH_REASON_FUNCTION_CALL, "function_call"),
        ("a_newer_word", pb.FINISH_REASON_UNSPECIFIED, "stop"),
        ("", pb.FINISH_REASON_UNSPECIFIED, "stop"),
        (None, pb.FINISH_REASON_UNSPECIFIED, "stop"),
    ],
)
def test_finish_reasons_are_openais_and_the_providers_word_is_kept(
    word: str | None, reason: pb.FinishReason.ValueType, answered: str
) -> None:
    reply = _decode({"content": "a"}, {"finish_reason": word})
    assert (reply.choices[0].finish_reason, reply.choices[0].raw_finish_reason) == (reason, word or "")
    choice = _encode(reply)["choices"][0]
    assert choice["finish_reason"] == answered
    assert choice.get("native_finish_reason") == (word if word and word != answered else None)


def test_an_unknown_end_after_tool_calls_is_tool_calls() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    reply = _decode({"content": None, "tool_calls": [call]}, {"finish_reason": None})
    assert _encode(reply)["choices"][0]["finish_reason"] == "tool_calls"


def test_a_tier_of_another_provider_goes_under_another_name() -> None:
    value = _encode(_decode({"content": "a"}, service_tier="on_demand"))
    assert "service_tier" not in value
    assert value["provider_service_tier"] == "on_demand"


def test_annotations_of_another_kind_go_under_another_name() -> None:
    file = {"type": "file", "file": {"hash": "h"}}
    message = _encode(_decode({"content": "a", "annotations": [file]}))["choices"][0]["message"]
    assert (message["annotations"], message["provider_annotations"]) == ([], [file])


def test_logprobs_of_another_shape_are_carried() -> None:
    reply = _decode({"content": "a"}, {"logprobs": {"tokens": ["a"], "token_logprobs": [-0.1]}})
    assert reply.choices[0].has_logprobs
    logprobs = _encode(reply)["choices"][0]["logprobs"]
    assert logprobs == {"content": None, "refusal": None, "tokens": ["a"], "token_logprobs": [-0.1]}


def test_reasoning_goes_to_every_client_and_its_blocks_to_those_who_send_them_back() -> None:
    message = pb.Message(role=pb.ROLE_ASSISTANT)
    message.parts.add().reasoning.MergeFrom(pb.ReasoningPart(text="one ", signature="s"))
    message.parts.add().reasoning.MergeFrom(pb.ReasoningPart(encrypted="e"))
    message.parts.add().text.text = "a"
    encoded = _encode(pb.ChatReply(choices=[pb.Choice(message=message)]))["choices"][0]["message"]
    assert encoded["reasoning_content"] == "one "
    assert encoded["reasoning_details"] == [
        {"type": "reasoning.text", "text": "one ", "signature": "s", "index": 0},
        {"type": "reasoning.encrypted", "data": "e", "index": 1},
    ]


@pytest.mark.parametrize(
    ("message", "members"),
    [
        ({"reasoning_content": "r"}, {"reasoning_content": "r"}),
        ({"reasoning": "r"}, {"reasoning": "r", "reasoning_content": "r"}),
        (
            {
                "reasoning": "r",
                "reasoning_details": [{"type": "reasoning.text", "text": "r", "format": "x", "index": 0}],
            },
            {
                "reasoning": "r",
                "reasoning_content": "r",
                "reasoning_details": [{"type": "reasoning.text", "text": "r", "format": "x", "index": 0}],
            },
        ),
        (
            {"thinking_blocks": [{"type": "thinking", "thinking": "r", "signature": "s"}]},
            {
                "reasoning_content": "r",
                "reasoning_details": [{"type": "reasoning.text", "text": "r", "signature": "s", "index": 0}],
                "thinking_blocks": [{"type": "thinking", "thinking": "r", "signature": "s"}],
            },
        ),
    ],
)
def test_reasoning_is_answered_in_its_own_member_and_in_reasoning_content(
    message: dict[str, Any], members: dict[str, Any]
) -> None:
    encoded = _encode(_decode({"content": "a", **message}))["choices"][0]["message"]
    assert {name: value for name, value in encoded.items() if "reason" in name or "think" in name} == members


def test_what_the_upstream_lacks_is_filled_in_by_the_caller() -> None:
    reply = pb.ChatReply(choices=[pb.Choice(message=pb.Message(role=pb.ROLE_ASSISTANT))])
    value = json.loads(encode_chat_reply(reply, model=_STRICT_MODEL, fallback_id="chatcmpl-x", fallback_created=9))
    assert (value["id"], value["created"], value["model"]) == ("chatcmpl-x", 9, _STRICT_MODEL)
    validator("CreateChatCompletionResponse").validate(value)


def test_warnings_are_told() -> None:
    reply = pb.ChatReply(warnings=[pb.Warning(param="seed", message="not supported")])
    assert _encode(reply)["warnings"] == [{"param": "seed", "message": "not supported"}]


def test_usage_is_found_in_groqs_place_too() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    assert _decode({"content": "a"}, x_groq={"usage": usage}).usage.total_tokens == 12
    assert not _decode({"content": "a"}, usage=None).HasField("usage")


def test_usage_keeps_its_own_text() -> None:
    body = _body({"content": "a"})[:-1] + b',"usage": {"prompt_tokens": 1, "cost": 0.0000036}}'
    assert decode_chat_reply(body).usage.raw_json == '{"prompt_tokens": 1, "cost": 0.0000036}'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "UPSTREAM_MALFORMED_REPLY"),
        (b"<html>", "UPSTREAM_MALFORMED_REPLY"),
        (b"\xff", "UPSTREAM_MALFORMED_REPLY"),
        (b'{"id":"\xff","choices":[]}', "UPSTREAM_MALFORMED_REPLY"),
        (b"[" * 5000, "UPSTREAM_MALFORMED_REPLY"),
        (b"[]", "UPSTREAM_MALFORMED_REPLY"),
        (b"null", "UPSTREAM_MALFORMED_REPLY"),
        (b"{}", "UPSTREAM_MALFORMED_REPLY"),
        (b'{"choices":null}', "UPSTREAM_MALFORMED_REPLY"),
        (b'{"choices":[]}', "UPSTREAM_MALFORMED_REPLY"),
        (b'{"choices":[1]}', "UPSTREAM_MALFORMED_REPLY"),
        (b'{"choices":[{"message":{"tool_calls":[1]}}]}', "UPSTREAM_MALFORMED_REPLY"),
        (b'{"error":{"code":429,"message":"m"}}', "UPSTREAM_RATE_LIMITED"),
        (b'[{"error":{"code":503,"message":"m"}}]', "UPSTREAM_OVERLOADED"),
        (b'{"error":"boom"}', "UPSTREAM_OVERLOADED"),
        (b'{"object":"error","message":"m","type":"BadRequestError","code":400}', "INVALID_REQUEST"),
        (b'{"detail":"m"}', "UPSTREAM_OVERLOADED"),
        (b'{"error":null,"choices":[{"message":{"content":"a"},"finish_reason":"error"}]}', "UPSTREAM_OVERLOADED"),
        (
            b'{"choices":[{"message":{"content":"a"},"finish_reason":"insufficient_system_resource"}]}',
            "UPSTREAM_OVERLOADED",
        ),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, reason: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode_chat_reply(body)
    assert caught.value.name == reason


def test_blank_lines_before_a_reply_are_skipped() -> None:
    assert decode_chat_reply(b"\n\n\n" + _body({"content": "a"})).id == "c1"


@recordings(lambda each: each.status == 200 and not each.frames)
def test_a_recorded_reply_reaches_the_client(recording: Recording) -> None:
    reply = decode_chat_reply(recording.body)
    value = json.loads(encode_chat_reply(reply, fallback_id="chatcmpl-x", fallback_created=1))
    validator("CreateChatCompletionResponse").validate(value)
    recorded = json.loads(recording.body)
    assert len(value["choices"]) == len(recorded["choices"])
    for choice, source in zip(value["choices"], recorded["choices"], strict=True):
        assert _content(choice["message"]) == _content(source["message"])
        assert _calls(choice["message"]) == _calls(source["message"])
        assert source["finish_reason"] in (choice["finish_reason"], choice.get("native_finish_reason"), "")
        text = source["message"].get("reasoning_content") or source["message"].get("reasoning")
        if text:
            assert choice["message"]["reasoning_content"] == text
    if recorded.get("usage"):
        assert value["usage"]["prompt_tokens"] == recorded["usage"]["prompt_tokens"]
        assert value["usage"]["total_tokens"] == recorded["usage"]["total_tokens"]
        assert value["usage"]["prompt_tokens"] + value["usage"]["completion_tokens"] == value["usage"]["total_tokens"]


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, dict):
        return json.dumps(content, separators=(",", ":"))
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def _calls(message: dict[str, Any]) -> list[tuple[str, str]]:
    inner = [call.get("function") or call["custom"] for call in message.get("tool_calls") or ()]
    return [(each["name"], each.get("arguments", each.get("input"))) for each in inner]


_lossy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_message_members = st.sampled_from(
    ["role", "content", "refusal", "annotations", "audio", "tool_calls", "function_call", "reasoning_details", "x"]
)
_choice_members = st.sampled_from(["index", "message", "finish_reason", "logprobs", "delta", "stop_reason"])
_strange_messages = st.dictionaries(_message_members, json_values | st.lists(json_objects, max_size=2), max_size=5)
_strange_choices = st.dictionaries(_choice_members, json_values | _strange_messages, max_size=5)
_strange_replies = st.dictionaries(
    st.sampled_from(["id", "created", "model", "choices", "usage", "service_tier", "error", "x_groq"]),
    json_values | st.lists(_strange_choices, max_size=2) | json_objects,
    max_size=6,
)


@_lossy
@given(st.binary(max_size=50) | _strange_replies.map(msgspec.json.encode))
def test_no_reply_is_too_strange(body: bytes) -> None:
    try:
        reply = decode_chat_reply(body)
    except GatewayError:
        return
    encode_chat_reply(reply)


_words = st.text(st.characters(codec="utf-8"), max_size=8)
_parts = st.one_of(
    st.builds(lambda text: pb.Part(text=pb.TextPart(text=text)), _words),
    st.builds(lambda text: pb.Part(refusal=pb.RefusalPart(text=text)), _words.filter(bool)),
    st.builds(
        lambda text, signature: pb.Part(reasoning=pb.ReasoningPart(text=text, signature=signature)),
        _words.filter(bool),
        _words,
    ),
    st.builds(
        lambda name, arguments: pb.Part(tool_call=pb.ToolCall(id=name, name=name, arguments_json=arguments)),
        _words.filter(lambda name: name not in ("", "null")),
        json_values.map(lambda value: msgspec.json.encode(value).decode()),
    ),
)


@_lossy
@given(st.lists(_parts, max_size=5), st.integers(0, 2**40), st.booleans())
def test_a_reply_means_the_same_after_the_round_trip(parts: list[pb.Part], count: int, has_usage: bool) -> None:
    choice = pb.Choice(finish_reason=pb.FINISH_REASON_STOP, message=pb.Message(role=pb.ROLE_ASSISTANT, parts=parts))
    reply = pb.ChatReply(id="c", model="m", choices=[choice])
    if has_usage:
        reply.usage.MergeFrom(TokenUsage(input_tokens=count, output_tokens=count, input_cached_tokens=0))
    body = encode_chat_reply(reply)
    validator("CreateChatCompletionResponse").validate(json.loads(body))
    decoded = decode_chat_reply(body)
    for kind in ("text", "refusal", "reasoning"):
        texts = [
            "".join(getattr(part, kind).text for part in each.choices[0].message.parts) for each in (reply, decoded)
        ]
        assert texts[0] == texts[1]
    calls = [
        [
            (part.tool_call.id, part.tool_call.arguments_json)
            for part in each.choices[0].message.parts
            if part.tool_call.id
        ]
        for each in (reply, decoded)
    ]
    assert calls[0] == calls[1]
    assert decoded.usage.input_tokens == reply.usage.input_tokens
    assert decoded.choices[0].finish_reason == pb.FINISH_REASON_STOP
