"""POST /v1/chat/completions. The hot path: plain ASGI, one RPC, no task unless the answer is slow.

The rule: what the router said is what the client gets: the error with its true status until the first byte, then one
error frame and the end, and `[DONE]` only after a complete answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import grpc.aio

from gateway_http.config import HttpConfig
from gateway_http.disconnect import ClientLeft, Watch, ended
from gateway_http.errors import router_error
from gateway_http.exchange import Exchange
from gateway_http.limits import read_body
from gateway_http.sse import EventStream, frame
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.openai_json import ChunkEncoder, decode_chat_request, encode_chat_reply
from trunkline.router.v1 import chat_service_pb2, chat_service_pb2_grpc

__all__ = ["ChatRoute"]

_ROUTE_HEADERS: Final = {
    name: name.encode() for name in ("x-trunkline-deployment", "x-trunkline-provider", "x-trunkline-attempts")
}
_LAST_EVENTS: Final = frozenset({"choice_finished", "usage_reported", "extra_reported"})

_StreamCall = grpc.aio.UnaryStreamCall[chat_service_pb2.StreamChatRequest, chat_service_pb2.StreamChatResponse]


class ChatRoute:
    """Answers chat completions through a router on `channel`."""

    methods: Final = ("POST",)

    def __init__(self, channel: grpc.aio.Channel, config: HttpConfig) -> None:
        self._stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        self._config = config

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Raises GatewayError, HttpError or ClientLeft."""
        body = await read_body(exchange, self._config)
        request = decode_chat_request(body)
        if request.stream:
            await self._stream(exchange, request.chat)
        else:
            await self._complete(exchange, request.chat)

    async def _complete(self, exchange: Exchange, chat: chat_pb2.Chat) -> None:
        call = self._stub.CompleteChat(
            chat_service_pb2.CompleteChatRequest(chat=chat),
            metadata=exchange.metadata,
            timeout=self._config.request_timeout_seconds,
        )
        watch = Watch(exchange.receive, call)
        try:
            response = await call
            _add_route_headers(exchange, await call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            raise _failure(exchange, error) from None
        except asyncio.CancelledError:
            if watch.client_left:
                raise ClientLeft from None
            raise
        finally:
            task = watch.close()
            if task is not None:
                await ended(task)
        body = encode_chat_reply(response.reply, fallback_id=exchange.request_id, fallback_created=int(time.time()))
        await exchange.answer(200, body)

    async def _stream(self, exchange: Exchange, chat: chat_pb2.Chat) -> None:
        call = self._stub.StreamChat(
            chat_service_pb2.StreamChatRequest(chat=chat),
            metadata=exchange.metadata,
            timeout=self._config.stream_timeout_seconds,
        )
        stream = EventStream(exchange, self._config.heartbeat_seconds)
        watch = Watch(exchange.receive, call, stream)
        try:
            await self._relay(exchange, call, stream, include_usage=chat.stream_options.include_usage)
        except grpc.aio.AioRpcError as error:
            raise _failure(exchange, error) from None
        except asyncio.CancelledError:
            if watch.client_left:
                raise ClientLeft from None
            raise
        finally:
            call.cancel()  # no effect on a finished call; ends one whose answer could not be encoded or sent
            task = watch.close()
            if task is not None:
                await ended(task)

    async def _relay(self, exchange: Exchange, call: _StreamCall, stream: EventStream, *, include_usage: bool) -> None:
        encoder = ChunkEncoder(
            include_usage=include_usage, fallback_id=exchange.request_id, fallback_created=int(time.time())
        )
        encode, write = encoder.encode, stream.write
        events: Sequence[ChatEvent] = ()
        async for response in call:
            if exchange.status == 0:
                _add_route_headers(exchange, await call.initial_metadata())
            events = response.events or events
            documents = encode(response.events)
            if documents:
                await write(frame(documents))
        # Rule 7 of the stream's grammar, by what a complete one can end with: no price to pay for each event.
        if not events or events[-1].WhichOneof("event") not in _LAST_EVENTS:
            raise GatewayError(reasons.ERROR_REASON_STREAM_TRUNCATED, "The answer broke off before its end.")
        documents = encoder.end()
        await stream.finish(frame(documents) if documents else b"")


def _failure(exchange: Exchange, error: grpc.aio.AioRpcError) -> GatewayError:
    _add_route_headers(exchange, error.initial_metadata())
    return router_error(error)


def _add_route_headers(exchange: Exchange, metadata: grpc.aio.Metadata) -> None:
    """Tell the client where its request went, as far as the router said."""
    if exchange.is_routed:
        return
    exchange.is_routed = True
    for key, value in metadata:
        name = _ROUTE_HEADERS.get(key)
        if name is not None and isinstance(value, str):
            exchange.headers.append((name, value.encode("ascii", "replace")))
