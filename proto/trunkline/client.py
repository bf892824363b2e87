"""The typed client: `connect(target)`, then chats in and replies or events out.

The one rule: every failed call raises GatewayError, whether the gateway said why, a proxy between cut in, or nobody is
there. Cancellation stays asyncio's own. Of the hand-written contract package this module alone imports grpc.

    async with connect("127.0.0.1:4001", api_key="sk-...") as client:
        async with client.stream(chat("gpt-4o", user("Hi")), timeout=30) as events:
            async for event in events:
                print(event.text_delta.text, end="")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Self, TypedDict, Unpack

import grpc

from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply
from trunkline.reply import ReplyFolder
from trunkline.router.v1 import chat_service_pb2 as chat_pb
from trunkline.router.v1 import deployment_service_pb2 as deployment_pb
from trunkline.router.v1 import model_service_pb2 as model_pb
from trunkline.router.v1.chat_service_pb2_grpc import ChatServiceStub
from trunkline.router.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from trunkline.router.v1.model_service_pb2_grpc import ModelServiceStub

__all__ = ["Answer", "CallOptions", "ChatStream", "Client", "connect"]

_MAX_MESSAGE_BYTES: Final = 64 << 20
_PAGE_SIZE: Final = 1000


class CallOptions(TypedDict, total=False):
    """What any call may be given."""

    timeout: float | None
    """Seconds for the whole call, every attempt included; no bound when absent."""
    request_id: str | None
    """The id under which the gateway logs and records the call; minted there when absent."""
    metadata: Mapping[str, str] | None
    """Further metadata, keys in lower case, such as `traceparent`."""


class Answer(NamedTuple):
    """A reply and what the gateway said beside it."""

    reply: ChatReply
    metadata: dict[str, str]
    """Such as "x-request-id", "x-trunkline-deployment", "x-trunkline-provider", "x-trunkline-attempts"."""


def connect(
    target: str,
    *,
    api_key: str | None = None,
    tls: bool | grpc.ChannelCredentials = False,
    max_message_bytes: int = _MAX_MESSAGE_BYTES,
) -> Client:
    """Return a client of the gateway at `target`: "host:port", "unix:path" or "dns:///name:port". Connects when needed.

    `tls` is True for the system's trusted roots, or credentials of one's own. Call it inside a running event loop.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 60_000),
        # Calls are billed: only the gateway and the caller decide about another attempt.
        ("grpc.enable_retries", 0),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if target.startswith("dns:"):
        options.append(("grpc.lb_policy_name", "round_robin"))
    if tls:
        credentials = grpc.ssl_channel_credentials() if tls is True else tls
        return Client(grpc.aio.secure_channel(target, credentials, options), api_key=api_key)
    return Client(grpc.aio.insecure_channel(target, options), api_key=api_key)


