"""Streams as they are on the wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_http.sse import frame
from tests.http.conftest import StartGateway
from tests.http.gateway import Gateway, RawClient, chat
from trunkline.errors import FACES, Reason, reason_name


def events_of(body: bytes) -> list[bytes]:
    """Return the data of each event, checking that the body has nothing but `data:` events and pings."""
    assert body.endswith(b"\n\n")
    blocks = body.split(b"\n\n")[:-1]
    events = [block for block in blocks if block != b": ping"]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [event.removeprefix(b"data: ") for event in events]


@given(st.lists(st.dictionaries(st.text(), st.text()), min_size=1))
def test_framing_gives_back_each_document(documents: list[dict[str, str]]) -> None:
    encoded = [msgspec.json.encode(document) for document in documents]
    assert events_of(frame(encoded)) == encoded


async def test_a_stream_has_the_right_head_and_ends_with_done(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(stream=True))
        answer = await client.answer()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers
    assert answer.headers["x-trunkline-deployment"] == "demo/0"
    assert answer.headers["x-trunkline-provider"] == "demo"
    assert answer.headers["x-trunkline-attempts"] == "1"
    *chunks, done = events_of(answer.body)
    assert done == b"[DONE]"
    documents = [msgspec.json.decode(chunk) for chunk in chunks]
    assert all(document["object"] == "chat.completion.chunk" for document in documents)
    text = "".join(choice["delta"].get("content") or "" for document in documents for choice in document["choices"])
    assert text == "Hello there my friend"
    assert documents[-1]["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in document for document in documents)


async def test_usage_comes_in_a_chunk_of_its_own_and_only_when_asked(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(stream=True, stream_options={"include_usage": True}))
        *chunks, _done = events_of((await client.answer()).body)
    documents = [msgspec.json.decode(chunk) for chunk in chunks]
    assert documents[-1]["choices"] == []
    assert documents[-1]["usage"]["total_tokens"] == 10
    assert all(document["usage"] is None for document in documents[:-1])


async def test_events_that_arrive_together_leave_in_one_write(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(stream=True, stream_options={"include_usage": True}))
        await client.head()
        pieces = [piece async for piece in _chunks(client)]
    # The scripted router's first batch makes one chunk, each word one, the last batch one; then usage and the end.
    assert [piece.count(b"data: ") for piece in pieces] == [1, 1, 1, 1, 1, 1, 2]
    assert all(piece.startswith(b"data: ") and piece.endswith(b"\n\n") for piece in pieces)


async def _chunks(client: RawClient) -> AsyncIterator[bytes]:
    while piece := await client.chunk():
        yield piece


@pytest.mark.parametrize("reason", list(FACES), ids=reason_name)
async def test_an_error_after_the_first_byte_is_one_frame_and_the_end(
    gateway: Gateway, reason: Reason.ValueType
) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(f"midstream/{reason_name(reason)}", stream=True))
        answer = await client.answer()
        await client.post(chat())  # the connection is in order and serves another request
        assert (await client.answer()).status == 200
    assert answer.status == 200
    *chunks, last = events_of(answer.body)
    assert chunks
    error = msgspec.json.decode(last)["error"]
    face = FACES[reason]
    assert (error["type"], error["code"]) == (face.openai_type, face.openai_code)
    assert b"[DONE]" not in answer.body


async def test_an_error_before_the_first_byte_keeps_its_status(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("error/UPSTREAM_OVERLOADED", stream=True))
        answer = await client.answer()
    assert answer.status == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == "upstream_overloaded"


async def test_a_stream_that_ends_without_an_answer_is_truncated_and_never_done(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("nothing", stream=True))
        answer = await client.answer()
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "stream_truncated"


async def test_silence_before_the_first_byte_sends_the_head_and_pings(start_gateway: StartGateway) -> None:
    async with start_gateway(heartbeat_seconds=0.1) as gateway, RawClient.connected(gateway.port) as client:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await client.post(chat("hold", stream=True))
        status, headers = await client.head()
        assert 0.1 <= loop.time() - started < 0.6
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert [await client.chunk() for _ in range(3)] == [b": ping\n\n"] * 3
        assert loop.time() - started >= 0.3
        gateway.observed.release.set()
        rest = b"".join([piece async for piece in _chunks(client)])
    assert events_of(rest)[-1] == b"[DONE]"


async def test_silence_between_events_pings(start_gateway: StartGateway) -> None:
    async with start_gateway(heartbeat_seconds=0.1) as gateway, RawClient.connected(gateway.port) as client:
        await client.post(chat("hold-midstream", stream=True))
        await client.head()
        while (piece := await client.chunk()) != b": ping\n\n":
            assert piece.startswith(b"data: ")
        assert await client.chunk() == b": ping\n\n"
        gateway.observed.release.set()
        rest = b"".join([piece async for piece in _chunks(client)])
    assert events_of(rest)[-1] == b"[DONE]"


async def test_an_error_after_a_ping_is_a_frame(start_gateway: StartGateway) -> None:
    limits = {"heartbeat_seconds": 0.05, "stream_timeout_seconds": 0.3}
    async with start_gateway(**limits) as gateway, RawClient.connected(gateway.port) as client:
        await client.post(chat("hold", stream=True))
        answer = await client.answer()
    assert answer.status == 200
    assert re.match(rb"(: ping\n\n)+data: \{\"error\"", answer.body)
    assert msgspec.json.decode(events_of(answer.body)[-1])["error"]["code"] == "upstream_timeout"


async def test_a_busy_stream_has_no_pings(start_gateway: StartGateway) -> None:
    async with start_gateway(heartbeat_seconds=5.0) as gateway, RawClient.connected(gateway.port) as client:
        await client.post(chat("many", stream=True))
        answer = await client.answer()
    assert b": ping" not in answer.body
    assert len(events_of(answer.body)) == 103  # the opening, 100 deltas, the end, [DONE]
