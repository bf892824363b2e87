"""Starting and stopping: ports, several processes on one, a graceful end."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import grpc.aio
import pytest
import uvloop

from gateway_http.app import create_app
from gateway_http.config import HttpConfig
from gateway_http.server import HttpServer
from services.runtime.drain import Drain
from services.runtime.metrics import Metrics
from tests.http.conftest import StartGateway
from tests.http.gateway import RawClient, chat, running_gateway, running_router
from tests.http.scripted_router import Observed


def server_on(channel: grpc.aio.Channel, port: int, *, reuse_port: bool = False, host: str = "127.0.0.1") -> HttpServer:
    """Return a server that is not started."""
    config = HttpConfig(host=host, port=port)
    return HttpServer(create_app(channel, config, drain=Drain(), metrics=Metrics()), config, reuse_port=reuse_port)


async def test_a_port_in_use_is_an_os_error(channel: grpc.aio.Channel) -> None:
    first = server_on(channel, 0)
    port = await first.start()
    second = server_on(channel, port)
    with pytest.raises(OSError, match="in use"):
        await second.start()
    await second.stop(grace=0)
    await first.stop(grace=0)


async def test_several_servers_share_a_port_when_told(channel: grpc.aio.Channel) -> None:
    first = server_on(channel, 0, reuse_port=True)
    port = await first.start()
    second = server_on(channel, port, reuse_port=True)
    assert await second.start() == port
    for server in (first, second):  # whichever one is left answers
        async with RawClient.connected(port) as client:
            await client.post(chat())
            assert (await client.answer()).status == 200
        await server.stop(grace=0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 on this machine")
async def test_an_ipv6_address_is_listened_on(channel: grpc.aio.Channel) -> None:
    server = server_on(channel, 0, host="::1")
    try:
        port = await server.start()
    except OSError:
        pytest.skip("no IPv6 loopback on this machine")
    reader, writer = await asyncio.open_connection("::1", port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
    await server.stop(grace=0)


async def test_the_loops_signal_handlers_are_left_alone(start_gateway: StartGateway) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with start_gateway():
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_it_serves_and_stops_on_the_loop_of_production(tmp_path: Path) -> None:
    async def scenario() -> None:
        observed = Observed()
        async with (
            running_router("local", observed, tmp_path) as channel,
            running_gateway(channel, observed, heartbeat_seconds=0.1) as gateway,
        ):
            async with RawClient.connected(gateway.port) as client:
                for document in (chat(), chat(stream=True), chat(text="x" * 1_000_000), chat("error/INTERNAL")):
                    await client.post(document)
                    assert (await client.answer()).status in {200, 500}
                await client.post(chat("hold", stream=True))
                await client.head()
                assert await client.chunk() == b": ping\n\n"
            await asyncio.wait_for(observed.cancelled.wait(), 1)
            await gateway.server.stop(grace=1)
            assert gateway.server.connections == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_stopping_lets_a_stream_finish_and_closes_idle_connections(start_gateway: StartGateway) -> None:
    async with (
        start_gateway() as gateway,
        RawClient.connected(gateway.port) as busy,
        RawClient.connected(gateway.port) as idle,
    ):
        await idle.post(chat())
        assert (await idle.answer()).status == 200
        await busy.post(chat("hold-midstream", stream=True))
        await busy.head()
        stopping = asyncio.create_task(gateway.server.stop(grace=10))
        assert await asyncio.wait_for(idle.reader.read(), 2) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", gateway.port)
        assert not stopping.done()
        gateway.observed.release.set()
        body = b""
        while piece := await busy.chunk():
            body += piece
        assert body.endswith(b"data: [DONE]\n\n")
        assert await asyncio.wait_for(busy.reader.read(), 2) == b""
        await asyncio.wait_for(stopping, 2)


@pytest.mark.parametrize(("stream", "model"), [(False, "hold"), (True, "hold"), (True, "hold-midstream")])
async def test_what_outlives_the_grace_is_told_and_its_call_cancelled(
    start_gateway: StartGateway, stream: bool, model: str
) -> None:
    async with start_gateway() as gateway, RawClient.connected(gateway.port) as client:
        await client.post(chat(model, stream=stream))
        await gateway.observed.arrived.wait()
        started = time.monotonic()
        await gateway.server.stop(grace=0.1)
        assert time.monotonic() - started < 1
        answer = await client.answer()
        await asyncio.wait_for(gateway.observed.cancelled.wait(), 2)
    assert answer.status == (200 if model == "hold-midstream" else 503)
    assert b'"server_draining"' in answer.body
    assert b"[DONE]" not in answer.body


async def test_stopping_an_idle_server_is_quick_and_may_be_done_twice(channel: grpc.aio.Channel) -> None:
    server = server_on(channel, 0)
    await server.start()
    started = time.monotonic()
    await server.stop(grace=10)
    await server.stop(grace=10)
    assert time.monotonic() - started < 0.5


async def test_a_request_that_comes_while_stopping_is_not_lost(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway, RawClient.connected(gateway.port) as client:
        await client.post(chat("hold"))
        await gateway.observed.arrived.wait()
        stopping = asyncio.create_task(gateway.server.stop(grace=10))
        await asyncio.sleep(0)
        gateway.observed.release.set()
        answer = await client.answer()
        await stopping
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
