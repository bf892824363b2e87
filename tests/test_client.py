"""The typed client against a real grpc.aio server and over a local channel, with scripted services behind both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.runtime.interceptors import instrument
from tests.runtime.transports import Witness, channel_to, forever
from trunkline.client import Client, connect
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.messages import answer_text, chat, user
from trunkline.router.v1 import chat_service_pb2 as chat_pb
from trunkline.router.v1 import chat_service_pb2_grpc, deployment_service_pb2_grpc, model_service_pb2_grpc
from trunkline.router.v1 import deployment_service_pb2 as deployment_pb
from trunkline.router.v1 import model_service_pb2 as model_pb

both = pytest.mark.parametrize("transport", ["local", "tcp"])

ANSWER_METADATA = (("x-request-id", "req_1"), ("x-trunkline-deployment", "gpt/0"))


def text_events(*pieces: str, finish: bool = True) -> list[ChatEvent]:
    begin = chat_pb2.Part(text=chat_pb2.TextPart())
    events = [
        ChatEvent(started=events_pb.Started(id="id", model="m")),
        ChatEvent(part_started=events_pb.PartStarted(begin=begin)),
        *(ChatEvent(text_delta=events_pb.TextDelta(text=piece)) for piece in pieces),
    ]
    if finish:
        finished = events_pb.ChoiceFinished(finish_reason=chat_pb2.FINISH_REASON_STOP)
        events += [ChatEvent(part_finished=events_pb.PartFinished()), ChatEvent(choice_finished=finished)]
    return events


class Chats(chat_service_pb2_grpc.ChatServiceServicer):
    """Answers by the model's name; remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.witness = Witness()

    def remember(self, request: Any, context: Any) -> str:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return str(request.chat.model)

    async def CompleteChat(self, request: chat_pb.CompleteChatRequest, context: Any) -> chat_pb.CompleteChatResponse:
        model = self.remember(request, context)
        if model == "slow":
            with self.witness:
                await forever()
        if model == "limited":
            raise GatewayError(
                reasons.ERROR_REASON_UPSTREAM_RATE_LIMITED, "slow down", metadata={"deployment": "a/0"}, retry_after=1.5
            )
        if model == "bare":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "a proxy said no")
        await context.send_initial_metadata(ANSWER_METADATA)
        part = chat_pb2.Part(text=chat_pb2.TextPart(text="Hello"))
        message = chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, parts=[part])
        choice = chat_pb2.Choice(message=message)
        return chat_pb.CompleteChatResponse(reply=chat_pb2.ChatReply(id="id", choices=[choice]))

    async def StreamChat(
        self, request: chat_pb.StreamChatRequest, context: Any
    ) -> AsyncIterator[chat_pb.StreamChatResponse]:
        model = self.remember(request, context)
        await context.send_initial_metadata(ANSWER_METADATA)
        first, *rest = text_events("He", "llo", finish=model != "truncated")
        yield chat_pb.StreamChatResponse(events=[first])
        if model == "slow":
            with self.witness:
                await forever()
        if model == "broken":
            yield chat_pb.StreamChatResponse(events=rest[:2])
            raise GatewayError(reasons.ERROR_REASON_STREAM_TRUNCATED, "broke off", metadata={"deployment": "gpt/0"})
        yield chat_pb.StreamChatResponse(events=rest)

    async def CountTokens(self, request: chat_pb.CountTokensRequest, context: Any) -> chat_pb.CountTokensResponse:
        self.remember(request, context)
        return chat_pb.CountTokensResponse(input_tokens=7, estimated=True)


class Models(model_service_pb2_grpc.ModelServiceServicer):
    async def ListModels(self, request: model_pb.ListModelsRequest, context: Any) -> model_pb.ListModelsResponse:
        names, following = (["c"], "") if request.page_token == "2" else (["a", "b"], "2")
        return model_pb.ListModelsResponse(models=[model_pb.Model(name=n) for n in names], next_page_token=following)

    async def GetModel(self, request: model_pb.GetModelRequest, context: Any) -> model_pb.GetModelResponse:
        if request.name != "a":
            raise GatewayError(reasons.ERROR_REASON_MODEL_NOT_FOUND, "no such model", metadata={"model": request.name})
        return model_pb.GetModelResponse(model=model_pb.Model(name="a"))


class Deployments(deployment_service_pb2_grpc.DeploymentServiceServicer):
    async def ListDeployments(
        self, request: deployment_pb.ListDeploymentsRequest, context: Any
    ) -> deployment_pb.ListDeploymentsResponse:
        return deployment_pb.ListDeploymentsResponse()

    async def ExplainRoute(
        self, request: deployment_pb.ExplainRouteRequest, context: Any
    ) -> deployment_pb.ExplainRouteResponse:
        return deployment_pb.ExplainRouteResponse(matched=request.model, max_attempts=3)


