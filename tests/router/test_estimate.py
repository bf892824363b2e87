"""The estimate of tokens: its rule, and how far it is off on recorded answers."""

from __future__ import annotations

import timeit

import pytest

from services.router.estimate import estimate_input, estimate_output, tokens_of_bytes
from tests.router.scripted import make_chat
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_pb2 import (
    AudioPart,
    Chat,
    ChatReply,
    Choice,
    FunctionTool,
    ImagePart,
    JsonSchemaFormat,
    Message,
    Part,
    ReasoningPart,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)

OPENING = 3 + 4


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        (Part(text=TextPart(text="x" * 40)), 10),
        (Part(text=TextPart(text="x")), 1),
        (Part(text=TextPart(text="日本語の")), 3),
        (Part(image=ImagePart(url="https://example.com/a.png")), 765),
        (Part(image=ImagePart(url="https://example.com/a.png", detail="low")), 85),
        (Part(audio=AudioPart(data=b"....", format="wav")), 1000),
        (Part(tool_call=ToolCall(name="look", arguments_json="{\"a\":1}x")), 16 + 3),
        (Part(reasoning=ReasoningPart(text="x" * 8)), 2),
    ],
)  # fmt: skip
def test_a_part_counts_by_its_kind(part: Part, tokens: int) -> None:
    chat = Chat(model="m", messages=[Message(role=chat_pb2.ROLE_USER, parts=[part])])
    assert estimate_input(chat) == OPENING + tokens


def test_tools_and_schema_count() -> None:
    chat = make_chat(text="")
    chat.tools.append(Tool(function=FunctionTool(name="look", description="d" * 8, parameters_json="p" * 28)))
    chat.tools.append(Tool(opaque_json="x" * 12))
    chat.response_format.CopyFrom(ResponseFormat(json_schema=JsonSchemaFormat(name="four", schema_json="s" * 8)))
    assert estimate_input(chat) == OPENING + 50 + 20 + 10 + 20 + 3 + 3


def test_an_answer_counts_its_words_in_every_choice() -> None:
    parts = [Part(text=TextPart(text="x" * 8)), Part(refusal=RefusalPart(text="x" * 8))]
    choice = Choice(message=Message(role=chat_pb2.ROLE_ASSISTANT, parts=parts))
    assert estimate_output(ChatReply(choices=[choice, choice])) == 8
    assert estimate_output(ChatReply()) == 0


def test_tokens_are_rounded_up() -> None:
    assert [tokens_of_bytes(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_megabyte_is_estimated_in_milliseconds() -> None:
    chat = make_chat(text="日本" * 170_000)
    assert min(timeit.repeat(lambda: estimate_input(chat), number=1, repeat=3)) < 0.02
