"""A ChatService whose every answer is a script, chosen by the model's name, over a real grpc.aio server.

It keeps what reached it over the wire, so that a test can say what a client sent, and when it gave up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
from grpc import aio

from trunkline.errors import GatewayError, to_status
from trunkline.errors.gateway_error import STATUS_TRAILER
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_event_pb2 as ev
from trunkline.inference.v1 import chat_pb2, usage_pb2
from trunkline.router.v1 import chat_service_pb2 as rpc
from trunkline.router.v1 import chat_service_pb2_grpc as stubs

__all__ = ["KEY", "REQUEST_ID", "ScriptedChat", "serve"]

KEY: Final = "sk-scripted"
REQUEST_ID: Final = "req_scripted"

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class ScriptedChat(stubs.ChatServiceServicer):
    """Answers by script; `target` is where it listens, as "host:port"."""

    target: str = ""
    requests: list[rpc.StreamChatRequest] = field(default_factory=list)
    time_left: list[float | None] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a test to let "demo/gated" go on."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call ended because its caller cancelled it or its deadline passed."""

    async def StreamChat(
        self,
        request: rpc.StreamChatRequest,
        context: aio.ServicerContext[rpc.StreamChatRequest, rpc.StreamChatResponse],
    ) -> AsyncIterator[rpc.StreamChatResponse]:
        self.requests.append(request)
        self.time_left.append(context.time_remaining())
        await context.send_initial_metadata((("x-request-id", REQUEST_ID),))
        try:
            if ("authorization", f"Bearer {KEY}") not in (context.invocation_metadata() or ()):
                raise GatewayError(reasons.ERROR_REASON_CALLER_UNAUTHENTICATED, "The key is not known.")
            script = _SCRIPTS.get(request.chat.model, _unknown_model)
            async for events in script(self, request.chat):
                yield rpc.StreamChatResponse(events=events)
        except GatewayError as error:
            error.metadata["request_id"] = "req_of_error"
            status = to_status(error)
            trailers = ((STATUS_TRAILER, status.SerializeToString()),)
            await context.abort(_CODES[status.code], error.message, trailing_metadata=trailers)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def CompleteChat(self, request: rpc.CompleteChatRequest, context: object) -> rpc.CompleteChatResponse:
        raise NotImplementedError

    async def CountTokens(self, request: rpc.CountTokensRequest, context: object) -> rpc.CountTokensResponse:
        raise NotImplementedError


@asynccontextmanager
async def serve() -> AsyncIterator[ScriptedChat]:
    """Serve scripts on a free port of the loopback until the block ends."""
    server = aio.server()
    chat = ScriptedChat()
    stubs.add_ChatServiceServicer_to_server(chat, server)
    chat.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield chat
    finally:
        await server.stop(None)


Events = list[ev.ChatEvent]
Script = Callable[[ScriptedChat, chat_pb2.Chat], AsyncIterator[Events]]


def _begin(text: str = "") -> Events:
    part = chat_pb2.Part(text=chat_pb2.TextPart(text=text))
    return [
        ev.ChatEvent(started=ev.Started(id="chat-1", model="scripted")),
        ev.ChatEvent(part_started=ev.PartStarted(begin=part)),
    ]


def _delta(text: str) -> ev.ChatEvent:
    return ev.ChatEvent(text_delta=ev.TextDelta(text=text))


def _usage(input_tokens: int, output_tokens: int) -> ev.ChatEvent:
    usage = usage_pb2.TokenUsage(input_tokens=input_tokens, output_tokens=output_tokens)
    return ev.ChatEvent(usage_reported=ev.UsageReported(usage=usage))


def _end(reason: chat_pb2.FinishReason.ValueType = chat_pb2.FINISH_REASON_STOP) -> Events:
    return [
        ev.ChatEvent(part_finished=ev.PartFinished()),
        ev.ChatEvent(choice_finished=ev.ChoiceFinished(finish_reason=reason)),
    ]


async def _echo(_chat: ScriptedChat, asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    """The prompt with a beginning, a reasoning part, an event of the future, and usage that is corrected."""
    thought = ev.PartStarted(begin=chat_pb2.Part(reasoning=chat_pb2.ReasoningPart(text="hidden")), part=1)
    yield [*_begin("echo: "), ev.ChatEvent(part_started=thought), _usage(99, 99)]
    yield [ev.ChatEvent(reasoning_delta=ev.ReasoningDelta(part=1, text="hidden")), ev.ChatEvent()]
    yield [_delta(""), _delta(asked.messages[0].parts[0].text.text)]
    yield [ev.ChatEvent(part_finished=ev.PartFinished(part=1)), *_end()]
    yield [_usage(7, 0)]


async def _gated(chat: ScriptedChat, _asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    yield [*_begin(), _delta("one ")]
    await chat.released.wait()
    yield [_delta("two"), *_end(chat_pb2.FINISH_REASON_TOOL_CALLS)]


async def _endless(_chat: ScriptedChat, _asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    yield [*_begin(), _delta("1"), _delta("2"), _delta("3"), _delta("4")]
    await asyncio.Event().wait()


async def _stalled(_chat: ScriptedChat, _asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    yield _begin("almost")
    await asyncio.Event().wait()


def _busy(_chat: ScriptedChat, _asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    raise GatewayError(reasons.ERROR_REASON_UPSTREAM_RATE_LIMITED, "The upstream limits us.", retry_after=1.5)


async def _breaking(_chat: ScriptedChat, _asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    yield [*_begin(), _delta("half")]
    raise GatewayError(reasons.ERROR_REASON_UPSTREAM_OVERLOADED, "The upstream failed.", retry_after=20.0)


async def _cut(_chat: ScriptedChat, _asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    yield [*_begin(), _delta("half")]


def _unknown_model(_chat: ScriptedChat, asked: chat_pb2.Chat) -> AsyncIterator[Events]:
    message = f"No route has the model {asked.model}."
    raise GatewayError(reasons.ERROR_REASON_MODEL_NOT_FOUND, message, metadata={"model": asked.model})


_SCRIPTS: Final[dict[str, Script]] = {
    "demo/echo": _echo,
    "demo/gated": _gated,
    "demo/endless": _endless,
    "demo/stalled": _stalled,
    "demo/busy": _busy,
    "demo/breaking": _breaking,
    "demo/cut": _cut,
}