class Client:
    """Calls a gateway over a channel, which it closes with itself. Safe to use from many tasks at once."""

    def __init__(self, channel: grpc.aio.Channel, *, api_key: str | None = None) -> None:
        self._channel = channel
        self._chats = ChatServiceStub(channel)
        self._models = ModelServiceStub(channel)
        self._deployments = DeploymentServiceStub(channel)
        self._authorization = () if api_key is None else (("authorization", f"Bearer {api_key}"),)
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._is_closed = True
        await self._channel.close()

    async def complete(
        self, chat: Chat, *, labels: Mapping[str, str] | None = None, **options: Unpack[CallOptions]
    ) -> ChatReply:
        """Answer a chat in one piece. `labels` go into the usage record."""
        return (await self.complete_with_metadata(chat, labels=labels, **options)).reply

    async def complete_with_metadata(
        self, chat: Chat, *, labels: Mapping[str, str] | None = None, **options: Unpack[CallOptions]
    ) -> Answer:
        """Answer a chat in one piece, and say who answered."""
        request = chat_pb.CompleteChatRequest(chat=chat, labels=labels)
        call = self._call(self._chats.CompleteChat, request, options)
        with _TypedErrors():
            response = await call
            return Answer(response.reply, _flat(await call.initial_metadata()))

    def stream(
        self, chat: Chat, *, labels: Mapping[str, str] | None = None, **options: Unpack[CallOptions]
    ) -> ChatStream:
        """Answer a chat as it is made: `async for` over the events, within `async with` to leave early."""
        request = chat_pb.StreamChatRequest(chat=chat, labels=labels)
        return ChatStream(self._call(self._chats.StreamChat, request, options))

    async def stream_reply(
        self,
        chat: Chat,
        *,
        on_event: Callable[[ChatEvent], object] | None = None,
        labels: Mapping[str, str] | None = None,
        **options: Unpack[CallOptions],
    ) -> ChatReply:
        """Answer a chat as it is made, showing each event to `on_event`, and return the whole reply at the end."""
        folder = ReplyFolder()
        async with self.stream(chat, labels=labels, **options) as events:
            async for event in events:
                folder.add(event)
                if on_event is not None:
                    on_event(event)
        return folder.reply()

    async def count_tokens(self, chat: Chat, **options: Unpack[CallOptions]) -> chat_pb.CountTokensResponse:
        """Count a chat's input tokens; the response says whether that is an estimate."""
        request = chat_pb.CountTokensRequest(chat=chat)
        response: chat_pb.CountTokensResponse = await self._answer(self._chats.CountTokens, request, options)
        return response

    async def list_models(self, **options: Unpack[CallOptions]) -> list[model_pb.Model]:
        """Return the models that the key may name, all pages of them."""
        models: list[model_pb.Model] = []
        page_token = ""
        while True:
            request = model_pb.ListModelsRequest(page_size=_PAGE_SIZE, page_token=page_token)
            page: model_pb.ListModelsResponse = await self._answer(self._models.ListModels, request, options)
            models.extend(page.models)
            page_token = page.next_page_token
            if not page_token:
                return models

    async def get_model(self, name: str, **options: Unpack[CallOptions]) -> model_pb.Model:
        """Return one model. Raises MODEL_NOT_FOUND."""
        response: model_pb.GetModelResponse = await self._answer(
            self._models.GetModel, model_pb.GetModelRequest(name=name), options
        )
        return response.model

    async def explain_route(self, model: str, **options: Unpack[CallOptions]) -> deployment_pb.ExplainRouteResponse:
        """Return what a call for a model would meet. For operators: needs the master key."""
        request = deployment_pb.ExplainRouteRequest(model=model)
        response: deployment_pb.ExplainRouteResponse = await self._answer(
            self._deployments.ExplainRoute, request, options
        )
        return response

    async def _answer(self, method: Any, request: Any, options: CallOptions) -> Any:
        with _TypedErrors():
            return await self._call(method, request, options)

    def _call(self, method: Any, request: Any, options: CallOptions) -> Any:
        """Start a call."""
        if self._is_closed:
            raise GatewayError(reasons.ERROR_REASON_SERVICE_UNAVAILABLE, "the client is closed")
        metadata = [*self._authorization, *(options.get("metadata") or {}).items()]
        request_id = options.get("request_id")
        if request_id is not None:
            metadata.append(("x-request-id", request_id))
        for key, value in metadata:
            if not (key.isascii() and key.islower() and value.isascii() and value.isprintable()):
                raise GatewayError(
                    reasons.ERROR_REASON_INVALID_REQUEST, f"the metadata {key!r} cannot be sent", param=key
                )
        return method(request, timeout=options.get("timeout"), metadata=metadata)


class ChatStream:
    """The events of one answer. Iterate it once; closing it, or leaving its `async with`, cancels what is left.

    Iteration raises GatewayError, STREAM_TRUNCATED too when the stream ended well and yet without its end.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._events: list[ChatEvent] = []
        """What arrived and was not taken, the next one last."""
        self._open_choices: set[int] = set()
        self._has_finished = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatEvent:
        while not self._events:
            await self._read()
        event = self._events.pop()
        self._follow(event)
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the call unless it is over."""
        self._call.cancel()

    async def metadata(self) -> dict[str, str]:
        """Return what the gateway said before the answer, such as "x-trunkline-deployment"; waits for it."""
        with _TypedErrors():
            return _flat(await self._call.initial_metadata())

    async def _read(self) -> None:
        with _TypedErrors():
            try:
                response = await self._call.read()
            except asyncio.CancelledError:
                self._call.cancel()  # grpc.aio alone forgets it when the call has not quite begun
                raise
        if response is grpc.aio.EOF:
            if self._open_choices or not self._has_finished:
                raise GatewayError(reasons.ERROR_REASON_STREAM_TRUNCATED, "the stream ended without its end")
            raise StopAsyncIteration
        self._events.extend(reversed(response.events))

    def _follow(self, event: ChatEvent) -> None:
        """Note which choices have begun and not ended: rule 7 of the grammar."""
        kind = event.WhichOneof("event")
        if kind == "part_started":
            self._open_choices.add(event.part_started.choice)
        elif kind == "choice_finished":
            self._open_choices.discard(event.choice_finished.choice)
            self._has_finished = True


class _TypedErrors:
    """Raises what a failed call stands for: GatewayError, or CancelledError when it is the task that was cancelled."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            raise from_rpc_error(error) from error
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise GatewayError(reasons.ERROR_REASON_CALLER_CANCELLED, "the call was cancelled") from error


def _flat(metadata: grpc.aio.Metadata) -> dict[str, str]:
    """Return the text members of metadata, the first of each key."""
    flat: dict[str, str] = {}
    for key, value in metadata:
        if isinstance(value, str):
            flat.setdefault(key, value)
    return flat
