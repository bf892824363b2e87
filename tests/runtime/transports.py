"""A ChatService with scripted methods, served over each transport there is."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc

from services.runtime.local import LocalChannel, LocalServer
from trunkline.inference.v1 import chat_event_pb2, chat_pb2
from trunkline.router.v1 import chat_service_pb2 as pb
from trunkline.router.v1 import chat_service_pb2_grpc as pb_grpc

TRANSPORTS: Final = ("local", "unix", "tcp")
_LARGE: Final = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))

Register = Callable[[grpc.aio.Server], object]
Servicer = Any
Stub: TypeAlias = "pb_grpc.ChatServiceAsyncStub"  # known to type checkers only


def scripted(**methods: Callable[..., Any]) -> Servicer:
    """Return a ChatService servicer with the given methods, functions of (request, context)."""
    base: Any = pb_grpc.ChatServiceServicer
    return type("Scripted", (base,), {name: staticmethod(method) for name, method in methods.items()})()


@contextlib.asynccontextmanager
async def channel_to(transport: str, register: Register) -> AsyncIterator[grpc.aio.Channel]:
    """Serve over `transport` what `register(server)` registers, and connect to it."""
    if transport == "local":
        local = LocalServer()
        register(local)
        async with LocalChannel(local) as channel:
            yield channel
        await local.stop(1)
        return
    with tempfile.TemporaryDirectory() as directory:
        server = grpc.aio.server(options=_LARGE)
        register(server)
        if transport == "unix":
            target = f"unix:{Path(directory) / 'socket'}"
            server.add_insecure_port(target)
        else:
            target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            async with grpc.aio.insecure_channel(target, options=_LARGE) as channel:
                yield channel
        finally:
            await server.stop(None)


@contextlib.asynccontextmanager
async def serving(transport: str, servicer: Servicer) -> AsyncIterator[Stub]:
    """Serve a ChatService over `transport` and return a stub for it."""

    def register(server: grpc.aio.Server) -> None:
        pb_grpc.add_ChatServiceServicer_to_server(servicer, server)

    async with channel_to(transport, register) as channel:
        yield pb_grpc.ChatServiceStub(channel)


def serve_locally(**methods: Any) -> tuple[LocalServer, Stub]:
    """Serve a ChatService with the given methods within this process."""
    server = LocalServer()
    pb_grpc.add_ChatServiceServicer_to_server(scripted(**methods), server)
    return server, pb_grpc.ChatServiceStub(LocalChannel(server))


def complete_request(model: str = "m") -> pb.CompleteChatRequest:
    return pb.CompleteChatRequest(chat=chat_pb2.Chat(model=model))


def stream_request(model: str = "m") -> pb.StreamChatRequest:
    return pb.StreamChatRequest(chat=chat_pb2.Chat(model=model))


def completed(id_: str) -> pb.CompleteChatResponse:
    return pb.CompleteChatResponse(reply=chat_pb2.ChatReply(id=id_))


def streamed(text: str) -> pb.StreamChatResponse:
    event = chat_event_pb2.ChatEvent(text_delta=chat_event_pb2.TextDelta(text=text))
    return pb.StreamChatResponse(events=[event])


def text_of(message: Any) -> str:
    return "".join(event.text_delta.text for event in message.events)


class Witness:
    """Records how a handler ended: hold it open inside `with witness:` and await `ended`."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.raised: type[BaseException] | None = None

    def __enter__(self) -> Witness:
        self.started.set()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.raised = kind
        self.ended.set()

    async def end(self) -> type[BaseException] | None:
        """Return what the handler was ended with. Raises TimeoutError when it is not ended promptly."""
        async with asyncio.timeout(2):
            await self.ended.wait()
        return self.raised


async def forever() -> None:
    await asyncio.get_running_loop().create_future()
