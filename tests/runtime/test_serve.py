"""A gRPC server as operators meet it: ports, health, reflection, and what it does when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.runtime.channel import open_channel
from services.runtime.drain import Drain
from services.runtime.interceptors import require_bearer
from services.runtime.serve import GrpcServer, run
from tests.runtime.transports import (
    Stub,
    Witness,
    complete_request,
    completed,
    forever,
    scripted,
    stream_request,
    streamed,
    text_of,
)
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.router.v1 import chat_service_pb2 as pb
from trunkline.router.v1 import chat_service_pb2_grpc as pb_grpc

ROOT = Path(__file__).parents[2]
SERVICE = "trunkline.router.v1.ChatService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
    return completed("1")


@contextlib.asynccontextmanager
async def serving(server: GrpcServer, target: str = "", **methods: Any) -> AsyncIterator[grpc.aio.Channel]:
    registrar = server.registrar("router")
    pb_grpc.add_ChatServiceServicer_to_server(scripted(**{"CompleteChat": complete, **methods}), registrar)
    port = await server.start()
    async with open_channel(target or f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


@pytest.mark.parametrize("kind", ["tcp", "unix", "dns"])
async def test_it_serves_on_any_kind_of_address(kind: str, tmp_path: Path) -> None:
    server = GrpcServer([f"unix:{tmp_path}/s", "127.0.0.1:0"])
    pb_grpc.add_ChatServiceServicer_to_server(scripted(CompleteChat=complete), server.registrar("router"))
    port = await server.start()
    assert port > 0
    target = {"tcp": f"127.0.0.1:{port}", "unix": f"unix:{tmp_path}/s", "dns": f"dns:///127.0.0.1:{port}"}[kind]
    async with open_channel(target) as channel:
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        assert (await stub.CompleteChat(complete_request())).reply.id == "1"
    await server.stop(1)


async def test_an_address_in_use_is_an_error_unless_the_port_is_shared(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    first = GrpcServer([address])
    assert await first.start() == unused_tcp_port
    second = GrpcServer([address])
    with pytest.raises(OSError, match=f"cannot listen on {address}"):
        await second.start()
    await first.stop(0)
    sharing = [GrpcServer([address], reuse_port=True) for _ in range(2)]
    assert [await server.start() for server in sharing] == [unused_tcp_port] * 2
    for server in sharing:
        await server.stop(0)


async def test_health_and_reflection_know_the_services() -> None:
    async with serving(GrpcServer(["127.0.0.1:0"])) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
        names = {service.name for service in (await call.read()).list_services_response.service}
        call.cancel()
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_service_may_want_a_key() -> None:
    server = GrpcServer(["127.0.0.1:0"])
    registrar = server.registrar("providers", require_bearer("k"))
    pb_grpc.add_ChatServiceServicer_to_server(scripted(CompleteChat=complete), registrar)
    port = await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.CompleteChat(complete_request(), metadata=(("authorization", "Bearer k"),))
    await server.stop(0)


async def test_a_request_of_many_megabytes_passes_and_a_larger_one_is_refused() -> None:
    async def size(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed(str(len(request.chat.model)))

    async with serving(GrpcServer(["127.0.0.1:0"], max_message_bytes=20 << 20), CompleteChat=size) as channel:
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        assert (await stub.CompleteChat(complete_request("x" * (16 << 20)))).reply.id == str(16 << 20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request("x" * (21 << 20)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_in_flight_finish_within_the_grace_period() -> None:
    gate = asyncio.Event()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        await gate.wait()
        yield streamed("b")

    server = GrpcServer(["127.0.0.1:0"])
    async with serving(server, StreamChat=stream) as channel:
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        call = stub.StreamChat(stream_request())
        await call.read()
        watching = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watching.read()).status == SERVING
        stopping = asyncio.create_task(server.stop(10))
        assert (await watching.read()).status == NOT_SERVING
        assert (await health.Check(health_pb2.HealthCheckRequest(service=""))).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert from_rpc_error(caught.value).name == "SERVER_DRAINING"
        assert not stopping.done()
        gate.set()
        assert text_of(await call.read()) == "b"
        assert await call.read() is grpc.aio.EOF
        watching.cancel()
        await stopping


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_what_outlasts_the_grace_period_is_cut_off_with_a_typed_status(kind: str) -> None:
    witness = Witness()

    async def wait(request: Any, context: Any) -> Any:
        with witness:
            await forever()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        with witness:
            await forever()

    drain = Drain()
    server = GrpcServer(["127.0.0.1:0"], drain=drain)
    async with serving(server, CompleteChat=wait, StreamChat=stream) as channel:
        stub: Stub = pb_grpc.ChatServiceStub(channel)

        async def end() -> None:
            if kind == "unary":
                await stub.CompleteChat(complete_request())
            else:
                async for _ in stub.StreamChat(stream_request()):
                    pass

        waiting = asyncio.create_task(end())
        await witness.started.wait()
        await server.stop(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
        assert from_rpc_error(caught.value).name == "SERVER_DRAINING"
        assert witness.raised is asyncio.CancelledError
        assert drain.in_flight == 0


@contextlib.asynccontextmanager
async def process(grace: float) -> AsyncIterator[tuple[asyncio.subprocess.Process, grpc.aio.Channel]]:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.server_process",
        str(grace),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert started.stdout is not None
    try:
        port = int(await started.stdout.readline())
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield started, channel
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def watch_until_not_serving(channel: grpc.aio.Channel) -> None:
    watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    while (await watching.read()).status != NOT_SERVING:
        pass
    watching.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_process_finish_its_streams_and_end(number: signal.Signals) -> None:
    async with process(grace=20) as (server, channel):
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        call = stub.StreamChat(stream_request("1"))
        assert text_of(await call.read()) == "a"
        server.send_signal(number)
        await watch_until_not_serving(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert from_rpc_error(caught.value).name == "SERVER_DRAINING"
        assert text_of(await call.read()) == "b"
        assert await call.read() is grpc.aio.EOF
        _, errors = await asyncio.wait_for(server.communicate(), 10)
        assert server.returncode == 3
    lines = [msgspec.json.decode(line) for line in errors.splitlines()]
    assert [(line["message"], line["signal"]) for line in lines if "signal" in line] == [("stopping", number.name)]


async def test_a_stream_longer_than_the_grace_period_is_cut_off_and_the_process_ends() -> None:
    async with process(grace=0.2) as (server, channel):
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        call = stub.StreamChat(stream_request("600"))
        assert text_of(await call.read()) == "a"
        server.terminate()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert from_rpc_error(caught.value).name == "SERVER_DRAINING"
        assert await asyncio.wait_for(server.wait(), 10) == 3


async def test_a_second_signal_ends_the_process_at_once() -> None:
    async with process(grace=600) as (server, channel):
        stub: Stub = pb_grpc.ChatServiceStub(channel)
        call = stub.StreamChat(stream_request("600"))
        await call.read()
        server.terminate()
        await watch_until_not_serving(channel)
        server.terminate()
        assert await asyncio.wait_for(server.wait(), 10) == -signal.SIGTERM


def test_run_returns_the_exit_code_and_logs_what_nobody_awaited(caplog: pytest.LogCaptureFixture) -> None:
    async def main(stop: asyncio.Event) -> None:
        def fail() -> None:
            raise ValueError("the prompt")

        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0.01)
        assert not stop.is_set()

    assert run(main) == 0
    errors = [record for record in caplog.records if record.name == "services.runtime.serve"]
    assert [record.getMessage() for record in errors] == ["an error reached the event loop"]
    assert errors[0].exc_info is not None
    assert errors[0].exc_info[0] is ValueError
