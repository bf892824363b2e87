"""What the demo provider answers."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.providers.custom.demo import PROVIDER
from trunkline.errors import FACES, GatewayError, reason_name
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.reply import GrammarChecker, fold

WEATHER = '{"type":"object","properties":{"city":{"type":"string"},"days":{"minimum":2}},"required":["city"]}'


def message(role: pb.Role.ValueType, text: str, **members: Any) -> pb.Message:
    return pb.Message(role=role, parts=[pb.Part(text=pb.TextPart(text=text))], **members)


def chat(text: str = "Hello there, my friend", **members: Any) -> pb.Chat:
    return pb.Chat(messages=[message(pb.ROLE_SYSTEM, "Be kind."), message(pb.ROLE_USER, text)], **members)


def tool(name: str, parameters: str = WEATHER) -> pb.Tool:
    return pb.Tool(function=pb.FunctionTool(name=name, parameters_json=parameters))


def answer(asked: pb.Chat) -> pb.Choice:
    reply = PROVIDER.complete_chat(asked, "echo")
    assert len(reply.choices) == 1
    return reply.choices[0]


def events_of(asked: pb.Chat) -> list[ChatEvent]:
    return [event for step in PROVIDER.stream_chat(asked, "echo") for event in step]


def text_of(choice: pb.Choice) -> str:
    return "".join(part.text.text for part in choice.message.parts)


def test_it_answers_with_the_users_words() -> None:
    reply = PROVIDER.complete_chat(chat(), "echo")
    choice = reply.choices[0]
    assert text_of(choice) == "Hello there, my friend"
    assert (choice.finish_reason, choice.raw_finish_reason) == (pb.FINISH_REASON_STOP, "stop")
    assert (reply.model, reply.system_fingerprint) == ("echo", "demo")
    assert reply.usage.input_tokens == 6
    assert reply.usage.output_tokens == 4
    assert reply.usage.HasField("input_cached_tokens")
    assert (reply.usage.input_cached_tokens, reply.usage.output_reasoning_tokens) == (0, 0)


def test_the_same_question_has_the_same_answer_and_another_one_another_id() -> None:
    one, same, other = (PROVIDER.complete_chat(chat(text), "echo") for text in ("a b", "a b", "a c"))
    assert one == same
    assert one.id != other.id
    assert PROVIDER.complete_chat(chat("a b", seed=7), "echo").choices == one.choices


def test_it_streams_word_by_word() -> None:
    steps = list(PROVIDER.stream_chat(chat("one two  three\n"), "echo"))
    words = [event.text_delta.text for step in steps for event in step if event.HasField("text_delta")]
    assert words == ["one", " two", "  three", "\n"]
    assert sum(event.HasField("text_delta") for event in steps[1]) == 1
    assert steps[0][0].HasField("started")


def test_media_are_named_and_silence_is_greeted() -> None:
    image = pb.Part(image=pb.ImagePart(url="https://h/i.png"))
    seen = pb.Chat(messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text=pb.TextPart(text="See")), image])])
    assert text_of(answer(seen)) == "See [image]"
    assert text_of(answer(pb.Chat())) == "Hello from the demo provider."


def test_it_calls_the_first_tool_with_valid_arguments() -> None:
    choice = answer(chat("Weather?", tools=[tool("get_weather"), tool("get_time")]))
    assert choice.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    (part,) = choice.message.parts
    call = part.tool_call
    assert call.name == "get_weather"
    assert call.id.startswith("call_")
    jsonschema.validate(json.loads(call.arguments_json), json.loads(WEATHER))
    assert choice.message.content_form == pb.CONTENT_FORM_NULL


@pytest.mark.parametrize(
    ("text", "members", "names"),
    [
        ("Ask all of them", {}, ["a", "b"]),
        ("in PARALLEL please", {}, ["a", "b"]),
        ("Ask all of them", {"parallel_tool_calls": False}, ["a"]),
        ("Falling", {}, ["a"]),
        ("x", {"tool_choice": pb.ToolChoice(function_name="b")}, ["b"]),
        ("x", {"tool_choice": pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)}, ["a"]),
        ("x", {"tool_choice": pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)}, []),
    ],
)
def test_which_tools_it_calls(text: str, members: dict[str, Any], names: list[str]) -> None:
    choice = answer(chat(text, tools=[tool("a"), tool("b")], **members))
    calls = [part.tool_call for part in choice.message.parts if part.HasField("tool_call")]
    assert [call.name for call in calls] == names
    assert len({call.id for call in calls}) == len(calls)


def test_tools_of_other_kinds() -> None:
    custom = answer(chat("free text", tools=[pb.Tool(custom_json='{"name":"c"}')])).message.parts[0].tool_call
    assert (custom.name, custom.kind, custom.arguments_json) == ("c", "custom", "free text")
    assert text_of(answer(chat("x", tools=[pb.Tool(opaque_json='{"type":"web_search"}')]))) == "x"
    old = pb.Tool(function=pb.FunctionTool(name="f"), is_legacy_function=True)
    choice = answer(chat("x", tools=[old]))
    assert choice.finish_reason == pb.FINISH_REASON_FUNCTION_CALL
    assert choice.message.parts[0].tool_call.is_legacy_function_call
    assert choice.message.parts[0].tool_call.arguments_json == "{}"


def test_after_the_results_it_answers_in_words_that_quote_them() -> None:
    asked = chat("Weather?", tools=[tool("a"), tool("b")])
    asked.messages.append(answer(asked).message)
    asked.messages.append(message(pb.ROLE_TOOL, "12 degrees", tool_call_id="c1"))
    asked.messages.append(message(pb.ROLE_TOOL, "no wind", tool_call_id="c2", tool_failed=True))
    assert text_of(answer(asked)) == 'The tool answered: "12 degrees". The tool failed with: "no wind".'


def test_json_forms_get_valid_json() -> None:
    schema = pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(name="n", schema_json=WEATHER))
    jsonschema.validate(json.loads(text_of(answer(chat(response_format=schema)))), json.loads(WEATHER))
    some = pb.ResponseFormat(json_object=pb.JsonObjectFormat())
    assert json.loads(text_of(answer(chat("hi", response_format=some)))) == {"echo": "hi"}


@pytest.mark.parametrize(
    ("members", "reasons"),
    [
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_budget_tokens": 10}, True),
        ({"reasoning_effort": "none"}, False),
        ({}, False),
    ],
)
def test_it_reasons_when_asked(members: dict[str, Any], reasons: bool) -> None:
    reply = PROVIDER.complete_chat(chat(**members), "echo")
    first = reply.choices[0].message.parts[0]
    assert first.HasField("reasoning") is reasons
    assert (reply.usage.output_reasoning_tokens > 0) is reasons
    if reasons:
        assert (first.reasoning.text, first.reasoning.signature) == ("The user wrote 4 words.", "demo")
        assert reply.usage.output_tokens == 4 + reply.usage.output_reasoning_tokens


def test_log_probabilities_of_each_word() -> None:
    choice = answer(chat("Gänse fliegen", logprobs=True, top_logprobs=2))
    logprobs = choice.message.parts[0].text.logprobs
    assert choice.has_logprobs
    assert [entry.token for entry in logprobs] == ["Gänse", " fliegen"]
    assert logprobs[0].raw_bytes == "Gänse".encode()
    assert [len(entry.top_logprobs) for entry in logprobs] == [2, 2]
    assert not answer(chat()).has_logprobs


@pytest.mark.parametrize(
    ("members", "text", "finish", "stop"),
    [
        ({"stop": ["friend", "there"]}, "Hello ", pb.FINISH_REASON_STOP, "there"),
        ({"stop": ["absent"]}, "Hello there, my friend", pb.FINISH_REASON_STOP, ""),
        ({"max_tokens": 2}, "Hello there,", pb.FINISH_REASON_LENGTH, ""),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "Hello there,", pb.FINISH_REASON_LENGTH, ""),
        ({"max_tokens": 4}, "Hello there, my friend", pb.FINISH_REASON_STOP, ""),
        ({"max_tokens": 1, "stop": ["friend"]}, "Hello", pb.FINISH_REASON_LENGTH, ""),
        ({"max_tokens": 6, "reasoning_effort": "low"}, "Hello", pb.FINISH_REASON_LENGTH, ""),
    ],
)
def test_stops_and_bounds(members: dict[str, Any], text: str, finish: pb.FinishReason.ValueType, stop: str) -> None:
    choice = answer(chat(**members))
    assert (text_of(choice), choice.finish_reason, choice.stop_sequence) == (text, finish, stop)


def test_several_choices() -> None:
    reply = PROVIDER.complete_chat(chat(n=3), "echo")
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {text_of(choice) for choice in reply.choices} == {"Hello there, my friend"}
    assert reply.usage.output_tokens == 12


def test_it_refuses_when_told_to() -> None:
    choice = answer(chat("Refuse: tell me a secret"))
    assert choice.message.parts[0].refusal.text == "I cannot help with that: tell me a secret"
    assert choice.finish_reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize("reason", sorted(FACES))
def test_it_fails_with_any_reason_it_is_told(reason: int) -> None:
    name = reason_name(next(known for known in FACES if known == reason))
    for ask in (PROVIDER.complete_chat, PROVIDER.stream_chat):
        with pytest.raises(GatewayError) as caught:
            ask(chat(f"error: {name}"), "echo")
        assert caught.value.name == name
        assert (caught.value.retry_after == 2.0) is name.endswith("RATE_LIMITED")


def test_it_fails_in_the_middle_of_its_answer_when_told_to() -> None:
    stream = PROVIDER.stream_chat(chat("error after 2: UPSTREAM_OVERLOADED please"), "echo")
    seen: list[list[ChatEvent]] = []
    with pytest.raises(GatewayError) as caught:
        seen.extend(iter(stream))
    assert caught.value.name == "UPSTREAM_OVERLOADED"
    assert [event.text_delta.text for step in seen for event in step if event.HasField("text_delta")] == [
        "error",
        " after",
    ]


@pytest.mark.parametrize(
    ("asked", "model", "name"),
    [
        (chat(), "other", "MODEL_NOT_FOUND"),
        (chat("error: NO_SUCH"), "echo", "INVALID_REQUEST"),
        (chat(n=129), "echo", "INVALID_REQUEST"),
        (chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)), "echo", "INVALID_REQUEST"),
        (chat(tools=[tool("a")], tool_choice=pb.ToolChoice(function_name="z")), "echo", "INVALID_REQUEST"),
        (chat(tools=[tool("a", "[1]")]), "echo", "INVALID_REQUEST"),
    ],
)
def test_what_is_wrong_is_refused(asked: pb.Chat, model: str, name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        PROVIDER.complete_chat(asked, model)
    assert caught.value.name == name


def test_it_counts_words_and_lists_its_model() -> None:
    assert PROVIDER.count_tokens(chat("one two"), "echo") == 4
    assert PROVIDER.list_models() == ["echo"]
    with pytest.raises(GatewayError):
        PROVIDER.count_tokens(chat(), "other")


_TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(["refuse: x", "all of it", "error after 1: INTERNAL"]))


@given(
    _TEXTS,
    st.booleans(),
    st.sampled_from(["", "low"]),
    st.none() | st.integers(0, 5),
    st.integers(1, 3),
    st.lists(st.sampled_from(["a", " ", "e"]), max_size=2),
    st.booleans(),
)
def test_every_stream_is_grammatical_and_is_what_the_whole_answer_says(
    text: str, tools: bool, effort: str, bound: int | None, n: int, stop: list[str], logprobs: bool
) -> None:
    asked = chat(text, n=n, max_tokens=bound, stop=stop, logprobs=logprobs, reasoning_effort=effort or None)
    if tools:
        asked.tools.extend([tool("a"), tool("b")])
    checker = GrammarChecker()
    try:
        for step in PROVIDER.stream_chat(asked, "echo"):
            for event in step:
                checker.check(event)
    except GatewayError:
        assert text.startswith("error after")
        return
    checker.end()
    assert fold(events_of(asked)) == PROVIDER.complete_chat(asked, "echo")
