"""Answers and errors of the Messages API, from the bytes in tests/providers/cases/anthropic_messages.

A case is a folder. `stream.sse` and `answer.json` hold one answer in both forms, `reply.json` the reply (protobuf JSON)
that both must give; `case.json` says what it shows, and for errors with which reason it ends (`http` gives status and
headers to the error's `body.txt`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from services.providers.dialects.anthropic_messages import DIALECT
from services.providers.dialects.base import Frame
from services.providers.endpoint import Endpoint
from services.providers.framing import SseDecoder
from trunkline.errors import GatewayError
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import ChatReply
from trunkline.reply import GrammarChecker, ReplyFolder, fold

CASES = Path(__file__).parents[1] / "cases" / "anthropic_messages"
ENDPOINT = Endpoint(name="anthropic", catalog="anthropic", dialect="anthropic_messages", base_url="http://upstream")


def _folders(file: str, *, has: str = "case.json") -> list[Any]:
    found = sorted(path.parent for path in CASES.glob(f"*/{file}") if (path.parent / has).exists())
    return [pytest.param(folder, id=folder.name) for folder in found]


def _case(folder: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((folder / "case.json").read_text())
    return case


def _expected(folder: Path) -> ChatReply:
    return json_format.Parse((folder / "reply.json").read_text(), ChatReply())


def frames_of(body: bytes) -> list[Frame]:
    """Return the frames of a body."""
    decoder = SseDecoder()
    return [*decoder.feed(body), *decoder.end()]


def parse_stream(frames: Iterable[Frame]) -> list[ChatEvent]:
    """Return the events of a whole stream."""
    parser = DIALECT.open_stream(ENDPOINT)
    events = [event for frame in frames for event in parser.parse_frame(frame)]
    return events + parser.parse_end()


def comparable(reply: ChatReply) -> ChatReply:
    """Return a reply whose JSON members are in one form: the members' order is the upstream's, and differs by form."""
    copy = ChatReply()
    copy.CopyFrom(reply)
    for holder, member in ((copy, "extra_json"), (copy.usage, "raw_json")):
        text = getattr(holder, member)
        if text:
            setattr(holder, member, json.dumps(json.loads(text), sort_keys=True))
    return copy


@pytest.mark.parametrize("folder", _folders("stream.sse", has="reply.json"))
def test_a_stream_folds_to_the_expected_reply(folder: Path) -> None:
    reply = fold(parse_stream(frames_of((folder / "stream.sse").read_bytes())))
    assert comparable(reply) == comparable(_expected(folder))


@pytest.mark.parametrize("folder", _folders("answer.json", has="reply.json"))
def test_a_whole_answer_gives_the_expected_reply(folder: Path) -> None:
    reply = DIALECT.parse_chat((folder / "answer.json").read_bytes(), ENDPOINT)
    assert comparable(reply) == comparable(_expected(folder))


def test_every_reply_is_expected_of_both_forms() -> None:
    for reply in CASES.glob("*/reply.json"):
        assert (reply.parent / "stream.sse").exists(), reply
        assert (reply.parent / "answer.json").exists(), reply


@pytest.mark.parametrize("folder", _folders("stream.sse"))
def test_what_came_before_a_cut_is_grammatical_and_the_cut_is_seen(folder: Path) -> None:
    frames = frames_of((folder / "stream.sse").read_bytes())
    last = next((i for i, frame in enumerate(frames) if b'"message_stop"' in frame.data), len(frames))
    for length in range(min(last, len(frames) - 1) + 1):
        parser, checker = DIALECT.open_stream(ENDPOINT), GrammarChecker()
        for frame in frames[:length]:
            for event in parser.parse_frame(frame):
                checker.check(event)
        assert not parser.is_complete
        with pytest.raises(GatewayError) as caught:
            parser.parse_end()
        assert caught.value.name == "STREAM_TRUNCATED"


@pytest.mark.parametrize("folder", _folders("case.json"))
def test_an_error_case_ends_with_its_reason(folder: Path) -> None:
    expected = _case(folder).get("error")
    if expected is None:
        assert (folder / "reply.json").exists()
        return
    error = _error_of(folder)
    assert error.name == expected["reason"]
    assert error.retry_after == expected.get("retry_after")
    assert error.metadata["provider"] == "anthropic"
    assert expected.get("says", "") in error.message
    if "metadata" in expected:
        assert error.metadata == expected["metadata"]
    if "param" in expected:
        assert error.param == expected["param"]
    if "silent_on" in expected:
        assert expected["silent_on"] not in error.message


def _error_of(folder: Path) -> GatewayError:
    case = _case(folder)
    if "http" in case:
        body = (folder / "body.txt").read_bytes()
        return DIALECT.parse_error(case["http"]["status"], case["http"]["headers"], body, ENDPOINT)
    with pytest.raises(GatewayError) as caught:
        _parse_answer(folder)
    return caught.value


def _parse_answer(folder: Path) -> None:
    if (folder / "stream.sse").exists():
        parse_stream(frames_of((folder / "stream.sse").read_bytes()))
    else:
        DIALECT.parse_chat((folder / "answer.json").read_bytes(), ENDPOINT)


@cache
def _pool() -> list[Frame]:
    streams = [frames_of(path.read_bytes()) for path in sorted(CASES.glob("*/stream.sse"))]
    return list(dict.fromkeys(frame for frames in streams for frame in frames))


@given(st.data())
def test_frames_in_any_order_give_grammatical_events_or_a_typed_error(data: st.DataObject) -> None:
    pool = _pool()
    start = next(frame for frame in pool if b'"message_start"' in frame.data)
    frames = data.draw(st.lists(st.sampled_from(pool), max_size=25))
    parser, checker, folder = DIALECT.open_stream(ENDPOINT), GrammarChecker(), ReplyFolder()
    try:
        for frame in [start, *frames]:
            for event in parser.parse_frame(frame):
                checker.check(event)
                folder.add(event)
        parser.parse_end()
    except GatewayError:
        folder.reply()
        return
    checker.end()


_KEYS = st.sampled_from(["type", "message", "index", "delta", "content_block", "content", "usage", "error", "text"])
_WORDS = st.sampled_from(["message_start", "message_delta", "content_block_start", "text", "tool_use", "error", ""])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=40) | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_events_or_a_typed_error(payload: bytes) -> None:
    parser = DIALECT.open_stream(ENDPOINT)
    for parse in (lambda: parser.parse_frame(Frame("", payload)), lambda: DIALECT.parse_chat(payload, ENDPOINT)):
        try:
            parse()
        except GatewayError as error:
            reason = error.name
        else:
            continue
        assert reason in {"UPSTREAM_MALFORMED_REPLY", "UPSTREAM_OVERLOADED"}
    assert isinstance(DIALECT.parse_error(400, {}, payload, ENDPOINT), GatewayError)
