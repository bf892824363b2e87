"""What is particular to local calls: where the handler runs, when it runs, and how promptly it ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.runtime.local_context import ReceivedMetadata
from tests.runtime.transports import (
    Witness,
    complete_request,
    completed,
    forever,
    serve_locally,
    stream_request,
    streamed,
)
from trunkline.router.v1 import chat_service_pb2 as pb

SOON = 0.05


async def test_messages_are_passed_by_reference() -> None:
    answer = completed("1")
    seen: list[object] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        seen.append(request)
        return answer

    _, stub = serve_locally(CompleteChat=complete)
    request = complete_request()
    assert await stub.CompleteChat(request) is answer
    assert seen[0] is request


async def test_a_handler_runs_in_its_callers_task_and_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    tasks: list[object] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        tasks.append(asyncio.current_task())
        variable.set("from the handler")
        assert context.peer() == "local"
        return completed("1")

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        tasks.append(asyncio.current_task())
        yield streamed("a")

    _, stub = serve_locally(CompleteChat=complete, StreamChat=stream)
    await stub.CompleteChat(complete_request())
    async for _ in stub.StreamChat(stream_request()):
        pass
    assert tasks == [asyncio.current_task()] * 2
    assert variable.get() == "from the handler"


async def test_a_handler_runs_only_while_its_caller_waits() -> None:
    steps: list[str] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        steps.append("unary")
        return completed("1")

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        steps.append("first")
        yield streamed("a")
        steps.append("second")
        yield streamed("b")

    _, stub = serve_locally(CompleteChat=complete, StreamChat=stream)
    unary, call = stub.CompleteChat(complete_request()), stub.StreamChat(stream_request())
    await asyncio.sleep(0)
    assert steps == []
    await unary
    await call.read()
    await asyncio.sleep(0)
    assert steps == ["unary", "first"]


async def test_the_callers_task_is_not_left_cancelling_after_a_deadline_or_a_cancel() -> None:
    task = asyncio.current_task()
    assert task is not None

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await forever()

    _, stub = serve_locally(CompleteChat=complete)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.CompleteChat(complete_request(), timeout=SOON)
    assert task.cancelling() == 0
    call = stub.CompleteChat(complete_request())
    asyncio.get_running_loop().call_soon(call.cancel)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert task.cancelling() == 0
    await asyncio.sleep(0)


@pytest.mark.parametrize(("outer", "inner"), [(SOON, 60), (60, SOON), (SOON, SOON)])
async def test_nested_deadlines_end_the_right_call(outer: float, inner: float) -> None:
    seen: list[str] = []

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        await forever()
        yield streamed("never")

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        try:
            await stub.StreamChat(stream_request(), timeout=inner).read()
        except grpc.aio.AioRpcError as error:
            seen.append(error.code().name)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return completed("after the inner deadline")

    _, stub = serve_locally(CompleteChat=complete, StreamChat=stream)
    call = stub.CompleteChat(complete_request(), timeout=outer)
    if outer < inner:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert seen == ["cancelled"]
    elif inner < outer:
        assert (await call).reply.id == "after the inner deadline"
        assert seen == ["DEADLINE_EXCEEDED"]
    else:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancelled_caller_stays_cancelled_when_the_deadline_comes_in_the_same_moment() -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await forever()

    _, stub = serve_locally(CompleteChat=complete)
    loop = asyncio.get_running_loop()
    call = stub.CompleteChat(complete_request(), timeout=60)

    async def wait() -> None:
        await call

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    expiring: Any = call
    loop.call_soon(expiring.expire)
    loop.call_soon(waiting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()


async def test_a_long_deadline_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.deadline._LONG", 0.0)
    witness = Witness()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        with witness:
            await forever()

    _, stub = serve_locally(CompleteChat=complete)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CompleteChat(complete_request(), timeout=SOON)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert SOON <= loop.time() - begin < 2
    assert witness.raised is asyncio.CancelledError


async def test_a_call_that_ends_in_time_leaves_no_deadline_behind() -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed("1")

    server, stub = serve_locally(CompleteChat=complete)
    for _ in range(10):
        await stub.CompleteChat(complete_request(), timeout=600)
    assert not any(server.deadlines._slots.values())


async def test_a_dropped_stream_ends_its_handler_without_the_garbage_collector() -> None:
    witness = Witness()
    over: list[bool] = []

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        context.add_done_callback(lambda done: over.append(done.cancelled()))
        with witness:
            yield streamed("a")
            yield streamed("b")

    _, stub = serve_locally(StreamChat=stream)
    gc.disable()
    try:
        async for _ in stub.StreamChat(stream_request(), timeout=60):
            break
        assert await witness.end() is GeneratorExit
    finally:
        gc.enable()
    assert over == [True]


@pytest.mark.parametrize("timeout_", [None, 1, 60])
async def test_a_call_that_failed_is_freed_without_the_garbage_collector(timeout_: float | None) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    _, stub = serve_locally(CompleteChat=complete)
    gc.disable()
    try:
        call = stub.CompleteChat(complete_request(), timeout=timeout_)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        freed = weakref.ref(call)
        del call
        assert freed() is None
    finally:
        gc.enable()


async def test_aclose_waits_until_the_handler_has_cleaned_up() -> None:
    cleaned: list[str] = []

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        try:
            yield streamed("a")
        finally:
            await asyncio.sleep(0)
            cleaned.append("yes")

    _, stub = serve_locally(StreamChat=stream)
    call: Any = stub.StreamChat(stream_request())
    await call.read()
    await call.aclose()
    assert cleaned == ["yes"]
    assert call.cancelled()
    await call.aclose()
    with pytest.raises(asyncio.CancelledError):
        await call.read()


async def test_aclose_from_another_task_wakes_the_reader() -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        with witness:
            await forever()
            yield streamed("never")

    _, stub = serve_locally(StreamChat=stream)
    call: Any = stub.StreamChat(stream_request())
    reading = asyncio.create_task(call.read())
    await witness.started.wait()
    await call.aclose()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert witness.raised is asyncio.CancelledError


async def test_what_a_handler_raises_while_it_is_closed_is_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        try:
            yield streamed("a")
        finally:
            raise ValueError("secret prompt")

    server, stub = serve_locally(StreamChat=stream)
    call = stub.StreamChat(stream_request())
    await call.read()
    call.cancel()
    await server.stop(1)
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_two_tasks_cannot_wait_for_the_same_call() -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        with witness:
            await forever()
            yield streamed("never")

    _, stub = serve_locally(StreamChat=stream)
    call: Any = stub.StreamChat(stream_request())
    reading = asyncio.create_task(call.read())
    await witness.started.wait()
    with pytest.raises(grpc.aio.UsageError):
        await call.read()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_unary_call_may_be_awaited_by_two_tasks() -> None:
    gate = asyncio.Event()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        await gate.wait()
        return completed("1")

    _, stub = serve_locally(CompleteChat=complete)
    call = stub.CompleteChat(complete_request())

    async def wait() -> str:
        return (await call).reply.id

    waiting = [asyncio.create_task(wait()) for _ in range(2)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*waiting) == ["1", "1"]


async def test_a_handler_that_cancels_itself_does_not_cancel_its_caller() -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        raise asyncio.CancelledError

    _, stub = serve_locally(CompleteChat=complete)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CompleteChat(complete_request())
    assert caught.value.code() is grpc.StatusCode.CANCELLED


async def test_a_handler_that_yields_after_its_abort_is_stopped() -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        with witness:
            with pytest.raises(grpc.aio.AbortError):
                await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
            yield streamed("never")

    _, stub = serve_locally(StreamChat=stream)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.StreamChat(stream_request()).read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert await witness.end() is GeneratorExit


async def test_a_cancelled_caller_that_waits_for_headers_is_cancelled() -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> AsyncIterator[pb.StreamChatResponse]:
        with witness:
            await forever()
            yield streamed("never")

    _, stub = serve_locally(StreamChat=stream)
    call = stub.StreamChat(stream_request())
    waiting = asyncio.create_task(call.initial_metadata())
    await witness.started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert witness.raised is asyncio.CancelledError


def test_received_metadata_is_what_grpc_makes_of_the_same_pairs() -> None:
    pairs = (("a", "1"), ("b-bin", b"2"), ("a", "3"))
    received, expected = ReceivedMetadata(pairs), grpc.aio.Metadata(*pairs)
    assert list(received) == list(pairs)
    assert (received["a"], received.get("c"), received.get_all("a")) == ("1", None, ["1", "3"])
    assert received == expected
    received.add("c", "4")
    received["a"] = "5"
    assert list(received) == [("a", "5"), ("a", "3"), ("b-bin", b"2"), ("c", "4")]
    assert len(received) == 4
