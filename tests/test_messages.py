"""The short constructors give the messages that the contract means."""

from __future__ import annotations

import pytest

from trunkline import messages as m
from trunkline.inference.v1 import chat_pb2 as pb


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (m.system("Hi"), pb.ROLE_SYSTEM),
        (m.developer("Hi"), pb.ROLE_DEVELOPER),
        (m.user("Hi"), pb.ROLE_USER),
        (m.assistant("Hi"), pb.ROLE_ASSISTANT),
        (m.tool_result("call_1", "Hi"), pb.ROLE_TOOL),
    ],
)
def test_one_text_is_a_message_with_one_part(message: pb.Message, role: pb.Role.ValueType) -> None:
    assert message.role == role
    assert [part.text.text for part in message.parts] == ["Hi"]
    assert message.content_form == pb.CONTENT_FORM_STRING
    assert message.HasField("tool_call_id") == (role == pb.ROLE_TOOL)


def test_texts_and_parts_keep_their_order() -> None:
    message = m.user("What is", m.image("https://example.com/a.png", detail="low"), m.image(b"\x89", "image/png"), "?")
    assert [part.WhichOneof("part") for part in message.parts] == ["text", "image", "image", "text"]
    assert message.parts[1].image == pb.ImagePart(url="https://example.com/a.png", detail="low")
    assert message.parts[2].image == pb.ImagePart(data=b"\x89", media_type="image/png")
    assert message.content_form == pb.CONTENT_FORM_LIST


def test_a_tools_schema_keeps_its_order_as_object_and_as_text() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    text = '{"type":"object","properties":{"b":{},"a":{}}}'
    for parameters in (schema, text):
        function = m.tool("find", "Finds.", parameters, strict=True).function
        assert function == pb.FunctionTool(name="find", description="Finds.", parameters_json=text, strict=True)
    bare = m.tool("find").function
    assert not bare.HasField("description")
    assert not bare.HasField("strict")
    assert bare.parameters_json == ""


def test_a_chat_takes_settings_and_leaves_the_rest_absent() -> None:
    chat = m.chat("gpt", m.user("Hi"), temperature=0.0, tools=[m.tool("find")])
    assert chat.model == "gpt"
    assert chat.HasField("temperature")
    assert not chat.HasField("top_p")
    assert len(chat.tools) == 1


def test_an_answers_text_is_that_of_the_choice_asked_for() -> None:
    def choice(index: int, *texts: str) -> pb.Choice:
        return pb.Choice(index=index, message=m.assistant(*texts))

    reply = pb.ChatReply(choices=[choice(1, "b"), choice(0, "a", "1")])
    assert m.answer_text(reply) == "a1"
    assert m.answer_text(reply, 1) == "b"
    assert m.answer_text(reply, 2) == ""
