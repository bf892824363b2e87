"""Chats and labels that are refused before anyone is asked, with the member at fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.router.caller_metadata import read_labels
from services.router.validation import check_chat
from tests.router.scripted import make_chat
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_pb2 import Chat, FunctionTool, Message, Part, Tool


def changed(change: Callable[[Chat], object]) -> Chat:
    chat = make_chat()
    change(chat)
    return chat


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (lambda chat: chat.ClearField("model"), "model"),
        (lambda chat: setattr(chat, "model", "x" * 257), "model"),
        (lambda chat: setattr(chat, "model", "a\nb"), "model"),
        (lambda chat: chat.ClearField("messages"), "messages"),
        (lambda chat: chat.messages.append(Message()), "messages[1].role"),
        (lambda chat: chat.messages.append(Message(role=chat_pb2.ROLE_USER, parts=[Part()])), "messages[1].parts[0]"),
        (lambda chat: chat.tools.append(Tool()), "tools[0]"),
        (lambda chat: chat.tools.append(Tool(function=FunctionTool())), "tools[0]"),
        (lambda chat: setattr(chat, "max_tokens", -1), "max_tokens"),
        (lambda chat: setattr(chat, "max_completion_tokens", -1), "max_completion_tokens"),
        (lambda chat: setattr(chat, "reasoning_budget_tokens", -5), "reasoning_budget_tokens"),
        (lambda chat: setattr(chat, "top_logprobs", -1), "top_logprobs"),
        (lambda chat: setattr(chat, "n", 0), "n"),
        (lambda chat: setattr(chat, "n", 129), "n"),
        (lambda chat: setattr(chat, "temperature", -0.1), "temperature"),
        (lambda chat: setattr(chat, "temperature", float("nan")), "temperature"),
        (lambda chat: setattr(chat, "temperature", float("inf")), "temperature"),
        (lambda chat: setattr(chat, "top_p", -1), "top_p"),
        (lambda chat: setattr(chat, "frequency_penalty", float("inf")), "frequency_penalty"),
        (lambda chat: setattr(chat, "presence_penalty", float("nan")), "presence_penalty"),
    ],
)
def test_a_chat_that_nobody_could_answer_is_refused(change: Callable[[Chat], object], param: str) -> None:
    with pytest.raises(GatewayError) as raised:
        check_chat(changed(change))
    assert raised.value.reason == error_reason_pb2.ERROR_REASON_INVALID_REQUEST
    assert raised.value.param == param


@pytest.mark.parametrize(
    "change",
    [
        lambda chat: setattr(chat, "presence_penalty", -2.0),
        lambda chat: setattr(chat, "temperature", 0.0),
        lambda chat: setattr(chat, "n", 1),
        lambda chat: chat.messages.append(Message(role=chat_pb2.ROLE_ASSISTANT)),
        lambda chat: chat.tools.append(Tool(custom_json="{}")),
        lambda chat: setattr(chat, "model", "modèle/ü"),
    ],
)
def test_a_chat_that_somebody_may_answer_passes(change: Callable[[Chat], object]) -> None:
    check_chat(changed(change))


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_labels_come_from_metadata_and_from_the_request() -> None:
    metadata = {
        "x-livekit-room-id": "RM_1",
        "x-livekit-job-id": "AJ_1",
        "x-livekit-agent-id": "CA_1",
        "x-livekit-session-id": "S_1",
        "traceparent": TRACEPARENT,
        "user-agent": "x",
    }
    assert read_labels(metadata, {"tenant": "blue", "room_id": "overruled"}) == {
        "tenant": "blue",
        "room_id": "RM_1",
        "job_id": "AJ_1",
        "agent_id": "CA_1",
        "session_id": "S_1",
        "traceparent": TRACEPARENT,
    }


@pytest.mark.parametrize("value", ["", "nonsense", TRACEPARENT.upper(), TRACEPARENT + "\n", TRACEPARENT[:-1]])
def test_a_traceparent_that_is_none_is_ignored(value: str) -> None:
    assert read_labels({"traceparent": value}, {}) == {}


@pytest.mark.parametrize(
    ("labels", "param"),
    [
        ({str(number): "" for number in range(17)}, "labels"),
        ({"": "x"}, "labels"),
        ({"k" * 65: "x"}, "labels"),
        ({"k\0": "x"}, "labels"),
        ({"k": "v" * 257}, "labels.k"),
        ({"k": "a\nb"}, "labels.k"),
    ],
)
def test_labels_beyond_the_limits_are_refused(labels: dict[str, str], param: str) -> None:
    with pytest.raises(GatewayError) as raised:
        read_labels({}, labels)
    assert raised.value.param == param


@pytest.mark.parametrize("value", ["x" * 257, "a\x00b"])
def test_metadata_that_makes_no_label_is_refused(value: str) -> None:
    with pytest.raises(GatewayError) as raised:
        read_labels({"x-livekit-room-id": value}, {})
    assert raised.value.param == "x-livekit-room-id"


def test_labels_at_the_limits_pass() -> None:
    labels = {f"{number:064}": "v" * 256 for number in range(16)}
    assert read_labels({}, labels) == labels
