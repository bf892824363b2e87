"""The same behaviours over a local channel, a unix socket and TCP: a caller cannot tell which one it uses."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from tests.runtime.transports import (
    TRANSPORTS,
    Witness,
    channel_to,
    complete_request,
    completed,
    forever,
    scripted,
    serving,
    stream_request,
    streamed,
    text_of,
)
from trunkline.router.v1 import chat_service_pb2 as pb
from trunkline.router.v1 import chat_service_pb2_grpc as pb_grpc

pytestmark = pytest.mark.parametrize("transport", TRANSPORTS)

SOON = 0.1
STATUS_TRAILER = "grpc-status-details-bin"


class RichStatus(grpc.Status):
    code = grpc.StatusCode.UNAVAILABLE
    details = "busy"
    trailing_metadata = ((STATUS_TRAILER, status_pb2.Status(code=14, message="busy").SerializeToString()),)


async def test_a_unary_call_returns_the_answer(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed(request.chat.model)

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request("gpt"), wait_for_ready=True)
        assert (await call).reply.id == "gpt"
        assert (await call).reply.id == "gpt"
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()
        assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_yields_its_messages_in_order_and_ends(transport: str) -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        for number in range(100):
            yield streamed(str(number))

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())
        assert [text_of(message) async for message in call] == [str(number) for number in range(100)]
        assert call.done()
        assert await call.code() is grpc.StatusCode.OK


async def test_read_returns_messages_and_then_eof_for_ever(transport: str) -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        yield streamed("b")

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())
        assert text_of(await call.read()) == "a"
        assert text_of(await call.read()) == "b"
        assert await call.read() is grpc.aio.EOF
        assert await call.read() is grpc.aio.EOF


async def test_a_stream_may_be_empty(transport: str) -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        return
        yield

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        assert [message async for message in stub.StreamChat(stream_request())] == []


async def test_metadata_reaches_the_handler(transport: str) -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        seen.extend((key, value) for key, value in context.invocation_metadata() if key.startswith("x-"))
        assert context.peer()
        return completed("")

    sent = (("x-request-id", "req_1"), ("x-twice", "a"), ("x-twice", "b"), ("x-blob-bin", b"\x00\xff"))
    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        await stub.CompleteChat(complete_request(), metadata=sent)
        assert sorted(seen) == sorted(sent)
        seen.clear()
        await stub.CompleteChat(complete_request(), metadata=grpc.aio.Metadata(("x-a", "1")))
        assert seen == [("x-a", "1")]


@pytest.mark.parametrize("pair", [("X-Upper", "a"), ("x-blob-bin", "text"), ("x-number", 1)])
async def test_metadata_that_cannot_travel_is_refused(transport: str, pair: Any) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        raise AssertionError("must not be reached")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        with pytest.raises((ValueError, TypeError, grpc.aio.BaseError)):
            await stub.CompleteChat(complete_request(), metadata=(pair,))


async def test_unary_initial_and_trailing_metadata_reach_the_caller(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        await context.send_initial_metadata((("x-deployment", "a/0"),))
        context.set_trailing_metadata((("x-cost", "1"), ("x-blob-bin", b"\x00")))
        return completed("1")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())
        assert (await call.initial_metadata())["x-deployment"] == "a/0"
        assert tuple(await call.trailing_metadata()) == (("x-cost", "1"), ("x-blob-bin", b"\x00"))
        assert (await call).reply.id == "1"


async def test_stream_initial_metadata_comes_before_the_first_message_and_loses_none(transport: str) -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        await context.send_initial_metadata((("x-deployment", "a/0"),))
        yield streamed("a")
        yield streamed("b")
        context.set_trailing_metadata((("x-cost", "1"),))

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())
        assert (await call.initial_metadata())["x-deployment"] == "a/0"
        assert (await call.initial_metadata())["x-deployment"] == "a/0"
        assert [text_of(message) async for message in call] == ["a", "b"]
        assert (await call.trailing_metadata())["x-cost"] == "1"


async def test_initial_metadata_of_a_call_that_fails_is_empty_and_the_error_follows(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        yield streamed("never")

    async with serving(transport, scripted(CompleteChat=complete, StreamChat=stream)) as stub:
        unary = stub.CompleteChat(complete_request())
        assert tuple(await unary.initial_metadata()) == ()
        with pytest.raises(grpc.aio.AioRpcError):
            await unary
        streaming = stub.StreamChat(stream_request())
        assert tuple(await streaming.initial_metadata()) == ()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(streaming))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_sending_initial_metadata_twice_is_a_usage_error(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        await context.send_initial_metadata((("x-a", "1"),))
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata((("x-a", "2"),))
        return completed("")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())
        await call
        assert (await call.initial_metadata())["x-a"] == "1"


async def test_a_unary_deadline_ends_the_call_and_cancels_the_handler(transport: str) -> None:
    witness = Witness()
    remaining: list[float | None] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        remaining.append(context.time_remaining())
        with witness:
            await forever()

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request(), timeout=SOON)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert caught.value.details() == "Deadline Exceeded"
        assert await witness.end() is asyncio.CancelledError
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not call.cancelled()
    assert remaining[0] is not None
    assert 0 < remaining[0] < SOON * 2  # the wire rounds it up


async def test_without_a_deadline_no_time_is_known(transport: str) -> None:
    seen: list[float | None] = []

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        seen.append(context.time_remaining())
        return completed("")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())
        assert call.time_remaining() is None
        await call
    assert seen == [None]


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_deadline_in_the_past_ends_the_call_at_once(transport: str, seconds: float) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await forever()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        await forever()
        yield streamed("never")

    async with serving(transport, scripted(CompleteChat=complete, StreamChat=stream)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request(), timeout=seconds)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(stub.StreamChat(stream_request(), timeout=seconds)))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_handler_that_ignores_cancellation_cannot_answer_after_the_deadline(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        try:
            await forever()
        except asyncio.CancelledError:
            return completed("late")
        raise AssertionError

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request(), timeout=SOON)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_deadline_while_a_message_is_awaited_cancels_the_handler(transport: str) -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        with witness:
            await forever()

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        messages = aiter(stub.StreamChat(stream_request(), timeout=SOON))
        assert text_of(await anext(messages)) == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(messages)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await witness.end() is asyncio.CancelledError


async def test_a_stream_deadline_while_nobody_reads_ends_the_handler(transport: str) -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        with witness:
            yield streamed("a")
            await forever()

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request(), timeout=SOON)
        assert text_of(await call.read()) == "a"
        assert await witness.end() in {asyncio.CancelledError, GeneratorExit}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_cancelling_a_unary_call_wakes_the_caller_and_the_handler(transport: str) -> None:
    witness = Witness()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        with witness:
            await forever()

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())

        async def wait() -> None:
            await call

        waiting = asyncio.create_task(wait())
        await witness.started.wait()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await witness.end() is asyncio.CancelledError
        assert call.cancelled()
        assert call.done()
        assert not call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"


async def test_a_call_cancelled_before_it_is_awaited_raises_cancelled(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await forever()

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_cancelling_the_task_that_awaits_cancels_the_handler(transport: str) -> None:
    witness = Witness()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        with witness:
            await forever()

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())

        async def wait() -> None:
            await call

        waiting = asyncio.create_task(wait())
        await witness.started.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        assert await witness.end() is asyncio.CancelledError
        assert call.cancelled()


async def test_a_timeout_around_the_call_is_the_callers_own(transport: str) -> None:
    witness = Witness()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        with witness:
            await forever()

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await stub.CompleteChat(complete_request(), timeout=60)
        assert await witness.end() is asyncio.CancelledError


async def test_cancelling_a_stream_wakes_the_reader_and_the_handler(transport: str) -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        with witness:
            await forever()

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())

        async def read() -> None:
            async for _ in call:
                pass

        reading = asyncio.create_task(read())
        await witness.started.wait()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await witness.end() is asyncio.CancelledError
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED


async def test_cancelling_a_stream_between_messages_ends_the_handler(transport: str) -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        with witness:
            yield streamed("a")
            await forever()

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())
        await call.read()
        assert call.cancel()
        assert await witness.end() in {asyncio.CancelledError, GeneratorExit}
        with pytest.raises(asyncio.CancelledError):
            await call.read()


async def test_leaving_a_stream_early_and_cancelling_it_ends_the_handler(transport: str) -> None:
    witness = Witness()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        with witness:
            for number in itertools.count():
                yield streamed(str(number))
                await asyncio.sleep(0)

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())
        async for _ in call:
            break
        call.cancel()
        assert await witness.end() in {asyncio.CancelledError, GeneratorExit}


async def test_cancelling_the_task_that_reads_ends_the_handler(transport: str) -> None:
    witness = Witness()
    received = asyncio.Event()

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        with witness:
            await forever()

    async with serving(transport, scripted(StreamChat=stream)) as stub:

        async def read() -> None:
            async for _ in stub.StreamChat(stream_request()):
                received.set()

        reading = asyncio.create_task(read())
        await received.wait()
        await witness.started.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await witness.end() is asyncio.CancelledError


async def test_abort_ends_the_call_with_its_status_and_trailers(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", ((STATUS_TRAILER, b"\x08\x05"), ("x-a", "1")))

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == "gone"
            assert caught.value.trailing_metadata()[STATUS_TRAILER] == b"\x08\x05"
            assert caught.value.trailing_metadata()["x-a"] == "1"


async def test_abort_keeps_trailers_that_were_set_before(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        context.set_trailing_metadata((("x-a", "1"),))
        assert tuple(context.trailing_metadata()) == (("x-a", "1"),)
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert tuple(caught.value.trailing_metadata()) == (("x-a", "1"),)


async def test_abort_with_a_rich_status_after_the_stream_began(transport: str) -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        await context.send_initial_metadata((("x-deployment", "a/0"),))
        yield streamed("a")
        await context.abort_with_status(RichStatus())

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())
        assert text_of(await call.read()) == "a"
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.initial_metadata()["x-deployment"] == "a/0"
            details = caught.value.trailing_metadata()[STATUS_TRAILER]
            assert status_pb2.Status.FromString(details).message == "busy"
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await call.details() == "busy"


async def test_an_abort_that_the_handler_swallows_still_counts(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        with pytest.raises(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return completed("never")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_code_set_by_the_handler_discards_the_answer(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("there is one")
        assert context.code() is grpc.StatusCode.ALREADY_EXISTS
        assert context.details() == "there is one"
        return completed("never")

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        yield streamed("a")
        context.set_details("there is one")

    async with serving(transport, scripted(CompleteChat=complete, StreamChat=stream)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ALREADY_EXISTS, "there is one")
        call = stub.StreamChat(stream_request())
        assert text_of(await call.read()) == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ALREADY_EXISTS, "there is one")


async def test_an_unexpected_exception_is_unknown(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        raise ValueError("boo")

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        yield streamed("a")
        raise ValueError("boo")

    async with serving(transport, scripted(CompleteChat=complete, StreamChat=stream)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert caught.value.details() == "Unexpected <class 'ValueError'>: boo"
        call = stub.StreamChat(stream_request())
        assert text_of(await call.read()) == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert caught.value.details() == "Unexpected <class 'ValueError'>: boo"


async def test_a_unary_handler_that_returns_nothing_is_unknown(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> None:
        return

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert caught.value.code() is grpc.StatusCode.UNKNOWN


async def test_a_method_the_servicer_left_out_is_unimplemented(transport: str) -> None:
    async with serving(transport, scripted()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CountTokens(pb.CountTokensRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(stub.StreamChat(stream_request())))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_service_that_was_not_registered_is_unimplemented(transport: str) -> None:
    async with channel_to(transport, lambda _: None) as channel:
        stub = pb_grpc.ChatServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CompleteChat(complete_request())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert caught.value.details() == "Method not found!"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StreamChat(stream_request()).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_status_can_be_asked_before_the_answer(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        assert await call.details() == "gone"
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_streams_status_is_known_when_another_task_has_read_it(transport: str) -> None:
    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        for number in range(3):
            yield streamed(str(number))
            await asyncio.sleep(0)

    async with serving(transport, scripted(StreamChat=stream)) as stub:
        call = stub.StreamChat(stream_request())
        code = asyncio.create_task(call.code())
        await asyncio.sleep(0)
        assert len([message async for message in call]) == 3
        assert await code is grpc.StatusCode.OK


@pytest.mark.parametrize("ending", ["answer", "abort", "cancel"])
async def test_done_callbacks_of_handler_and_caller_are_called_once(transport: str, ending: str) -> None:
    handler_done, caller_done = asyncio.Event(), asyncio.Event()
    calls: list[object] = []
    started = asyncio.Event()

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        context.add_done_callback(lambda _: handler_done.set())
        started.set()
        if ending == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND)
        if ending == "cancel":
            await forever()
        return completed("")

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        call = stub.CompleteChat(complete_request())
        call.add_done_callback(calls.append)
        call.add_done_callback(lambda _: caller_done.set())

        async def wait() -> None:
            await call

        waiting = asyncio.create_task(wait())
        await started.wait()
        if ending == "cancel":
            call.cancel()
        await asyncio.wait({waiting})
        async with asyncio.timeout(2):
            await handler_done.wait()
            await caller_done.wait()
        assert calls == [call]
        assert waiting.cancelled() == (ending == "cancel")
        assert ending == "cancel" or (waiting.exception() is not None) == (ending == "abort")


async def test_calls_run_concurrently_and_do_not_mix(transport: str) -> None:
    gate = asyncio.Event()
    waiting = 0

    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        nonlocal waiting
        waiting += 1
        if waiting == 50:
            gate.set()
        await gate.wait()
        return completed(request.chat.model)

    async def stream(request: pb.StreamChatRequest, context: Any) -> Any:
        for number in range(20):
            yield streamed(f"{request.chat.model}{number} ")
            await asyncio.sleep(0)

    async with serving(transport, scripted(CompleteChat=complete, StreamChat=stream)) as stub:

        async def ask(model: str) -> str:
            return (await stub.CompleteChat(complete_request(model))).reply.id

        async def read(model: str) -> str:
            return "".join([text_of(message) async for message in stub.StreamChat(stream_request(model))])

        names = [f"n{number}" for number in range(50)]
        answers = await asyncio.gather(*map(ask, names), *map(read, names))
        assert answers[:50] == names
        assert answers[50:] == ["".join(f"{name}{number} " for number in range(20)) for name in names]


async def test_big_messages_pass(transport: str) -> None:
    async def complete(request: pb.CompleteChatRequest, context: Any) -> pb.CompleteChatResponse:
        return completed(request.chat.model)

    async with serving(transport, scripted(CompleteChat=complete)) as stub:
        model = "x" * (16 << 20)
        assert (await stub.CompleteChat(complete_request(model))).reply.id == model
