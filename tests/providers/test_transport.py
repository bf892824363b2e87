"""The dialer over real sockets: what goes out, time limits, and that nothing stays open."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from services.providers.dialects.base import HttpCall
from services.providers.transport import join_url
from tests.providers.pools import CALL, CUT_STREAM, SECRET, cancel, failure_of, pool_of, read_stream, soon
from tests.upstream import (
    STALL,
    ScriptedUpstream,
    chunked,
    json_answer,
    sse_head,
    whole_answer,
)
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons


async def test_a_call_goes_out_with_its_headers_and_body_and_without_any_others() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(json_answer({"ok": True}, headers={"set-cookie": "session=1"}))
        call = HttpCall(path="/chat/completions", body=b"{}", headers=(("x-format", "2"),))
        answer = await pool.request(call)
        await pool.request(HttpCall(path="/models?limit=5", method="GET"))
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b'{"ok": true}', "application/json")
    post, get = upstream.requests
    assert (post.method, post.target, post.body) == ("POST", "/v1/chat/completions", b"{}")
    assert {name: value for name, value in post.headers.items() if name != "user-agent"} == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "2",
        "authorization": f"Bearer {SECRET}",
        "x-format": "2",
    }
    assert (get.method, get.target, get.body) == ("GET", "/v1/models?limit=5", b"")
    assert "cookie" not in get.headers
    assert "content-type" not in get.headers


async def test_proxy_settings_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(json_answer({}))
        assert (await pool.request(CALL)).status == 200


async def test_connections_are_reused() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.answer(json_answer({}))
        upstream.answer(sse_head(), chunked(b"data: 1\n\n"), chunked())
        upstream.answer(json_answer({}, status=500))
        upstream.answer(json_answer({}))
        await pool.request(CALL)
        await read_stream(pool)
        await pool.request(CALL)
        await pool.request(CALL)
    assert len(upstream.connections) == 1


async def test_a_status_is_an_answer_and_not_an_error() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(json_answer({"error": 1}, status=429, headers={"retry-after": "3"}))
        answer = await pool.request(CALL)
        assert (answer.status, answer.headers["retry-after"]) == (429, "3")
    assert len(upstream.requests) == 1


async def test_a_body_at_the_bound_is_read() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url, max_body_bytes=10_000) as pool:
        upstream.always(whole_answer(b"x" * 10_000))
        assert len((await pool.request(CALL)).body) == 10_000


async def test_compression_that_was_not_asked_for_is_undone() -> None:
    packed = gzip.compress(b"data: 1\n\n" * 1000)
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.answer(whole_answer(packed, headers={"content-encoding": "gzip"}))
        upstream.answer(
            sse_head(headers={"content-encoding": "gzip"}), chunked(packed[:9]), chunked(packed[9:]), chunked()
        )
        assert (await pool.request(CALL)).body == b"data: 1\n\n" * 1000
        assert await read_stream(pool) == b"data: 1\n\n" * 1000


async def test_a_read_gives_what_arrived_without_waiting_for_more() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        gates = [asyncio.Event(), asyncio.Event()]
        upstream.answer(sse_head(), chunked(b"one"), gates[0], chunked(b"two"), gates[1], chunked(b"three"), chunked())
        async with pool.stream(CALL) as answer:
            assert await answer.read() == b"one"
            gates[0].set()
            assert await answer.read() == b"two"
            gates[1].set()
            assert await answer.read() == b"three"
            assert await answer.read() == b""
            assert await answer.read() == b""


async def test_a_full_backlog_times_out_in_the_connect_phase() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            async with pool_of(f"http://127.0.0.1:{address[1]}", connect_timeout=0.1) as pool:
                began = time.monotonic()
                error = await failure_of(pool)
        finally:
            for filler in fillers:
                filler.close()
    assert time.monotonic() - began < 1
    assert (error.reason, error.metadata["phase"]) == (reasons.ERROR_REASON_UPSTREAM_TIMEOUT, "connect")


async def test_waiting_for_a_place_in_the_pool_times_out_in_the_connect_phase() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url, max_connections=1, connect_timeout=0.1) as pool:
        upstream.always(STALL)
        task = asyncio.create_task(failure_of(pool))
        await upstream.request()
        error = await failure_of(pool)
        await cancel(task)
    assert (error.reason, error.metadata["phase"]) == (reasons.ERROR_REASON_UPSTREAM_TIMEOUT, "connect")
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("steps", "limits", "deadline", "phase"),
    [
        ((STALL,), {"first_byte_timeout": 0.1}, None, "first_byte"),
        ((STALL,), {"first_byte_timeout": 0.1}, 60.0, "first_byte"),
        ((STALL,), {}, 0.1, "deadline"),
        ((STALL,), {}, -1.0, "deadline"),
        ((CUT_STREAM, STALL), {"idle_timeout": 0.1}, None, "idle"),
        ((CUT_STREAM, STALL), {"idle_timeout": 0.1}, 60.0, "idle"),
        ((CUT_STREAM, STALL), {}, 0.1, "deadline"),
        ((whole_answer(b"half", headers={"content-length": "9"}), STALL), {"idle_timeout": 0.1}, None, "idle"),
    ],
)
async def test_silence_ends_in_a_timeout_that_names_its_phase(
    steps: tuple[bytes, ...], limits: dict[str, Any], deadline: float | None, phase: str, *, stream: bool
) -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url, **limits) as pool:
        upstream.always(*steps)
        began = time.monotonic()
        error = await failure_of(pool, stream=stream, deadline=None if deadline is None else soon(deadline))
        assert time.monotonic() - began < 1
        if upstream.connections:
            await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)
    assert (error.reason, error.metadata["phase"]) == (reasons.ERROR_REASON_UPSTREAM_TIMEOUT, phase)


async def test_the_idle_time_counts_between_reads_only_and_not_while_the_reader_is_busy() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url, idle_timeout=0.15) as pool:
        gate = asyncio.Event()
        upstream.answer(sse_head(), chunked(b"0"), gate, chunked(b"1"), chunked())
        async with pool.stream(CALL) as answer:
            assert await answer.read() == b"0"
            reading = asyncio.create_task(answer.read())
            await asyncio.sleep(0.1)
            gate.set()
            assert await reading == b"1"
            await asyncio.sleep(0.3)  # The reader is slow, and the upstream is not to blame.
            assert await answer.read() == b""


async def test_a_stream_may_last_longer_than_its_idle_time() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url, idle_timeout=0.2) as pool:
        gates = [asyncio.Event() for _ in range(5)]
        upstream.answer(sse_head(), *(step for gate in gates for step in (gate, chunked(b"x"))), chunked())
        async with pool.stream(CALL) as answer:
            for gate in gates:
                reading = asyncio.create_task(answer.read())
                await asyncio.sleep(0.1)
                gate.set()
                assert await reading == b"x"


async def test_a_deadline_ends_a_stream_that_keeps_talking() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(sse_head(), *[chunked(b"x" * 1000)] * 100_000)
        error = await failure_of(pool, stream=True, deadline=soon(0.2))
    assert error.metadata["phase"] == "deadline"


@pytest.mark.parametrize("steps", [(STALL,), (CUT_STREAM, STALL)], ids=["before the head", "in the body"])
@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_a_call_closes_the_connection_at_once(steps: tuple[bytes, ...], *, stream: bool) -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(*steps)
        task = asyncio.create_task(failure_of(pool, stream=stream))
        await upstream.request()
        await asyncio.sleep(0.01)
        await cancel(task)
        await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open sockets are counted in /proc")
async def test_cancelling_a_call_whose_body_is_not_taken_closes_the_connection_at_once() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        before = count_files()
        async with pool_of(f"http://127.0.0.1:{listener.getsockname()[1]}") as pool:
            task = asyncio.create_task(pool.request(HttpCall(path="/", body=b"x" * 30_000_000)))
            accepted, _ = await loop.sock_accept(listener)
            with accepted:
                await loop.sock_recv(accepted, 1000)
                await asyncio.sleep(0.05)  # Until nothing more can be sent to a peer that does not read.
                assert count_files() == before + 2
                task.cancel()
                await asyncio.wait([task])
                await asyncio.sleep(0.05)
                assert count_files() == before + 1


def count_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_leaving_a_stream_early_closes_the_connection_at_once() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(CUT_STREAM, STALL)
        async with pool.stream(CALL) as answer:
            await answer.read()
        await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)


async def test_a_finished_stream_gives_its_connection_back_when_the_end_comes_soon() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        gate = asyncio.Event()
        upstream.answer(sse_head(), chunked(b"data: [DONE]\n\n"), gate, chunked())
        upstream.answer(json_answer({}))
        async with pool.stream(CALL) as answer:
            await answer.read()
            answer.finish()
        gate.set()
        await asyncio.sleep(0.05)
        await pool.request(CALL)
    assert len(upstream.connections) == 1


async def test_a_finished_stream_that_does_not_end_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.providers.answers._LINGER_SECONDS", 0.05)
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(sse_head(), chunked(b"data: [DONE]\n\n"), STALL)
        async with pool.stream(CALL) as answer:
            await answer.read()
            answer.finish()
        assert not upstream.connections[0].lost.is_set()
        await asyncio.wait_for(upstream.connections[0].lost.wait(), 1)


async def test_a_connection_that_is_reset_while_nobody_uses_it_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        gate = asyncio.Event()
        upstream.answer(sse_head(), gate, chunked(b"data: 1\n\n"), chunked())
        upstream.answer(json_answer({}))
        task = asyncio.create_task(read_stream(pool))
        await upstream.request()
        gate.set()
        await task
        upstream.connections[0].reset()
        await asyncio.sleep(0.02)
        assert (await pool.request(CALL)).status == 200
    gc.collect()
    assert len(upstream.connections) == 2
    assert caplog.records == []


async def test_closing_the_pool_closes_connections_in_use() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(CUT_STREAM, STALL)
        task = asyncio.create_task(failure_of(pool, stream=True))
        await upstream.request()
        await asyncio.sleep(0.01)
        await pool.close()
        await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)
        await asyncio.wait_for(task, 1)
        with pytest.raises(GatewayError) as caught:
            await pool.request(CALL)
        await pool.close()
    assert caught.value.reason == reasons.ERROR_REASON_SERVER_DRAINING
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("https://a.example/v1", "/chat/completions", "https://a.example/v1/chat/completions"),
        ("https://a.example", "/v1/messages", "https://a.example/v1/messages"),
        ("https://a.example/v1", "/v1/messages", "https://a.example/v1/messages"),
        ("https://a.example/api/v1", "/v1/messages", "https://a.example/api/v1/messages"),
        ("https://a.example/v1", "/v1beta/models", "https://a.example/v1/v1beta/models"),
        ("https://vertex", "/vertex/x", "https://vertex/vertex/x"),
    ],
)
def test_a_version_named_by_base_and_path_stands_once(base: str, path: str, url: str) -> None:
    assert join_url(base, path) == url
