"""Servicers that do what a test says, over a LocalServer, around a real router with a real journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc.aio

from trunkline.errors import GatewayError, Reason, to_status
from trunkline.errors.gateway_error import STATUS_TRAILER
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_event_pb2 import (
    ChatEvent,
    ChoiceFinished,
    PartFinished,
    PartStarted,
    Started,
    TextDelta,
    UsageReported,
)
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply, Choice, Message, Part, TextPart
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.providers.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    provider_service_pb2,
    provider_service_pb2_grpc,
)
from trunkline.usage.v1 import usage_service_pb2, usage_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

OVERLOADED = error_reason_pb2.ERROR_REASON_UPSTREAM_OVERLOADED
TIMEOUT = error_reason_pb2.ERROR_REASON_UPSTREAM_TIMEOUT
RATE_LIMITED = error_reason_pb2.ERROR_REASON_UPSTREAM_RATE_LIMITED
INVALID = error_reason_pb2.ERROR_REASON_INVALID_REQUEST
TRUNCATED = error_reason_pb2.ERROR_REASON_STREAM_TRUNCATED

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


def make_chat(model: str = "gpt-4o", text: str = "Hello there") -> Chat:
    """Return a chat of one user message."""
    part = Part(text=TextPart(text=text))
    message = Message(role=chat_pb2.ROLE_USER, parts=[part], content_form=chat_pb2.CONTENT_FORM_STRING)
    return Chat(model=model, messages=[message])


def make_usage(input_tokens: int = 11, output_tokens: int = 7) -> TokenUsage:
    """Return what an upstream reports."""
    return TokenUsage(input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens)


# -- what a scripted upstream does, one step after the other


def opening(reply_id: str = "reply-1") -> list[ChatEvent]:
    """Return a stream's events before any content."""
    return [
        ChatEvent(started=Started(id=reply_id, model="upstream")),
        ChatEvent(part_started=PartStarted(begin=Part(text=TextPart()))),
    ]


def delta(text: str) -> list[ChatEvent]:
    """Return one event with text."""
    return [ChatEvent(text_delta=TextDelta(text=text))]


def closing(usage: TokenUsage | None = None) -> list[ChatEvent]:
    """Return the events that complete an answer."""
    events = [
        ChatEvent(part_finished=PartFinished()),
        ChatEvent(choice_finished=ChoiceFinished(finish_reason=chat_pb2.FINISH_REASON_STOP, raw_finish_reason="stop")),
    ]
    if usage is not None:
        events.append(ChatEvent(usage_reported=UsageReported(usage=usage)))
    return events


@dataclass
class Script:
    """One call's course: what is sent, then how it ends. A unary call folds the texts into one reply."""

    batches: Sequence[list[ChatEvent]] = ()
    error: GatewayError | None = None
    """Raised after the batches."""
    hang: bool = False
    """Wait forever after the batches."""
    usage: TokenUsage | None = None


def answer(text: str = "Hi!", usage: TokenUsage | None = None) -> Script:
    """Return a script that answers."""
    usage = make_usage() if usage is None else usage
    return Script(batches=[opening(), *(delta(char) for char in text), closing(usage)], usage=usage)


def fail(
    reason: Reason.ValueType, *, after: Sequence[list[ChatEvent]] = (), retry_after: float | None = None
) -> Script:
    """Return a script that fails."""
    return Script(batches=after, error=GatewayError(reason, "scripted", retry_after=retry_after))


async def abort(context: Context, error: GatewayError) -> NoReturn:
    """End a call with a typed error, as an instrumented server does."""
    trailers = ((STATUS_TRAILER, to_status(error).SerializeToString()),)
    await context.abort(STATUS_CODES[error.face.grpc_code], error.message, trailers)


@dataclass
class Asked:
    """A call that reached the scripted upstream."""

    provider: str
    model: str
    deployment: str
    number: int
    metadata: dict[str, str | bytes]
    time_remaining: float | None
    chat: Chat


