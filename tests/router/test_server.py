"""How a router starts, ends, and hands on its records; and the same calls over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from services.router.config import RouterConfig
from services.router.server import RouterService, register
from services.runtime.config import ConfigError
from services.runtime.interceptors import instrument
from services.runtime.journal import Journal
from services.runtime.local import LocalChannel, LocalServer
from tests.router.scripted import (
    OVERLOADED,
    Script,
    ScriptedProviders,
    ScriptedUsage,
    answer,
    delta,
    fail,
    make_chat,
    opening,
    provider,
)
from tests.router.world import World, make_world
from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.providers.v1 import provider_service_pb2_grpc
from trunkline.router.v1 import chat_service_pb2, chat_service_pb2_grpc
from trunkline.usage.v1 import usage_service_pb2, usage_service_pb2_grpc
from trunkline.usage.v1.usage_service_pb2 import UsageRecord

ASKED = chat_service_pb2.CompleteChatRequest(chat=make_chat())
STREAMED = chat_service_pb2.StreamChatRequest(chat=make_chat())


@asynccontextmanager
async def make_router(
    directory: Path, providers: ScriptedProviders, usage: ScriptedUsage | None = None, **config: object
) -> AsyncIterator[tuple[RouterService, LocalChannel]]:
    """Make a router that is not started."""
    server = LocalServer()
    channel = LocalChannel(server)
    provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(providers, server)
    usage_service_pb2_grpc.add_UsageServiceServicer_to_server(usage or ScriptedUsage(), server)
    settings = RouterConfig.model_validate({"journal": {"directory": directory}, **config})
    router = await register(instrument(server, service="router"), settings, providers=channel, usage=channel)
    try:
        yield router, channel
    finally:
        await router.close()


async def test_the_router_waits_for_the_providers_service(tmp_path: Path) -> None:
    providers = ScriptedProviders(providers=[provider("a"), provider("b"), provider("c")], failures=2, page_size=2)
    async with make_router(tmp_path, providers) as (router, _):
        readiness = [router.is_ready]
        await router.start()
        assert [*readiness, router.is_ready] == [False, True]
        assert providers.failures == 0


async def test_the_router_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with make_router(tmp_path, ScriptedProviders(failures=1000), start_timeout=0.2) as (router, _):
        with pytest.raises(GatewayError) as raised:
            await router.start()
        assert raised.value.name == "SERVICE_UNAVAILABLE"
        assert raised.value.metadata["service"] == "providers"


async def test_a_call_before_the_start_is_refused(tmp_path: Path) -> None:
    async with make_router(tmp_path, ScriptedProviders()) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await chat_service_pb2_grpc.ChatServiceStub(channel).CompleteChat(ASKED)
        assert from_rpc_error(raised.value).name == "SERVICE_UNAVAILABLE"


async def test_a_configuration_that_names_no_provider_is_refused_with_its_place(tmp_path: Path) -> None:
    models = {"a": {"deployments": [{"provider": "opneai", "model": "x"}], "fallbacks": ["acme/x"]}}
    async with make_router(tmp_path, ScriptedProviders(providers=[provider("openai")]), models=models) as (router, _):
        with pytest.raises(ConfigError) as raised:
            await router.start()
    assert "models.a.deployments[0].provider: there is no provider 'opneai'" in str(raised.value)
    assert "models.a.fallbacks[0]: there is no provider 'acme'" in str(raised.value)


async def test_records_wait_for_a_usage_service_that_is_down(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        world.usage.is_down = True
        await world.chats.CompleteChat(ASKED)
        await world.chats.CompleteChat(ASKED)
        assert world.usage.records == {}
        world.usage.is_down = False
        assert len(await world.records()) == 2


async def test_a_record_is_shipped_while_the_router_runs(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        await world.chats.CompleteChat(ASKED)
        await asyncio.wait_for(world.usage.received.wait(), 5)
        assert len(world.usage.records) == 1


async def test_what_a_dead_process_left_is_shipped(tmp_path: Path) -> None:
    left = Journal(tmp_path / "worker-7")
    left.append(UsageRecord(record_id="orphan", operation="chat").SerializeToString())
    left.release_directory()
    async with make_world(tmp_path) as world:
        await asyncio.wait_for(world.usage.received.wait(), 5)
        assert set(world.usage.records) == {"orphan"}


async def test_records_that_the_ledger_refuses_or_that_are_none_hold_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = Journal(tmp_path / "worker-7")
    left.append(b"\xff\xff\xff")
    for record_id in ("bad", "good"):
        left.append(UsageRecord(record_id=record_id).SerializeToString())
    left.release_directory()
    async with make_router(tmp_path, ScriptedProviders(), usage := ScriptedUsage()) as (router, _):
        usage.rejects.add("bad")
        await router.start()
        await asyncio.wait_for(usage.received.wait(), 5)
    assert set(usage.records) == {"good"}
    assert "not a usage record" in caplog.text
    assert "refused a usage record for good" in caplog.text


async def test_a_full_journal_refuses_requests_before_anyone_is_asked(tmp_path: Path) -> None:
    async with make_world(tmp_path, journal={"directory": tmp_path / "small", "max_bytes": 1 << 20}) as world:
        world.usage.is_down = True
        labels = {f"{number:02}": "x" * 256 for number in range(16)}
        request = chat_service_pb2.CompleteChatRequest(chat=make_chat(), labels=labels)
        with pytest.raises(grpc.aio.AioRpcError):
            await repeat(lambda: world.chats.CompleteChat(request))
        asked = len(world.inference.asked)
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await world.chats.CompleteChat(ASKED)
            assert from_rpc_error(raised.value).name == "SERVICE_UNAVAILABLE"
        assert len(world.inference.asked) == asked
        assert not world.router.is_ready
        world.usage.is_down = False
        await asyncio.wait_for(world.usage.received.wait(), 10)
        await world.chats.CompleteChat(ASKED)
        assert len(await world.records()) == asked + 1


async def repeat(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call until it fails."""
    while True:
        await call()


