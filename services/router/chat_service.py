"""router.v1.ChatService: admit, route, ask, account. Everything difficult is in the modules named after those words."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import grpc.aio

from services.router.accounting import Accounting, RequestAccount
from services.router.admission import Admission
from services.router.attempt import Attempt, Attempts
from services.router.caller_metadata import Metadata, read_labels
from services.router.estimate import estimate_input
from services.router.meter import AnswerMeter
from services.router.route_source import RouteSource
from services.router.routes import Plan
from services.router.stream import OpenStream, open_stream
from services.router.validation import check_chat
from services.runtime.telemetry import REQUEST_ID, new_request_id
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1.chat_pb2 import Chat
from trunkline.providers.v1 import inference_service_pb2, inference_service_pb2_grpc
from trunkline.router.v1 import chat_service_pb2, chat_service_pb2_grpc

__all__ = ["ChatService"]

Context = grpc.aio.ServicerContext[Any, Any]
InitialMetadata = tuple[tuple[str, str], ...]

# grpc tells a call without a deadline as one of some hundred million years.
_NO_DEADLINE: Final = 1e9


class ChatService(chat_service_pb2_grpc.ChatServiceServicer):
    """Answers chats."""

    def __init__(
        self,
        *,
        routes: RouteSource,
        admission: Admission,
        accounting: Accounting,
        inference: inference_service_pb2_grpc.InferenceServiceAsyncStub,
        draw: Callable[[], float],
    ) -> None:
        self._routes = routes
        self._admission = admission
        self._accounting = accounting
        self._inference = inference
        self._draw = draw

    async def CompleteChat(
        self, request: chat_service_pb2.CompleteChatRequest, context: Context
    ) -> chat_service_pb2.CompleteChatResponse:
        """Answer in one piece."""
        chat = request.chat
        account = self._admit(chat, request.labels, context, streamed=False)
        with account:
            answer = await account.attempts.run(partial(self._ask, account, chat))
            account.note_content()
            account.meter.observe_reply(answer.reply)
            response = chat_service_pb2.CompleteChatResponse()
            response.reply.CopyFrom(answer.reply)
            await context.send_initial_metadata(_initial_metadata(account))
        return response

    async def StreamChat(
        self, request: chat_service_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_service_pb2.StreamChatResponse]:
        """Answer as it is made."""
        chat = request.chat
        account = self._admit(chat, request.labels, context, streamed=True)
        with account:
            stream = await account.attempts.run(partial(self._open, account, chat))
            try:
                account.note_content()
                await context.send_initial_metadata(_initial_metadata(account))
                yield stream.head()
                async for message in stream.messages:
                    response = stream.forward(message)
                    if response is not None:
                        yield response
                stream.check_end()
            except grpc.aio.AioRpcError as rpc_error:
                raise stream.error(rpc_error) from rpc_error
            finally:
                stream.close()

    async def CountTokens(
        self, request: chat_service_pb2.CountTokensRequest, context: Context
    ) -> chat_service_pb2.CountTokensResponse:
        """Count the input's tokens, by the upstream where it can. Leaves no record: nothing is billed for it."""
        chat = request.chat
        self._admission.authenticate(dict(context.invocation_metadata() or ()))
        check_chat(chat)
        plan = self._routes.table().plan(chat.model)
        attempts = Attempts(plan, _deadline(context, plan), draw=self._draw)
        try:
            counted = await attempts.run(partial(self._count, REQUEST_ID.get() or new_request_id(), chat))
        except GatewayError as error:
            if error.reason != error_reason_pb2.ERROR_REASON_UNSUPPORTED_FEATURE:
                raise
            return chat_service_pb2.CountTokensResponse(input_tokens=estimate_input(chat), estimated=True)
        attempts.finish(None)
        return chat_service_pb2.CountTokensResponse(input_tokens=counted.input_tokens)

    def _admit(self, chat: Chat, labels: Mapping[str, str], context: Context, *, streamed: bool) -> RequestAccount:
        """Return the account of a request that may go on. Raises what the caller did wrong."""
        metadata: Metadata = dict(context.invocation_metadata() or ())
        caller = self._admission.authenticate(metadata)
        check_chat(chat)
        read = read_labels(metadata, labels)
        plan = self._routes.table().plan(chat.model)
        self._accounting.check()
        return RequestAccount(
            self._accounting,
            request_id=REQUEST_ID.get() or new_request_id(),
            key_id=caller.key_id,
            labels=read,
            chat=chat,
            streamed=streamed,
            attempts=Attempts(plan, _deadline(context, plan), draw=self._draw),
        )

    async def _ask(
        self, account: RequestAccount, chat: Chat, attempt: Attempt
    ) -> inference_service_pb2.CompleteChatResponse:
        asked = inference_service_pb2.CompleteChatRequest()
        asked.chat.CopyFrom(chat)
        _address(asked, attempt)
        return await self._inference.CompleteChat(
            asked, timeout=attempt.timeout, metadata=(("x-request-id", account.request_id),)
        )

    async def _open(self, account: RequestAccount, chat: Chat, attempt: Attempt) -> OpenStream:
        account.meter = meter = AnswerMeter()
        asked = inference_service_pb2.StreamChatRequest()
        asked.chat.CopyFrom(chat)
        _address(asked, attempt)
        call = self._inference.StreamChat(
            asked, timeout=attempt.timeout, metadata=(("x-request-id", account.request_id),)
        )
        return await open_stream(call, meter, attempt)

    async def _count(self, request_id: str, chat: Chat, attempt: Attempt) -> inference_service_pb2.CountTokensResponse:
        deployment = attempt.deployment
        target = inference_service_pb2.Target(provider=deployment.provider, model=deployment.upstream_model)
        asked = inference_service_pb2.CountTokensRequest(chat=chat, target=target)
        return await self._inference.CountTokens(
            asked, timeout=attempt.timeout, metadata=(("x-request-id", request_id),)
        )


def _address(
    asked: inference_service_pb2.CompleteChatRequest | inference_service_pb2.StreamChatRequest, attempt: Attempt
) -> None:
    """Say whom to ask and which try it is. Set in place, which costs a third of building the messages apart."""
    deployment = attempt.deployment
    target = asked.target
    target.provider = deployment.provider
    target.model = deployment.upstream_model
    which = asked.attempt
    which.deployment = deployment.name
    which.number = attempt.number


def _deadline(context: Context, plan: Plan) -> float:
    """Return when the call must be over, on the monotonic clock."""
    remaining: float | None = context.time_remaining()
    if remaining is None or remaining > _NO_DEADLINE:
        remaining = plan.timeout
    return time.monotonic() + remaining


def _initial_metadata(account: RequestAccount) -> InitialMetadata:
    """Return who answered. Metadata is ASCII; a name that is not travels percent-encoded, as in an address."""
    attempt = account.attempts.log[-1]
    deployment, provider = attempt.deployment.name, attempt.deployment.provider
    return (
        ("x-request-id", account.request_id),
        ("x-trunkline-deployment", deployment if deployment.isascii() else quote(deployment)),
        ("x-trunkline-provider", provider if provider.isascii() else quote(provider)),
        ("x-trunkline-attempts", str(attempt.number)),
    )
