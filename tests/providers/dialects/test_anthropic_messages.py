"""The dialect object: the calls beside chat, and what its interface promises."""

from __future__ import annotations

import json

import pytest

from services.providers.dialects.anthropic_messages import DIALECT
from services.providers.dialects.base import Frame
from tests.providers.dialects.anthropic_rendering import ENDPOINT, say, user
from trunkline.errors import GatewayError
from trunkline.inference.v1 import chat_pb2 as pb

CHAT = pb.Chat(
    messages=[say(pb.ROLE_SYSTEM, "s"), user("u")],
    temperature=0.5,
    stop=["x"],
    user="me",
    tools=[pb.Tool(function=pb.FunctionTool(name="f"))],
    reasoning_effort="low",
)


def test_it_says_what_it_is() -> None:
    assert (DIALECT.name, DIALECT.framing) == ("anthropic_messages", "sse")


def test_a_chat_is_posted_and_says_whether_it_streams() -> None:
    for stream in (False, True):
        call = DIALECT.render_chat(CHAT, "claude-sonnet-4-5", ENDPOINT, stream=stream)
        assert (call.method, call.path) == ("POST", "/v1/messages")
        assert json.loads(call.body).get("stream") == (True if stream else None)


def test_counting_sends_what_counts_as_input_and_nothing_else() -> None:
    call = DIALECT.render_count_tokens(CHAT, "claude-sonnet-4-5", ENDPOINT)
    assert (call.method, call.path) == ("POST", "/v1/messages/count_tokens")
    assert json.loads(call.body).keys() == {"model", "messages", "system", "tools", "thinking"}
    assert DIALECT.parse_count_tokens(b'{"input_tokens":7}', ENDPOINT) == 7


def test_models_are_listed_in_one_page() -> None:
    call = DIALECT.render_list_models(ENDPOINT)
    assert (call.method, call.path, call.body) == ("GET", "/v1/models?limit=1000", b"")
    assert call.headers == (("anthropic-version", "2023-06-01"),)
    assert DIALECT.parse_list_models(b'{"data":[{"id":"a"},{},{"id":"b"}],"has_more":false}', ENDPOINT) == ["a", "b"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"input_tokens":"7"}', b"{}", b'{"data":1}', b"\xff\xfe"])
def test_answers_in_another_form_are_malformed(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        DIALECT.parse_count_tokens(body, ENDPOINT)
    assert caught.value.name == "UPSTREAM_MALFORMED_REPLY"
    with pytest.raises(GatewayError) as caught:
        DIALECT.parse_chat(body, ENDPOINT)
    assert caught.value.name == "UPSTREAM_MALFORMED_REPLY"


STARTED = Frame("message_start", b'{"type":"message_start","message":{"id":"m","model":"c"}}')
OPEN = Frame("", b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}')
STOPPED = Frame("", b'{"type":"message_stop"}')


@pytest.mark.parametrize(
    "frames",
    [
        [Frame("", b"<html>")],
        [Frame("", b'{"type":"message_start"')],
        [OPEN],
        [STOPPED],
        [STARTED, STARTED],
        [STARTED, OPEN, OPEN],
        [STARTED, Frame("", b'{"type":"content_block_stop","index":0}')],
        [STARTED, Frame("", b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}')],
        [STARTED, OPEN, Frame("", b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":1}}')],
        [STARTED, Frame("", b'{"type":"content_block_start","index":0}')],
    ],
)
def test_frames_in_another_form_are_malformed(frames: list[Frame]) -> None:
    parser = DIALECT.open_stream(ENDPOINT)
    with pytest.raises(GatewayError) as caught:
        list(map(parser.parse_frame, frames))
    assert caught.value.name == "UPSTREAM_MALFORMED_REPLY"


def test_nothing_after_the_end_is_read_and_open_blocks_are_closed_by_it() -> None:
    parser = DIALECT.open_stream(ENDPOINT)
    events = [event for frame in (STARTED, OPEN, STOPPED) for event in parser.parse_frame(frame)]
    assert [event.WhichOneof("event") for event in events] == [
        "started",
        "part_started",
        "part_finished",
        "choice_finished",
    ]
    assert parser.is_complete
    assert parser.parse_frame(Frame("", b"rubbish")) == []
    assert parser.parse_end() == []


def test_an_error_event_is_told_by_its_data_whatever_the_event_is_called() -> None:
    parser = DIALECT.open_stream(ENDPOINT)
    with pytest.raises(GatewayError) as caught:
        parser.parse_frame(Frame("", b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}'))
    assert caught.value.name == "UPSTREAM_RATE_LIMITED"
