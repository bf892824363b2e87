"""Requests: JSON to Chat and back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.openai_json.recordings import Recording, recordings
from tests.openai_json.strategies import json_values, requests
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.openai_json import decode_chat_request, encode_chat_request

_USER = {"role": "user", "content": "Hi"}
_generous = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def _decode(**members: Any) -> pb.Chat:
    return decode_chat_request(msgspec.json.encode({"model": "m", "messages": [_USER], **members})).chat


def _message(message: dict[str, Any]) -> pb.Message:
    return _decode(messages=[message]).messages[0]


def _wire(chat: pb.Chat, *, stream: bool = False, reasoning_member: str | None = None) -> dict[str, Any]:
    """What an upstream would read."""
    body = encode_chat_request(chat, model=chat.model, stream=stream, reasoning_member=reasoning_member)
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(body))
    return decoded


def _wire_message(message: pb.Message, reasoning_member: str | None = None) -> dict[str, Any]:
    value: dict[str, Any] = _wire(pb.Chat(messages=[message]), reasoning_member=reasoning_member)["messages"][0]
    return value


def _as_sent(body: dict[str, Any]) -> dict[str, Any]:
    """The request that goes upstream for one that came in: equal but for what encode_chat_request documents."""
    sent = dict(body)
    stream = sent.pop("stream", None)
    options = sent.pop("stream_options", None)
    if stream:
        sent["stream"] = True
        sent["stream_options"] = {**(options or {}), "include_usage": True}
    return sent


@_generous
@given(requests)
def test_a_request_survives_the_round_trip(body: dict[str, Any]) -> None:
    decoded = decode_chat_request(msgspec.json.encode(body))
    assert decoded.stream is bool(body.get("stream"))
    assert _wire(decoded.chat, stream=decoded.stream) == _as_sent(body)


@_generous
@given(requests)
def test_a_chat_survives_serialization_and_is_not_changed_by_encoding(body: dict[str, Any]) -> None:
    chat = decode_chat_request(msgspec.json.encode(body)).chat
    before = chat.SerializeToString(deterministic=True)
    _wire(chat)
    assert chat.SerializeToString(deterministic=True) == before
    assert pb.Chat.FromString(before) == chat


@recordings(lambda each: each.request is not None)
def test_a_recorded_request_reaches_the_upstream_unchanged(recording: Recording) -> None:
    assert recording.request is not None
    body = {"model": "m", **recording.request}
    decoded = decode_chat_request(msgspec.json.encode(body))
    assert _wire(decoded.chat, stream=decoded.stream) == _as_sent(body)


def test_documents_keep_key_order_and_number_spelling() -> None:
    parameters = (
        '{"type": "object", "z": 1.0, "a": 1e400, "big": 123456789012345678901234567890, "b": {"y": 1, "x": 2}}'
    )
    body = (
        '{"model":"m","messages":[{"role":"user","content":"Hi"}],'
        f'"tools":[{{"type":"function","function":{{"name":"f","parameters":{parameters}}}}}],'
        f'"response_format":{{"type":"json_schema","json_schema":{{"name":"s","schema":{parameters}}}}},"x_z":{parameters}}}'
    )
    chat = decode_chat_request(body.encode()).chat
    assert chat.tools[0].function.parameters_json == parameters
    assert chat.response_format.json_schema.schema_json == parameters
    sent = msgspec.json.encode(encode_chat_request(chat, model="m", stream=False)).decode()
    assert sent.count(parameters) == 3


def test_settings_are_typed_and_absent_is_not_zero() -> None:
    chat = _decode(temperature=0, n=2, seed=-1, stop="x", logprobs=False, user="", metadata={"b": "1", "a": "2"})
    assert chat.HasField("temperature")
    assert (chat.temperature, chat.n, chat.seed) == (0, 2, -1)
    assert (list(chat.stop), chat.stop_is_string) == (["x"], True)
    assert chat.HasField("logprobs")
    assert chat.HasField("user")
    assert [entry.key for entry in chat.metadata] == ["b", "a"]
    assert not chat.HasField("top_p")
    assert not _decode().ListFields()[2:]


def test_null_means_absent_and_comes_back_as_null() -> None:
    chat = _decode(temperature=None, stop=None, tools=None, stream=None, tool_choice=None)
    assert not chat.HasField("temperature")
    assert json.loads(chat.extra_json) == {"temperature": None, "stop": None, "tools": None, "tool_choice": None}
    assert _wire(chat)["temperature"] is None


def test_vendors_reasoning_requests_stay_untyped() -> None:
    chat = _decode(reasoning={"effort": "low", "max_tokens": 5}, thinking={"type": "enabled", "budget_tokens": 9})
    assert not chat.HasField("reasoning_effort")
    assert not chat.HasField("reasoning_budget_tokens")
    assert set(json.loads(chat.extra_json)) == {"reasoning", "thinking"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)),
        ("auto", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO)),
        ("required", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)),
        ("any", pb.ToolChoice(opaque_json='"any"')),
        ({"type": "function", "function": {"name": "f"}}, pb.ToolChoice(function_name="f")),
        (
            {"type": "custom", "custom": {"name": "f"}},
            pb.ToolChoice(opaque_json='{"type":"custom","custom":{"name":"f"}}'),
        ),
    ],
)
def test_every_form_of_tool_choice_is_read(choice: Any, expected: pb.ToolChoice) -> None:
    assert _decode(tool_choice=choice).tool_choice == expected


def test_the_deprecated_function_forms_are_typed() -> None:
    chat = _decode(functions=[{"name": "f", "parameters": {}}], function_call={"name": "f"})
    assert chat.tools[0].is_legacy_function
    assert chat.tools[0].function.parameters_json == "{}"
    assert chat.tool_choice == pb.ToolChoice(function_name="f", is_legacy_function_call=True)


def test_members_beside_a_typed_response_format_keep_it_typed() -> None:
    chat = _decode(response_format={"type": "json_object", "schema": {"b": 1, "a": 2}})
    assert chat.response_format.HasField("json_object")
    assert _wire(chat)["response_format"] == {"type": "json_object", "schema": {"b": 1, "a": 2}}


def test_a_tool_without_a_type_is_a_function_and_gets_it_spelled_out() -> None:
    chat = _decode(tools=[{"function": {"name": "f"}}])
    assert _wire(chat)["tools"] == [{"type": "function", "function": {"name": "f"}}]


def test_an_assistant_message_that_only_calls_tools_needs_no_content() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = _message({"role": "assistant", "tool_calls": [call]})
    assert message.content_form == pb.CONTENT_FORM_UNSPECIFIED
    assert [part.WhichOneof("part") for part in message.parts] == ["tool_call"]
    assert "content" not in _wire_message(message)


def test_media_travels_undecoded() -> None:
    image, sound, file = "data:image/png;base64,!!!", "bm90IGRlY29kZWQ", "data:application/pdf;base64,JVBERi0="
    content = [
        {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "file", "file": {"file_data": file, "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "JVBERi0=", "filename": "a.pdf"}},
    ]
    parts = _message({"role": "user", "content": content}).parts
    assert (parts[0].image.url, parts[0].image.detail) == (image, "low")
    assert (parts[1].audio.data_base64, parts[1].audio.format) == (sound, "wav")
    assert (parts[2].file.url, parts[2].file.filename) == (file, "a.pdf")
    assert parts[3].file.file_id == "file-1"
    assert parts[4].file.data == b"%PDF-"


def test_unknown_content_parts_are_opaque_and_verbatim() -> None:
    video = {"type": "video_url", "video_url": {"url": "https://a.example/v.mp4"}, "fps": 1}
    part = _message({"role": "user", "content": [video]}).parts[0]
    assert (part.opaque.dialect, part.opaque.type) == ("openai_chat", "video_url")
    assert json.loads(part.opaque.json) == video


def test_parts_follow_the_order_reasoning_content_calls() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = _message(
        {"role": "assistant", "tool_calls": [call], "refusal": "no", "content": "text", "reasoning_content": "why"}
    )
    assert [part.WhichOneof("part") for part in message.parts] == ["reasoning", "text", "refusal", "tool_call"]


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_reasoning_strings_are_parts_that_know_their_member(member: str) -> None:
    message = _message({"role": "assistant", "content": "a", member: "why"})
    assert message.parts[0].reasoning == pb.ReasoningPart(text="why", member=member)
    assert _wire_message(message) == {"role": "assistant", "content": "a", member: "why"}


def test_a_list_of_reasoning_wins_over_the_string_beside_it() -> None:
    details = [
        {"type": "reasoning.summary", "summary": "s", "id": "rs_1", "format": "f", "index": 0},
        {"type": "reasoning.encrypted", "data": "e", "id": "rs_1", "index": 1},
        {"type": "reasoning.text", "text": "t", "signature": "sig", "index": 2},
    ]
    message = _message({"role": "assistant", "content": None, "reasoning": "s", "reasoning_details": details})
    blocks = [part.reasoning for part in message.parts]
    assert [(block.text, block.is_summary, block.encrypted, block.signature) for block in blocks] == [
        ("s", True, "", ""),
        ("", False, "e", ""),
        ("t", False, "", "sig"),
    ]
    assert {block.member for block in blocks} == {"reasoning_details"}
    assert json.loads(message.extra_json) == {"reasoning": "s"}


def test_thinking_blocks_keep_signature_and_redacted_data() -> None:
    blocks = [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}]
    message = _message({"role": "assistant", "content": "a", "thinking_blocks": blocks})
    assert [
        (part.reasoning.text, part.reasoning.signature, part.reasoning.encrypted) for part in message.parts[:2]
    ] == [
        ("t", "s", ""),
        ("", "", "d"),
    ]


def test_a_thought_signature_on_a_call_is_typed_and_one_on_a_message_is_kept() -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": signature}
    message = _message({"role": "assistant", "tool_calls": [call], "extra_content": signature})
    assert message.parts[0].tool_call.signature == "c2ln"
    assert json.loads(message.extra_json) == {"extra_content": signature}
    assert _wire_message(message) == {"role": "assistant", "tool_calls": [call], "extra_content": signature}


# What callers of the gRPC API write, which no JSON is decoded to.


def test_bytes_become_data_urls_and_base64() -> None:
    message = pb.Message(role=pb.ROLE_USER)
    message.parts.add().image.data = b"hi"
    message.parts[0].image.media_type = "image/png"
    message.parts.add().audio.data = b"hi"
    message.parts[1].audio.format = "wav"
    message.parts.add().file.data = b"hi"
    message.parts[2].file.media_type = "application/pdf"
    assert _wire_message(message)["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}},
    ]


def test_a_normal_form_answer_is_flattened_into_this_apis_order() -> None:
    message = pb.Message(role=pb.ROLE_ASSISTANT)
    message.parts.add().reasoning.text = "why"
    message.parts.add().text.text = "one "
    message.parts.add().tool_call.MergeFrom(pb.ToolCall(id="a", name="f", arguments_json="{}"))
    message.parts.add().text.text = "two"
    message.parts.add().opaque.MergeFrom(pb.OpaquePart(dialect="anthropic_messages", type="x", json="{}"))
    assert _wire_message(message) == {
        "role": "assistant",
        "content": "one two",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (None, {}),
        ("reasoning_content", {"reasoning_content": "why"}),
        ("reasoning", {"reasoning": "why"}),
        (
            "reasoning_details",
            {
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "why", "signature": "s"},
                    {"type": "reasoning.encrypted", "data": "e"},
                ]
            },
        ),
        (
            "thinking_blocks",
            {
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "why", "signature": "s"},
                    {"type": "redacted_thinking", "data": "e"},
                ]
            },
        ),
    ],
)
def test_reasoning_of_another_wire_format_goes_where_the_option_says(
    member: str | None, expected: dict[str, Any]
) -> None:
    message = pb.Message(role=pb.ROLE_ASSISTANT, content_form=pb.CONTENT_FORM_STRING)
    message.parts.add().reasoning.MergeFrom(pb.ReasoningPart(text="why", signature="s"))
    message.parts.add().reasoning.MergeFrom(pb.ReasoningPart(encrypted="e"))
    message.parts.add().text.text = "a"
    assert _wire_message(message, member) == {"role": "assistant", "content": "a", **expected}


def test_two_texts_of_a_user_stay_two_parts() -> None:
    message = pb.Message(role=pb.ROLE_USER)
    message.parts.add().text.text = "one"
    message.parts.add().text.text = "two"
    assert _wire_message(message)["content"] == [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


@pytest.mark.parametrize(("budget", "effort"), [(0, "none"), (1024, "low"), (8192, "medium"), (32000, "high")])
def test_a_reasoning_budget_becomes_an_effort(budget: int, effort: str) -> None:
    assert _wire(pb.Chat(reasoning_budget_tokens=budget))["reasoning_effort"] == effort
    said = pb.Chat(reasoning_budget_tokens=budget, reasoning_effort="xhigh")
    assert _wire(said)["reasoning_effort"] == "xhigh"


def test_a_stream_is_always_asked_for_its_usage() -> None:
    chat = _decode(stream=True, stream_options={"include_usage": False, "include_obfuscation": False})
    assert chat.stream_options.include_usage is False
    assert _wire(chat, stream=True)["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert "stream_options" not in _wire(chat)


def test_a_provider_gets_its_own_annotations_back_where_it_had_put_them() -> None:
    sent = {"role": "assistant", "content": "a", "annotations": [], "provider_annotations": [{"type": "file"}]}
    assert _wire_message(_message(sent)) == {"role": "assistant", "content": "a", "annotations": [{"type": "file"}]}


def test_untyped_members_cannot_replace_typed_ones() -> None:
    chat = _decode()
    chat.extra_json = '{"model":"other","messages":[],"stream":true,"x":1}'
    assert _wire(chat) == {"model": "m", "messages": [_USER], "x": 1}


@pytest.mark.parametrize(
    ("chat", "param"),
    [
        (pb.Chat(extra_json="[]"), "extra_json"),
        (pb.Chat(logit_bias_json="{"), "logit_bias_json"),
        (pb.Chat(tools=[pb.Tool(opaque_json="1")]), "tools[0].opaque_json"),
        (
            pb.Chat(tools=[pb.Tool(function=pb.FunctionTool(name="f", parameters_json="[]"))]),
            "tools[0].function.parameters_json",
        ),
        (pb.Chat(messages=[pb.Message()]), "messages[0].role"),
        (
            pb.Chat(messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part(image=pb.ImagePart(data=b"x"))])]),
            "messages[0].parts[0].image.media_type",
        ),
        (pb.Chat(extra_json="[" * 100_000), "extra_json"),
    ],
)
def test_a_grpc_callers_bad_json_is_refused_by_path(chat: pb.Chat, param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        encode_chat_request(chat, model="m", stream=False)
    assert (caught.value.reason, caught.value.param) == (reasons.ERROR_REASON_INVALID_REQUEST, param)


# What is refused.


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b'{"model":"m","x":"\xff"}', "not valid UTF-8"),
        (b'{"model":"m","x":"\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"model":"m","x":"\\ud800"}', "not valid JSON"),
        (b'{"model":"m","x":NaN}', "not valid JSON"),
        (b'{"model":"m","x":Infinity}', "not valid JSON"),
        (b'{"model":"m",}', "not valid JSON"),
        (b'{"model":"m","x":' + b"[" * 101 + b"]" * 101 + b"}", "nests deeper than 100 levels"),
        (b'{"model":"m","x":' + b"[" * 200_000, "nests deeper than 100 levels"),
        (b'{"a":' * 200_000, "nests deeper than 100 levels"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(GatewayError, match=words) as caught:
        decode_chat_request(body)
    assert caught.value.reason == reasons.ERROR_REASON_INVALID_REQUEST
    assert caught.value.face.http_status == 400


_FILE = {"type": "file", "file": {"file_data": "not base64!"}}
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 1}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [_USER, {"role": "user", "content": None}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": ""}, {"type": "image_url", "image_url": {"url": 1}}],
                    }
                ]
            },
            "messages[0].content[1].image_url.url",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0].input_audio.data",
        ),
        ({"messages": [{"role": "user", "content": [_FILE]}]}, "messages[0].content[0].file.file_data"),
        ({"messages": [{"role": "user", "content": "hi", "name": 1}]}, "messages[0].name"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0].function"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{**_CALL, "function": {"name": "f", "arguments": {}}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "assistant", "function_call": "f"}]}, "messages[0].function_call"),
        ({"messages": [{"role": "assistant", "audio": {}}]}, "messages[0].audio.id"),
        ({"messages": [{"role": "assistant", "refusal": 1}]}, "messages[0].refusal"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]}, "tools[0].function.strict"),
        ({"tools": [{"type": "custom", "custom": 1}]}, "tools[0].custom"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": 1}}}, "tool_choice.function.name"),
        ({"function_call": 1}, "function_call"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": 1}}},
            "response_format.json_schema.schema",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"seed": 2**63}, "seed"),
        ({"logprobs": 1}, "logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"stop": 1}, "stop"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"modalities": "text"}, "modalities"),
        ({"audio": {"format": "wav"}}, "audio.voice"),
        ({"audio": {"voice": "alloy"}}, "audio.format"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": []}, "metadata"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
        ({"prediction": "x"}, "prediction"),
        ({"user": 1}, "user"),
        ({"reasoning_effort": {}}, "reasoning_effort"),
    ],
)
def test_a_member_of_the_wrong_type_or_range_is_named(members: dict[str, Any], param: str) -> None:
    body = {"model": "m", "messages": [_USER], **members}
    with pytest.raises(GatewayError) as caught:
        decode_chat_request(json.dumps(body).encode())
    error = caught.value
    assert (error.reason, error.param) == (reasons.ERROR_REASON_INVALID_REQUEST, param)
    assert f"'{param}'" in error.message


def test_a_number_too_large_for_a_double_is_refused_where_it_is_typed() -> None:
    with pytest.raises(GatewayError) as caught:
        decode_chat_request(b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e400}')
    assert caught.value.param == "temperature"


def test_depth_is_counted_outside_of_strings_only() -> None:
    text = '"[[{{' * 40 + '\\"]'
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "x": [[[{"a": {}}]]] * 30}
    assert decode_chat_request(json.dumps(body).encode()).chat.messages[0].parts[0].text.text == text
    assert decode_chat_request(json.dumps(body).encode(), max_depth=6).chat.model == "m"
    with pytest.raises(GatewayError, match="deeper than 5"):
        decode_chat_request(json.dumps(body).encode(), max_depth=5)


def _refused_or_decoded(body: bytes) -> None:
    try:
        chat = decode_chat_request(body).chat
    except GatewayError as error:
        assert error.reason == reasons.ERROR_REASON_INVALID_REQUEST  # noqa: PT017 - either outcome is right
        return
    encode_chat_request(chat, model="m", stream=False)


@_generous
@given(st.binary(max_size=80) | json_values.map(msgspec.json.encode))
def test_arbitrary_bytes_and_json_raise_nothing_but_invalid_request(body: bytes) -> None:
    _refused_or_decoded(body)


@_generous
@given(requests, st.data())
def test_a_request_with_anything_in_any_place_raises_nothing_but_invalid_request(
    body: dict[str, Any], data: st.DataObject
) -> None:
    holder: Any = body
    while isinstance(holder, (dict, list)) and holder:
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        if data.draw(st.booleans()) or not isinstance(holder[key], (dict, list)) or not holder[key]:
            holder[key] = data.draw(json_values)
            break
        holder = holder[key]
    _refused_or_decoded(msgspec.json.encode(body))
