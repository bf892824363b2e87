"""Router, providers, usage and front as four processes: who may call whom, what an absence costs, what callers see."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator

import aiohttp
import grpc.aio
import pytest

from services.runtime.channel import BearerChannel, open_channel
from tests.e2e.topologies import INTERNAL_KEY, MASTER_KEY, Topology, running_topology
from trunkline.client import Client, connect
from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1.chat_pb2 import ROLE_USER, Chat, Message, Part, TextPart
from trunkline.providers.v1 import inference_service_pb2 as inference_pb
from trunkline.providers.v1.inference_service_pb2_grpc import InferenceServiceStub
from trunkline.providers.v1.provider_service_pb2 import ListProvidersRequest
from trunkline.providers.v1.provider_service_pb2_grpc import ProviderServiceStub
from trunkline.usage.v1 import usage_service_pb2 as usage_pb
from trunkline.usage.v1.usage_service_pb2_grpc import UsageServiceStub

WRONG_KEYS = [None, "sk-wrong-0123456789abcdef"]


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """Yield a gateway of four processes."""
    with running_topology(tmp_path_factory.mktemp("four"), separate=True) as topology:
        yield topology


@pytest.fixture
async def client(topology: Topology) -> AsyncIterator[Client]:
    """Yield a caller of the router."""
    async with connect(topology.router, api_key=MASTER_KEY) as client:
        yield client


def said(text: str, model: str = "echo") -> Chat:
    """Return a chat."""
    return Chat(model=model, messages=[Message(role=ROLE_USER, parts=[Part(text=TextPart(text=text))])])


def channel_with(address: str, key: str | None) -> grpc.aio.Channel:
    """Return a channel whose calls bear the key, if there is one."""
    channel = open_channel(address)
    return channel if key is None else BearerChannel(channel, key)


async def recorded(topology: Topology, request_ids: list[str]) -> list[usage_pb.UsageRecord]:
    """Return the records of the requests, as soon as the ledger has them all."""
    async with channel_with(topology.usage, MASTER_KEY) as channel:
        stub = UsageServiceStub(channel)
        async with asyncio.timeout(20):
            while True:
                found: list[usage_pb.UsageRecord] = []
                for request_id in request_ids:
                    listed = await stub.ListUsage(
                        usage_pb.ListUsageRequest(request_id=request_id), timeout=10, wait_for_ready=True
                    )
                    found += listed.records
                if len({record.request_id for record in found}) == len(request_ids):
                    return found
                await asyncio.sleep(0.05)  # journals are shipped a moment after the answer, in another process


@pytest.mark.parametrize("key", WRONG_KEYS, ids=["no key", "another key"])
async def test_providers_refuse_who_is_not_the_router(topology: Topology, key: str | None) -> None:
    chat = said("Hello", "echo")
    target = inference_pb.Target(provider="demo", model="echo")
    async with channel_with(topology.providers, key) as channel:
        inference, providers = InferenceServiceStub(channel), ProviderServiceStub(channel)
        asked: list[Awaitable[object]] = [
            inference.CompleteChat(inference_pb.CompleteChatRequest(chat=chat, target=target), timeout=10),
            inference.CountTokens(inference_pb.CountTokensRequest(chat=chat, target=target), timeout=10),
            providers.ListProviders(ListProvidersRequest(), timeout=10),
            inference.StreamChat(inference_pb.StreamChatRequest(chat=chat, target=target), timeout=10).read(),
        ]
        for call in asked:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert from_rpc_error(caught.value).reason == reasons.ERROR_REASON_CALLER_UNAUTHENTICATED


async def test_providers_refuse_the_master_key_too(topology: Topology) -> None:
    async with channel_with(topology.providers, MASTER_KEY) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ProviderServiceStub(channel).ListProviders(ListProvidersRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("key", WRONG_KEYS, ids=["no key", "another key"])
async def test_usage_refuses_who_has_no_key(topology: Topology, key: str | None) -> None:
    async with channel_with(topology.usage, key) as channel:
        stub = UsageServiceStub(channel)
        for call in (
            stub.ListUsage(usage_pb.ListUsageRequest(), timeout=10),
            stub.RecordUsage(usage_pb.RecordUsageRequest(), timeout=10),
            stub.SummarizeUsage(usage_pb.SummarizeUsageRequest(), timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_internal_key_opens_both(topology: Topology) -> None:
    async with channel_with(topology.providers, INTERNAL_KEY) as channel:
        listed = await ProviderServiceStub(channel).ListProviders(ListProvidersRequest(), timeout=10)
        assert "demo" in {provider.name for provider in listed.providers}
    async with channel_with(topology.usage, INTERNAL_KEY) as channel:
        await UsageServiceStub(channel).SummarizeUsage(usage_pb.SummarizeUsageRequest(), timeout=10)


async def test_the_internal_key_is_no_callers_key(topology: Topology) -> None:
    async with connect(topology.router, api_key=INTERNAL_KEY) as client:
        with pytest.raises(GatewayError) as caught:
            await client.complete(said("Hello"), timeout=10)
    assert caught.value.reason == reasons.ERROR_REASON_CALLER_UNAUTHENTICATED


async def test_a_grpc_caller_sees_the_answers_that_an_http_caller_sees(topology: Topology, client: Client) -> None:
    whole, metadata = await client.complete_with_metadata(said("one two three"), timeout=20)
    (choice,) = whole.choices
    (part,) = choice.message.parts
    streamed = await client.stream_reply(said("one two three"), timeout=20)
    assert streamed.choices[0].message.parts[0].text.text == part.text.text
    url = f"http://127.0.0.1:{topology.http_port}/v1/chat/completions"
    document = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    async with aiohttp.ClientSession() as session, session.post(url, json=document, headers=headers) as answer:
        assert answer.status == 200
        body = await answer.json()
        for name in ("x-trunkline-deployment", "x-trunkline-provider", "x-trunkline-attempts"):
            assert answer.headers[name] == metadata[name]
    assert body["choices"][0]["message"]["content"] == part.text.text
    assert whole.id == streamed.id
    assert body["usage"]["prompt_tokens"] == whole.usage.input_tokens == streamed.usage.input_tokens
    assert body["usage"]["completion_tokens"] == whole.usage.output_tokens == streamed.usage.output_tokens


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("name", ["UPSTREAM_OVERLOADED", "CONTEXT_LENGTH_EXCEEDED", "UPSTREAM_REJECTED_CREDENTIALS"])
async def test_a_grpc_caller_sees_the_reason(client: Client, name: str, streamed: bool) -> None:
    chat = said(f"error: {name}")
    with pytest.raises(GatewayError) as caught:
        await (
            client.stream_reply(chat, timeout=20, request_id="four-reason")
            if streamed
            else client.complete(chat, timeout=20, request_id="four-reason")
        )
    assert caught.value.name == name
    assert caught.value.metadata["request_id"] == "four-reason"
    assert caught.value.metadata["provider"] == "demo"


async def test_a_restart_of_the_usage_process_loses_no_record(topology: Topology, client: Client) -> None:
    usage = topology.processes["usage"]
    request_ids = [f"restart-{uuid.uuid4().hex}" for _ in range(24)]
    before, while_away, after = request_ids[:8], request_ids[8:16], request_ids[16:]
    await asyncio.gather(*(client.complete(said("before"), request_id=name, timeout=20) for name in before))
    assert await asyncio.to_thread(usage.terminate) == 0
    # The ledger's absence is nothing to a caller: the journal keeps what it does not have yet.
    await asyncio.gather(*(client.complete(said("away"), request_id=name, timeout=20) for name in while_away))
    usage.start()
    await asyncio.gather(*(client.complete(said("after"), request_id=name, timeout=20) for name in after))
    await asyncio.to_thread(usage.wait_for_grpc, topology.usage, "trunkline.usage.v1.UsageService")
    records = await recorded(topology, request_ids)
    assert sorted(record.request_id for record in records) == sorted(request_ids), "none lost, none twice"
    assert {record.outcome for record in records} == {usage_pb.OUTCOME_COMPLETED}
    assert {record.key_id for record in records} == {"master"}


def test_no_process_has_logged_a_key(topology: Topology) -> None:
    for name, process in topology.processes.items():
        written = process.log.read_text()
        assert MASTER_KEY not in written, name
        assert INTERNAL_KEY not in written, name
        assert "one two three" not in written, name
