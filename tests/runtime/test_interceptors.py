"""What happens around each call, the same over a local channel and over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.runtime.drain import Drain
from services.runtime.interceptors import Authorize, instrument, require_bearer
from services.runtime.local import LocalServer
from services.runtime.telemetry import REQUEST_ID, valid_request_id
from tests.runtime.transports import (
    TRANSPORTS,
    Stub,
    Witness,
    channel_to,
    complete_request,
    completed,
    forever,
    scripted,
    stream_request,
    streamed,
    text_of,
)
from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import STATUS_TRAILER, from_rpc_error
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.router.v1 import chat_service_pb2 as pb
from trunkline.router.v1 import chat_service_pb2_grpc as pb_grpc

everywhere = pytest.mark.parametrize("transport", TRANSPORTS)
LOGGER = "services.runtime.interceptors"


@contextlib.asynccontextmanager
async def instrumented(
    transport: str, *, drain: Drain | None = None, authorize: Authorize | None = None, **methods: Any
) -> AsyncIterator[Stub]:
    def register(server: grpc.aio.Server) -> None:
        registrar = instrument(server, service="router", drain=drain, authorize=authorize)
        pb_grpc.add_ChatServiceServicer_to_server(scripted(**methods), registrar)

    async with channel_to(transport, register) as channel:
        yield pb_grpc.ChatServiceStub(channel)


def failing(error: BaseException) -> dict[str, Any]:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        raise error

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        raise error

    return {"CompleteChat": complete, "StreamChat": stream}


async def errors_of(stub: Stub, **options: Any) -> list[grpc.aio.AioRpcError]:
    """Return what a unary call and a begun stream end with."""
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await stub.CompleteChat(complete_request(), **options)
    call = stub.StreamChat(stream_request(), **options)
    assert text_of(await call.read()) == "a"
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        await call.read()
    return [unary.value, stream.value]


@everywhere
async def test_a_gateway_error_becomes_a_status_with_details_and_the_request_id(transport: str) -> None:
    error = GatewayError(
        reasons.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, "too long", param="messages", metadata={"limit": "8192"}
    )
    async with instrumented(transport, **failing(error)) as stub:
        for caught in await errors_of(stub, metadata=(("x-request-id", "req_7"),)):
            assert (caught.code(), caught.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "too long")
            received = from_rpc_error(caught)
            assert received.reason == reasons.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED
            assert received.metadata == {"limit": "8192", "param": "messages", "request_id": "req_7"}
    assert error.metadata == {"limit": "8192", "param": "messages"}


@everywhere
async def test_trailers_set_before_the_failure_are_kept(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        context.set_trailing_metadata((("x-cost", "1"),))
        raise GatewayError(reasons.ERROR_REASON_MODEL_NOT_FOUND, "none")

    async with instrumented(transport, CompleteChat=complete) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
    assert {key for key, _ in caught.value.trailing_metadata()} == {"x-cost", STATUS_TRAILER}


@everywhere
async def test_an_unexpected_exception_is_internal_and_says_only_the_request_id(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with instrumented(transport, **failing(ValueError("the prompt"))) as stub:
        for caught in await errors_of(stub, metadata=(("x-request-id", "req_7"),)):
            assert caught.code() is grpc.StatusCode.INTERNAL
            assert caught.details() == "internal error, request id req_7"
            assert from_rpc_error(caught).metadata == {"request_id": "req_7"}
    records = [record for record in caplog.records if record.name == LOGGER]
    assert [record.levelno for record in records] == [logging.ERROR] * 2
    for record, method in zip(records, ("CompleteChat", "StreamChat"), strict=True):
        fields = record.__dict__
        assert fields["method"] == f"trunkline.router.v1.ChatService/{method}"
        assert (fields["service"], fields["code"], fields["reason"]) == ("router", "INTERNAL", "INTERNAL")
        assert fields["duration_ms"] >= 0
        assert record.exc_info is not None
        assert record.exc_info[0] is ValueError
        assert record.getMessage() == "call failed"


@everywhere
async def test_a_handlers_own_abort_passes(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    async with instrumented(transport, CompleteChat=complete) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert [(r.getMessage(), r.__dict__["code"]) for r in caplog.records if r.name == LOGGER] == [
        ("call aborted", "NOT_FOUND")
    ]


@everywhere
async def test_successful_calls_are_logged_for_debugging_only(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed("1")

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")

    async with instrumented(transport, CompleteChat=complete, StreamChat=stream) as stub:
        caplog.set_level(logging.INFO, LOGGER)
        await stub.CompleteChat(complete_request())
        assert caplog.records == []
        caplog.set_level(logging.DEBUG, LOGGER)
        await stub.CompleteChat(complete_request())
        assert [text_of(message) async for message in stub.StreamChat(stream_request())] == ["a"]
    assert [r.getMessage() for r in caplog.records if r.name == LOGGER] == ["call answered"] * 2


@everywhere
@pytest.mark.parametrize(
    ("sent", "kept"),
    [("req_7", True), ("a.b:c/d@e+f=g~h-i_j", True), (None, False), ("has space", False), ("x" * 129, False)],
)
async def test_the_request_id_comes_from_the_metadata_or_is_minted(
    transport: str, sent: str | None, kept: bool
) -> None:
    seen: list[str] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        seen.append(REQUEST_ID.get())
        return completed("1")

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        seen.append(REQUEST_ID.get())
        yield streamed("a")

    metadata = () if sent is None else (("x-request-id", sent),)
    async with instrumented(transport, CompleteChat=complete, StreamChat=stream) as stub:
        await stub.CompleteChat(complete_request(), metadata=metadata)
        async for _ in stub.StreamChat(stream_request(), metadata=metadata):
            pass
    assert all(valid_request_id(request_id) for request_id in seen)
    assert (seen == [sent, sent]) == kept
    assert kept or seen[0] != seen[1]
    assert REQUEST_ID.get() == ""


async def test_a_local_call_leaves_its_callers_request_id_as_it_was() -> None:
    token = REQUEST_ID.set("outer")
    async with instrumented("local", **failing(ValueError("x"))) as stub:
        await errors_of(stub, metadata=(("x-request-id", "inner"),))
        assert REQUEST_ID.get() == "outer"
    REQUEST_ID.reset(token)


@everywhere
async def test_cancellation_reaches_the_handler_and_is_no_failure(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    witness = Witness()
    drain = Drain()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        with witness:
            await forever()

    async with instrumented(transport, drain=drain, StreamChat=stream) as stub:
        call = stub.StreamChat(stream_request())
        await call.read()
        reading = asyncio.ensure_future(call.read())
        await witness.started.wait()
        call.cancel()
        await asyncio.wait({reading})
        assert await witness.end() is asyncio.CancelledError
        assert await drain.idle(1)
    assert [record for record in caplog.records if record.name == LOGGER] == []


@everywhere
async def test_a_deadline_cancels_through_the_instrument(transport: str) -> None:
    witness = Witness()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        with witness:
            await forever()

    async with instrumented(transport, CompleteChat=complete) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request(), timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await witness.end() is asyncio.CancelledError


@everywhere
async def test_a_cancellation_nobody_asked_for_is_answered_as_internal(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        inner = asyncio.ensure_future(forever())
        asyncio.get_running_loop().call_soon(inner.cancel)
        await inner

    async with instrumented(transport, CompleteChat=complete) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


@everywhere
async def test_a_draining_server_refuses_new_calls_and_finishes_the_old(transport: str) -> None:
    drain = Drain()
    gate = asyncio.Event()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed("1")

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        await gate.wait()
        yield streamed("b")

    async with instrumented(transport, drain=drain, CompleteChat=complete, StreamChat=stream) as stub:
        await stub.CompleteChat(complete_request())
        assert drain.in_flight == 0
        call = stub.StreamChat(stream_request())
        assert text_of(await call.read()) == "a"
        assert drain.in_flight == 1
        drain.begin()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert from_rpc_error(caught.value).reason == reasons.ERROR_REASON_SERVER_DRAINING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StreamChat(stream_request()).read()
        assert from_rpc_error(caught.value).reason == reasons.ERROR_REASON_SERVER_DRAINING
        assert not await drain.idle(0.01)
        gate.set()
        assert text_of(await call.read()) == "b"
        assert await call.read() is grpc.aio.EOF
        assert await drain.idle(1)
        assert drain.in_flight == 0


@everywhere
async def test_require_bearer_lets_only_the_right_key_pass(transport: str) -> None:
    reached: list[str] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        reached.append(request.chat.model)
        return completed("1")

    async with instrumented(transport, authorize=require_bearer("key"), CompleteChat=complete) as stub:
        await stub.CompleteChat(complete_request("right"), metadata=(("authorization", "Bearer key"),))
        for values in ([], ["Bearer ke"], ["bearer key"], ["key"], ["Bearer key", "Bearer key"], ["Bearer key", "x"]):
            metadata = [("authorization", value) for value in values]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CompleteChat(complete_request("wrong"), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert from_rpc_error(caught.value).reason == reasons.ERROR_REASON_CALLER_UNAUTHENTICATED
    assert reached == ["right"]


@everywhere
async def test_a_method_the_servicer_left_out_stays_unimplemented(transport: str) -> None:
    async with instrumented(transport) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CountTokens(pb.CountTokensRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_leaving_a_stream_early_closes_the_handler_and_leaves_the_drain() -> None:
    witness = Witness()
    drain = Drain()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        with witness:
            yield streamed("a")
            yield streamed("b")

    async with instrumented("local", drain=drain, StreamChat=stream) as stub:
        async for _ in stub.StreamChat(stream_request()):
            break
        assert await witness.end() is GeneratorExit
        assert await drain.idle(1)


def test_a_handler_that_is_not_async_is_refused_at_registration() -> None:
    def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed("1")

    registrar = instrument(LocalServer(), service="router")
    with pytest.raises(TypeError, match="ChatService/CompleteChat must be a coroutine function"):
        pb_grpc.add_ChatServiceServicer_to_server(scripted(CompleteChat=complete), registrar)


async def test_the_registrar_only_registers() -> None:
    registrar = instrument(LocalServer(), service="router")
    with pytest.raises(grpc.aio.UsageError):
        registrar.add_insecure_port("127.0.0.1:0")
    with pytest.raises(grpc.aio.UsageError):
        registrar.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(b"", b"")]))
    for wait in (registrar.start, lambda: registrar.stop(None), registrar.wait_for_termination):
        with pytest.raises(grpc.aio.UsageError):
            await wait()
