"""How a conversation becomes `system` and `messages`."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.dialects.anthropic_rendering import assistant, image, render, say, text, tool, user
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2 as pb

CACHED = '{"cache_control":{"type":"ephemeral"}}'
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}


def system(*content: str | pb.Part, **members: Any) -> pb.Message:
    return say(pb.ROLE_SYSTEM, *content, **members)


def call(call_id: str = "c1", name: str = "f", arguments: str = "{}", **members: Any) -> pb.Part:
    return pb.Part(tool_call=pb.ToolCall(id=call_id, name=name, arguments_json=arguments, **members))


def thought(**members: Any) -> pb.Part:
    return pb.Part(reasoning=pb.ReasoningPart(**members))


def opaque(dialect: str, kind: str, verbatim: str) -> pb.Part:
    return pb.Part(opaque=pb.OpaquePart(dialect=dialect, type=kind, json=verbatim))


SIGNED = thought(text="t", signature="s")


def T(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def use(call_id: str = "c1", name: str = "f", given: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given or {}}


def result(call_id: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, **more}


SYSTEMS: list[tuple[str, list[pb.Message], Any]] = [
    ("one string", [system("a"), user("u")], "a"),
    ("a developer's", [say(pb.ROLE_DEVELOPER, "a"), user("u")], "a"),
    ("a list stays a list", [system(text("a")), user("u")], [T("a")]),
    ("several become blocks", [system("a"), say(pb.ROLE_DEVELOPER, "b"), user("u")], [T("a"), T("b")]),
    ("cache_control of a part", [system(text("a", extra_json=CACHED)), user("u")], [T("a", **EPHEMERAL)]),
    ("cache_control of the message", [system("a", extra_json=CACHED), user("u")], [T("a", **EPHEMERAL)]),
    ("blank ones are left out", [system(" \n"), system("b"), user("u")], "b"),
]


@pytest.mark.parametrize(("messages", "expected"), [pytest.param(m, e, id=name) for name, m, e in SYSTEMS])
def test_the_system_prompt(messages: list[pb.Message], expected: Any) -> None:
    rendered = render(*messages)
    assert rendered.body["system"] == expected
    assert rendered.warned == ()


TURNS: list[tuple[str, list[pb.Message], list[Any]]] = [
    ("strings stay strings", [user("a"), assistant("b"), user("c")], ["a", "b", "c"]),
    ("lists stay lists", [user(text("a"))], [[T("a")]]),
    ("a user's messages become one turn", [user("a"), user("b")], [[T("a"), T("b")]]),
    ("the model's too", [user("a"), assistant("b"), assistant("c"), user("d")], ["a", [T("b"), T("c")], "d"]),
    ("blank text is left out", [user(text("a"), text(" "), text(""))], [[T("a")]]),
    ("a message of nothing is left out", [user("a"), assistant(""), user("b")], [[T("a"), T("b")]]),
    ("a part keeps its cache_control", [user(text("a", extra_json=CACHED))], [[T("a", **EPHEMERAL)]]),
    ("a message's goes to its last block", [user("a", extra_json=CACHED)], [[T("a", **EPHEMERAL)]]),
    (
        "results of parallel calls become one turn, the user's words after them",
        [user("a"), assistant(call("c1"), call("c2")), tool("c1", "1"), tool("c2", "2"), user("b")],
        ["a", [use("c1"), use("c2")], [result("c1", content="1"), result("c2", content="2"), T("b")]],
    ),
    (
        "a caller of OpenAI's JSON, which has no member for it, says that a tool failed",
        [user("a"), assistant(call()), tool("c1", "no", extra_json='{"is_error":true}')],
        ["a", [use()], [result("c1", content="no", is_error=True)]],
    ),
    (
        "results come first even when words were said before them",
        [user("a"), assistant(call()), user("wait"), tool("c1", "1")],
        ["a", [use()], [result("c1", content="1"), T("wait")]],
    ),
    (
        "a failed and an empty result, and one with an image",
        [
            user("a"),
            assistant(call("c1"), call("c2"), call("c3")),
            tool("c1", "no", tool_failed=True),
            tool("c2", "", tool_failed=False, extra_json=CACHED),
            tool("c3", text("see"), image(url="https://h/i.png")),
        ],
        [
            "a",
            [use("c1"), use("c2"), use("c3")],
            [
                result("c1", content="no", is_error=True),
                result("c2", is_error=False, **EPHEMERAL),
                result(
                    "c3", content=[T("see"), {"type": "image", "source": {"type": "url", "url": "https://h/i.png"}}]
                ),
            ],
        ],
    ),
    (
        "the model's blocks keep their order",
        [
            user("a"),
            assistant(SIGNED, text("x"), call(), thought(encrypted="e"), text("y"), call("c2")),
            tool("c1", "1"),
            tool("c2", "2"),
        ],
        [
            "a",
            [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                T("x"),
                use(),
                {"type": "redacted_thinking", "data": "e"},
                T("y"),
                use("c2"),
            ],
            [result("c1", content="1"), result("c2", content="2")],
        ],
    ),
    (
        "no arguments are an empty object",
        [user("a"), assistant(call(arguments=" ")), tool("c1", "1")],
        ["a", [use()], [result("c1", content="1")]],
    ),
    (
        "ids of other providers get characters the API takes",
        [user("a"), assistant(call("functions.f:0")), tool("functions.f:0", "1")],
        ["a", [use("functions_f_0")], [result("functions_f_0", content="1")]],
    ),
    (
        "calls of the old form get ids, which their results name",
        [
            user("a"),
            assistant(call("", is_legacy_function_call=True)),
            say(pb.ROLE_FUNCTION, "1", name="f"),
            assistant(call("", is_legacy_function_call=True)),
            say(pb.ROLE_FUNCTION, "2", name="f"),
        ],
        [
            "a",
            [use("function_1")],
            [result("function_1", content="1")],
            [use("function_2")],
            [result("function_2", content="2")],
        ],
    ),
    (
        "a refusal is what the model said",
        [user("a"), assistant(pb.Part(refusal=pb.RefusalPart(text="No."))), user("b")],
        ["a", [T("No.")], "b"],
    ),
    ("an answer to continue stays last", [user("a"), assistant("The answer is")], ["a", "The answer is"]),
    (
        "blocks of the API itself go verbatim, under both dialects' names",
        [
            user(opaque("openai_chat", "search_result", '{"type":"search_result","n":1.0}')),
            assistant(opaque("anthropic_messages", "new", '{"type":"new","x":1e3}')),
            user("b"),
        ],
        [[{"type": "search_result", "n": 1.0}], [{"type": "new", "x": 1e3}], "b"],
    ),
]


@pytest.mark.parametrize(("messages", "expected"), [pytest.param(m, e, id=name) for name, m, e in TURNS])
def test_the_turns(messages: list[pb.Message], expected: list[Any]) -> None:
    rendered = render(*messages, tools=[pb.Tool(function=pb.FunctionTool(name="f"))])
    assert [turn["content"] for turn in rendered.body["messages"]] == expected
    assert [turn["role"] for turn in rendered.body["messages"]] == ["user", "assistant"] * (len(expected) // 2) + [
        "user"
    ] * (len(expected) % 2)
    assert rendered.warned == ()


def test_arguments_go_in_as_the_model_wrote_them() -> None:
    arguments = '{"z": 1.0, "a": 12345678901234567890, "z2": {"b": 1, "a": 2}}'
    rendered = render(user("a"), assistant(call(arguments=arguments)), tool("c1", "1"))
    assert arguments in rendered.text


@pytest.mark.parametrize("arguments", ["{", "[1]", "null", '"x"', "{'a':1}", '{"a":}'])
def test_arguments_that_are_no_object_are_refused_with_their_place(arguments: str) -> None:
    with pytest.raises(GatewayError) as caught:
        render(user("a"), assistant(call(arguments=arguments)), tool("c1", "1"))
    assert (caught.value.name, caught.value.param) == ("INVALID_REQUEST", "messages[1].tool_calls.function.arguments")


CHANGED: list[tuple[str, list[pb.Message], str, list[Any]]] = [
    (
        "reasoning that was never signed",
        [user("a"), assistant(thought(text="t"), text("x")), user("b")],
        "messages[1].reasoning",
        ["a", [T("x")], "b"],
    ),
    (
        "reasoning sealed by another vendor",
        [user("a"), assistant(thought(encrypted="e", extra_json='{"format":"openai-v1"}'), text("x")), user("b")],
        "messages[1].reasoning",
        ["a", [T("x")], "b"],
    ),
    (
        "a part of another dialect",
        [user(text("a"), opaque("gemini_generate", "x", "{}"))],
        "messages[0].content[1]",
        [[T("a")]],
    ),
    ("a participant's name", [user("a", name="Ann")], "messages[0].name", ["a"]),
    ("a part's unknown member", [user(text("a", extra_json='{"z":1}'))], "messages[0].content[0].z", [[T("a")]]),
    ("blanks at the end of an answer to continue", [user("a"), assistant("So \n")], "messages", ["a", "So"]),
    (
        "a conversation that the assistant opens",
        [assistant("Hello."), user("a")],
        "messages",
        ["(The conversation begins with the assistant.)", "Hello.", "a"],
    ),
    ("nothing but a system message", [system("Say hello.")], "messages", ["Say hello."]),
    (
        "sound the model made",
        [user("a"), assistant(pb.Part(audio=pb.AudioPart(id="x", transcript="la"))), user("b")],
        "messages[1].audio",
        ["a", [T("la")], "b"],
    ),
    (
        "how closely to look at an image",
        [user(image(url="https://h/i.png", detail="low"))],
        "messages[0].content[0].detail",
        [[{"type": "image", "source": {"type": "url", "url": "https://h/i.png"}}]],
    ),
]


@pytest.mark.parametrize(
    ("messages", "param", "expected"), [pytest.param(m, p, e, id=name) for name, m, p, e in CHANGED]
)
def test_what_the_api_would_refuse_is_changed_with_a_warning(
    messages: list[pb.Message], param: str, expected: list[Any]
) -> None:
    rendered = render(*messages)
    assert [turn["content"] for turn in rendered.body["messages"]] == expected
    assert rendered.warned == (param,)


@pytest.mark.parametrize(
    ("messages", "model", "roles", "moved"),
    [
        ([user("a"), system("s")], "claude-opus-4-8", ["user", "system"], False),
        ([user("a"), system("s"), assistant("b")], "claude-opus-5", ["user", "system", "assistant"], False),
        ([user("a"), system("s"), system("t")], "claude-opus-4-8", ["user", "system"], False),
        ([user("a"), system("s")], "claude-sonnet-4-5", ["user"], True),
        ([user("a"), system("s"), user("b")], "claude-opus-4-8", ["user"], True),
        ([user("a"), assistant("b"), system("s"), user("c")], "claude-opus-4-8", ["user", "assistant", "user"], True),
    ],
)
def test_a_system_message_in_between_stays_where_the_model_takes_it(
    messages: list[pb.Message], model: str, roles: list[str], moved: bool
) -> None:
    rendered = render(system("first"), *messages, model=model)
    assert [turn["role"] for turn in rendered.body["messages"]] == roles
    assert bool(rendered.warned) is moved
    assert rendered.body["system"] == ([T("first"), T("s")] if moved else "first")


@pytest.mark.parametrize(
    ("messages", "name", "param"),
    [
        ([user(pb.Part(audio=pb.AudioPart(data=b"x")))], "UNSUPPORTED_FEATURE", "messages[0].content[0]"),
        ([system(image(url="u")), user("a")], "UNSUPPORTED_FEATURE", "messages[0].content[0]"),
        ([user("a"), assistant(call(kind="custom"))], "UNSUPPORTED_FEATURE", "messages[1].tool_calls"),
        ([user("a"), say(pb.ROLE_TOOL, "1")], "INVALID_REQUEST", "messages[1].tool_call_id"),
        ([say(pb.ROLE_UNSPECIFIED, "a")], "INVALID_REQUEST", "messages[0].role"),
        ([user(" ")], "INVALID_REQUEST", "messages"),
        ([user(call())], "INVALID_REQUEST", "messages[0].content[0]"),
        ([user(text("a", extra_json="[1]"))], "INVALID_REQUEST", "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(messages: list[pb.Message], name: str, param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        render(*messages)
    assert (caught.value.name, caught.value.param) == (name, param)


def test_calls_in_the_history_without_tools_get_stand_ins_that_cannot_be_called() -> None:
    rendered = render(user("a"), assistant(call(name="add"), call("c2", name="add")), tool("c1", "1"), tool("c2", "2"))
    assert rendered.body["tools"] == [{"name": "add", "input_schema": {"type": "object", "properties": {}}}]
    assert rendered.body["tool_choice"] == {"type": "none"}
    assert rendered.warned == ("tools",)


_roles = st.sampled_from([pb.ROLE_SYSTEM, pb.ROLE_USER, pb.ROLE_ASSISTANT, pb.ROLE_TOOL, pb.ROLE_FUNCTION])
_said = st.one_of(
    st.builds(text, st.text(max_size=3)),
    st.builds(call, st.sampled_from(["c1", "", "c.2"])),
    st.builds(thought, text=st.text(max_size=2), signature=st.text(max_size=2)),
    st.builds(image, url=st.sampled_from(["https://h/i", "data:image/png;base64,eA=="])),
)
_message = st.builds(lambda role, parts: say(role, *parts, tool_call_id="c1"), _roles, st.lists(_said, max_size=3))


@given(st.lists(_message, min_size=1, max_size=8), st.sampled_from(["claude-sonnet-4-5", "claude-opus-4-8"]))
def test_any_conversation_gives_turns_in_the_apis_order_or_is_refused(messages: list[pb.Message], model: str) -> None:
    try:
        turns = render(*messages, model=model).body["messages"]
    except GatewayError as error:
        refused = error.name
    else:
        refused = ""
        assert turns[0]["role"] == "user"
        assert all(one["role"] != next_["role"] for one, next_ in itertools.pairwise(turns))
        for turn in turns:
            kinds = ["text"] if isinstance(turn["content"], str) else [block["type"] for block in turn["content"]]
            assert kinds
            assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result")
    assert refused in {"", "INVALID_REQUEST", "UNSUPPORTED_FEATURE"}