@contextlib.asynccontextmanager
async def client_of(transport: str, chats: Chats, api_key: str | None = "sk-1") -> AsyncIterator[Client]:
    def register(server: grpc.aio.Server) -> None:
        registrar = instrument(server, service="test")
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(chats, registrar)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), registrar)
        deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server(Deployments(), registrar)

    async with channel_to(transport, register) as channel, Client(channel, api_key=api_key) as client:
        yield client


@both
async def test_complete_sends_key_id_labels_and_metadata_and_returns_the_reply(transport: str) -> None:
    chats = Chats()
    async with client_of(transport, chats) as client:
        reply = await client.complete(
            chat("gpt", user("Hi")),
            timeout=5,
            request_id="req_7",
            labels={"team": "blue"},
            metadata={"traceparent": "00-1"},
        )
    assert answer_text(reply) == "Hello"
    assert chats.requests[0].chat.messages[0].parts[0].text.text == "Hi"
    assert dict(chats.requests[0].labels) == {"team": "blue"}
    sent = chats.metadata[0]
    assert (sent["authorization"], sent["x-request-id"], sent["traceparent"]) == ("Bearer sk-1", "req_7", "00-1")


@both
async def test_without_a_key_none_is_sent(transport: str) -> None:
    chats = Chats()
    async with client_of(transport, chats, api_key=None) as client:
        await client.complete(chat("gpt"))
    assert "authorization" not in chats.metadata[0]


@both
async def test_the_metadata_of_an_answer_can_be_had(transport: str) -> None:
    async with client_of(transport, Chats()) as client:
        reply, metadata = await client.complete_with_metadata(chat("gpt"))
        assert answer_text(reply) == "Hello"
        assert metadata["x-trunkline-deployment"] == "gpt/0"
        async with client.stream(chat("gpt")) as events:
            assert (await events.metadata())["x-request-id"] == "req_1"
            assert (await anext(events)).WhichOneof("event") == "started"


@both
async def test_a_stream_gives_each_event_in_order(transport: str) -> None:
    async with client_of(transport, Chats()) as client:
        events = [event async for event in client.stream(chat("gpt"), timeout=5, labels={"a": "b"})]
    assert events == text_events("He", "llo")


@both
async def test_a_streamed_reply_is_folded(transport: str) -> None:
    seen: list[str] = []
    async with client_of(transport, Chats()) as client:
        reply = await client.stream_reply(chat("gpt"), on_event=lambda event: seen.append(event.text_delta.text))
        assert answer_text(await client.stream_reply(chat("gpt"))) == "Hello"
    assert answer_text(reply) == "Hello"
    assert "".join(seen) == "Hello"


@both
async def test_a_typed_error_arrives_whole(transport: str) -> None:
    async with client_of(transport, Chats()) as client:
        with pytest.raises(GatewayError) as caught:
            await client.complete(chat("limited"), request_id="req_9")
    assert caught.value.name == "UPSTREAM_RATE_LIMITED"
    assert caught.value.message == "slow down"
    assert caught.value.retry_after == 1.5
    assert caught.value.metadata == {"deployment": "a/0", "request_id": "req_9"}


@both
async def test_an_error_after_the_stream_began_comes_after_its_events(transport: str) -> None:
    async with client_of(transport, Chats()) as client:
        stream = client.stream(chat("broken"))
        taken = [await anext(stream) for _ in range(3)]
        assert taken == text_events("He", "llo")[:3]
        for _ in range(2):
            with pytest.raises(GatewayError) as caught:
                await anext(stream)
            assert caught.value.name == "STREAM_TRUNCATED"
            assert caught.value.metadata["deployment"] == "gpt/0"


@both
async def test_a_stream_that_ends_well_without_its_end_is_truncated(transport: str) -> None:
    async with client_of(transport, Chats()) as client:
        with pytest.raises(GatewayError) as caught:
            await client.stream_reply(chat("truncated"))
    assert caught.value.name == "STREAM_TRUNCATED"


@both
async def test_a_bare_code_becomes_a_reason_too(transport: str) -> None:
    async with client_of(transport, Chats()) as client:
        with pytest.raises(GatewayError) as caught:
            await client.complete(chat("bare"))
    assert (caught.value.name, caught.value.message) == ("SERVICE_UNAVAILABLE", "a proxy said no")