# -- over a socket


@asynccontextmanager
async def over_socket(world: World, address: str) -> AsyncIterator[chat_service_pb2_grpc.ChatServiceAsyncStub]:
    """Add the router to a real server as well, and call that."""
    server = grpc.aio.server()
    world.router.add_to(instrument(server, service="router"))
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield chat_service_pb2_grpc.ChatServiceStub(channel)
    finally:
        await server.stop(None)


async def test_a_stream_over_a_socket_is_the_same(tmp_path: Path) -> None:
    async with make_world(tmp_path / "j") as world, over_socket(world, f"unix:{tmp_path}/s") as chats:
        world.inference.play("first", fail(OVERLOADED, after=[opening()]))
        stream = chats.StreamChat(STREAMED, metadata=[("x-request-id", "req-1")], timeout=10)
        metadata = dict(await stream.initial_metadata())
        batches = [len(response.events) async for response in stream]
        assert batches == [3, 1, 1, 3]
        assert metadata["x-trunkline-deployment"] == "gpt-4o/1"
        assert metadata["x-trunkline-attempts"] == "2"
        assert metadata["x-request-id"] == "req-1"
        assert (await world.record()).outcome == usage_service_pb2.OUTCOME_COMPLETED


async def test_an_error_over_a_socket_is_typed_also_after_content(tmp_path: Path) -> None:
    async with make_world(tmp_path / "j") as world, over_socket(world, f"unix:{tmp_path}/s") as chats:
        world.inference.play("first", fail(OVERLOADED, after=[opening(), delta("a")], retry_after=3.0))
        stream = chats.StreamChat(STREAMED)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in stream:
                pass
        error = from_rpc_error(raised.value)
        assert (error.name, error.retry_after) == ("UPSTREAM_OVERLOADED", 3.0)
        assert error.metadata["deployment"] == "gpt-4o/0"


async def test_cancelling_over_a_socket_stops_the_upstream_and_is_recorded(tmp_path: Path) -> None:
    async with make_world(tmp_path / "j") as world, over_socket(world, f"unix:{tmp_path}/s") as chats:
        world.inference.play("first", Script(batches=[opening(), delta("a")], hang=True))
        stream = chats.StreamChat(STREAMED)
        await anext(aiter(stream))
        await asyncio.wait_for(world.inference.reached.wait(), 5)
        stream.cancel()
        await asyncio.wait_for(world.inference.ended.wait(), 1)
        await asyncio.wait_for(world.usage.received.wait(), 5)
        assert (await world.record()).outcome == usage_service_pb2.OUTCOME_CLIENT_DISCONNECT


async def test_a_deadline_over_a_socket_is_recorded_as_a_timeout(tmp_path: Path) -> None:
    async with make_world(tmp_path / "j") as world, over_socket(world, f"unix:{tmp_path}/s") as chats:
        world.inference.play("first", Script(hang=True))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await chats.CompleteChat(ASKED, timeout=0.1)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(world.usage.received.wait(), 5)
        assert (await world.record()).error_reason == "UPSTREAM_TIMEOUT"


async def test_a_call_without_a_deadline_gets_the_routers_over_a_socket_too(tmp_path: Path) -> None:
    async with make_world(tmp_path / "j", timeout=30) as world, over_socket(world, f"unix:{tmp_path}/s") as chats:
        world.inference.play("first", answer())
        await chats.CompleteChat(ASKED)
        (asked,) = world.inference.asked
        assert asked.time_remaining is not None
        assert 29 < asked.time_remaining <= 30