class ScriptedInference(inference_service_pb2_grpc.InferenceServiceServicer):
    """Plays scripts by provider, one for each call; the last one again and again."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Script]] = {}
        self.asked: list[Asked] = []
        self.reached = asyncio.Event()
        """Set when a call hangs."""
        self.ended = asyncio.Event()
        """Set when a call that hung was let go."""
        self.open_calls = 0
        self.counted_tokens: int | None = None

    def play(self, provider: str, *scripts: Script) -> None:
        """Set what a provider does."""
        self.scripts[provider] = list(scripts)

    async def CompleteChat(
        self, request: inference_service_pb2.CompleteChatRequest, context: Context
    ) -> inference_service_pb2.CompleteChatResponse:
        script = self._next(request, context)
        if script.hang:
            await self._hang()
        if script.error is not None:
            await abort(context, script.error)
        text = "".join(event.text_delta.text for batch in script.batches for event in batch)
        choice = Choice(
            message=Message(role=chat_pb2.ROLE_ASSISTANT, parts=[Part(text=TextPart(text=text))]),
            finish_reason=chat_pb2.FINISH_REASON_STOP,
        )
        return inference_service_pb2.CompleteChatResponse(
            reply=ChatReply(id="reply-1", model="upstream", choices=[choice], usage=script.usage)
        )

    async def StreamChat(
        self, request: inference_service_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[inference_service_pb2.StreamChatResponse]:
        script = self._next(request, context)
        self.open_calls += 1
        try:
            for batch in script.batches:
                yield inference_service_pb2.StreamChatResponse(events=batch)
            if script.hang:
                await self._hang()
            if script.error is not None:
                await abort(context, script.error)
        finally:
            self.open_calls -= 1
            self.ended.set()

    async def CountTokens(
        self, request: inference_service_pb2.CountTokensRequest, context: Context
    ) -> inference_service_pb2.CountTokensResponse:
        if self.counted_tokens is None:
            reason = error_reason_pb2.ERROR_REASON_UNSUPPORTED_FEATURE
            await abort(context, GatewayError(reason, "cannot count"))
        return inference_service_pb2.CountTokensResponse(input_tokens=self.counted_tokens)

    async def _hang(self) -> NoReturn:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        raise AssertionError

    def _next(
        self,
        request: inference_service_pb2.CompleteChatRequest | inference_service_pb2.StreamChatRequest,
        context: Context,
    ) -> Script:
        provider = request.target.provider
        self.asked.append(
            Asked(
                provider=provider,
                model=request.target.model,
                deployment=request.attempt.deployment,
                number=request.attempt.number,
                metadata=dict(context.invocation_metadata() or ()),
                time_remaining=context.time_remaining(),
                chat=request.chat,
            )
        )
        scripts = self.scripts[provider]
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]


@dataclass
class ScriptedProviders(provider_service_pb2_grpc.ProviderServiceServicer):
    """Tells of providers, after failing as often as a test wants."""

    providers: list[provider_service_pb2.Provider] = field(default_factory=list)
    models: dict[str, list[str]] = field(default_factory=dict)
    failures: int = 0
    page_size: int = 1000
    asked_for_models: list[str] = field(default_factory=list)

    async def ListProviders(
        self, request: provider_service_pb2.ListProvidersRequest, context: Context
    ) -> provider_service_pb2.ListProvidersResponse:
        if self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        start = int(request.page_token or 0)
        end = start + self.page_size
        token = str(end) if end < len(self.providers) else ""
        return provider_service_pb2.ListProvidersResponse(providers=self.providers[start:end], next_page_token=token)

    async def ListProviderModels(
        self, request: provider_service_pb2.ListProviderModelsRequest, context: Context
    ) -> provider_service_pb2.ListProviderModelsResponse:
        self.asked_for_models.append(request.provider)
        models = self.models.get(request.provider)
        if models is None:
            reason = error_reason_pb2.ERROR_REASON_UNSUPPORTED_FEATURE
            await abort(context, GatewayError(reason, "has no listing"))
        return provider_service_pb2.ListProviderModelsResponse(models=models)


class ScriptedUsage(usage_service_pb2_grpc.UsageServiceServicer):
    """Keeps what it is told, once by record id, and fails when a test wants."""

    def __init__(self) -> None:
        self.records: dict[str, usage_service_pb2.UsageRecord] = {}
        self.is_down = False
        self.rejects: set[str] = set()
        """Record ids that are refused for good."""
        self.received = asyncio.Event()

    async def RecordUsage(
        self, request: usage_service_pb2.RecordUsageRequest, context: Context
    ) -> usage_service_pb2.RecordUsageResponse:
        if self.is_down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        rejected = [record.record_id for record in request.records if record.record_id in self.rejects]
        for record in request.records:
            if record.record_id not in self.rejects:
                self.records[record.record_id] = record
        self.received.set()
        return usage_service_pb2.RecordUsageResponse(
            applied_count=len(request.records) - len(rejected),
            rejected_records=[usage_service_pb2.RejectedRecord(record_id=one, message="no") for one in rejected],
        )

    async def ListUsage(
        self, request: usage_service_pb2.ListUsageRequest, context: Context
    ) -> usage_service_pb2.ListUsageResponse:
        raise NotImplementedError

    async def SummarizeUsage(
        self, request: usage_service_pb2.SummarizeUsageRequest, context: Context
    ) -> usage_service_pb2.SummarizeUsageResponse:
        raise NotImplementedError


def provider(name: str, *, usable: bool = True, catalog: str = "") -> provider_service_pb2.Provider:
    """Return a provider as the providers service tells of it."""
    return provider_service_pb2.Provider(name=name, catalog=catalog or name, dialect="openai_chat", usable=usable)


def sequence(*numbers: float) -> Callable[[], float]:
    """Return a source of the given numbers, the last one for ever."""
    left = list(numbers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]