@both
async def test_a_deadline_is_a_gateway_error(transport: str) -> None:
    chats = Chats()
    async with client_of(transport, chats) as client:
        with pytest.raises(GatewayError) as caught:
            await client.complete(chat("slow"), timeout=0.05)
        assert caught.value.name == "UPSTREAM_TIMEOUT"
        assert await chats.witness.end() is asyncio.CancelledError
        stream = client.stream(chat("slow"), timeout=0.05)
        await anext(stream)
        with pytest.raises(GatewayError) as caught:
            await anext(stream)
        assert caught.value.name == "UPSTREAM_TIMEOUT"


@both
async def test_leaving_a_stream_cancels_the_call(transport: str) -> None:
    chats = Chats()
    async with client_of(transport, chats) as client:
        async with client.stream(chat("slow")) as events:
            async for _ in events:
                break
            reading = asyncio.create_task(anext(events))
            await chats.witness.started.wait()
        assert await chats.witness.end() is asyncio.CancelledError
        # It is the call that was cancelled, not the task that reads: that gets an error.
        with pytest.raises(GatewayError) as caught:
            await reading
        assert caught.value.name == "CALLER_CANCELLED"


@both
async def test_cancelling_the_task_cancels_the_call_and_stays_a_cancellation(transport: str) -> None:
    chats = Chats()
    async with client_of(transport, chats) as client:
        waiting = asyncio.create_task(client.complete(chat("slow")))
        await chats.witness.started.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await chats.witness.end() is asyncio.CancelledError


@both
async def test_the_smaller_methods(transport: str) -> None:
    async with client_of(transport, Chats()) as client:
        counted = await client.count_tokens(chat("gpt", user("Hi")))
        assert (counted.input_tokens, counted.estimated) == (7, True)
        assert [model.name for model in await client.list_models(timeout=5)] == ["a", "b", "c"]
        assert (await client.get_model("a")).name == "a"
        with pytest.raises(GatewayError) as caught:
            await client.get_model("z")
        assert (caught.value.name, caught.value.metadata["model"]) == ("MODEL_NOT_FOUND", "z")
        assert (await client.explain_route("gpt")).max_attempts == 3


@both
@pytest.mark.parametrize("request_id", ["line\nbreak", "ümlaut"])
async def test_metadata_that_cannot_travel_is_an_invalid_request(transport: str, request_id: str) -> None:
    chats = Chats()
    async with client_of(transport, chats) as client:
        with pytest.raises(GatewayError) as caught:
            await client.complete(chat("gpt"), request_id=request_id)
        assert (caught.value.name, caught.value.param) == ("INVALID_REQUEST", "x-request-id")
        with pytest.raises(GatewayError):
            client.stream(chat("gpt"), metadata={"X-Upper": "a"})
    assert chats.requests == []


async def test_a_server_that_is_not_there_is_a_gateway_error(unused_tcp_port: int) -> None:
    async with connect(f"127.0.0.1:{unused_tcp_port}", api_key="sk-1") as client:
        with pytest.raises(GatewayError) as caught:
            await client.complete(chat("gpt"), timeout=5)
        assert caught.value.name == "SERVICE_UNAVAILABLE"
        with pytest.raises(GatewayError) as caught:
            await anext(client.stream(chat("gpt"), timeout=5))
        assert caught.value.name == "SERVICE_UNAVAILABLE"


async def test_a_closed_client_refuses_calls_and_ends_those_in_flight(unused_tcp_port: int) -> None:
    chats = Chats()
    server = grpc.aio.server()
    chat_service_pb2_grpc.add_ChatServiceServicer_to_server(chats, server)
    server.add_insecure_port(f"127.0.0.1:{unused_tcp_port}")
    await server.start()
    client = connect(f"127.0.0.1:{unused_tcp_port}")
    stream = client.stream(chat("slow"))
    await anext(stream)
    reading = asyncio.create_task(anext(stream))
    await chats.witness.started.wait()
    await client.close()
    with pytest.raises(GatewayError) as caught:
        await reading
    assert caught.value.name == "CALLER_CANCELLED"
    with pytest.raises(GatewayError) as caught:
        await client.complete(chat("gpt"))
    assert caught.value.name == "SERVICE_UNAVAILABLE"
    await server.stop(None)


async def test_a_message_that_is_too_large_is_a_gateway_error() -> None:
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", 1000),))
    chat_service_pb2_grpc.add_ChatServiceServicer_to_server(Chats(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connect(f"dns:///127.0.0.1:{port}") as client:
        with pytest.raises(GatewayError) as caught:
            await client.complete(chat("gpt", user("x" * 2000)))
        assert caught.value.name == "REQUEST_TOO_LARGE"
    await server.stop(None)
