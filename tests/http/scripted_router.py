"""A router whose answers are chosen by the model's name, for the tests of whatever stands in front of a router.

| model | answer |
|---|---|
| demo/echo | the last message's text, an event for each word; a tool call when tools are given; JSON for a schema |
| error/REASON | the error REASON |
| midstream/REASON | two words, then the error REASON |
| bug | an exception that is no GatewayError |
| hold | nothing, until the call is cancelled or `release` is set; then as demo/echo |
| hold-midstream | two words, then nothing until the call is cancelled or `release` is set; then the end |
| nothing | a stream that ends without an event |
| many | `batches` batches of one delta each |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import grpc.aio

from trunkline.errors import GatewayError, Reason, to_status
from trunkline.errors.gateway_error import STATUS_TRAILER
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1 import chat_event_pb2 as ev
from trunkline.inference.v1 import chat_pb2, usage_pb2
from trunkline.router.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    deployment_service_pb2,
    deployment_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)

KEY = "sk-test-key"
CREATED = 1_750_000_000
INITIAL_METADATA = (
    ("x-trunkline-deployment", "demo/0"),
    ("x-trunkline-provider", "demo"),
    ("x-trunkline-attempts", "1"),
)
USAGE = usage_pb2.TokenUsage(input_tokens=7, output_tokens=3, total_tokens=10)

Context = grpc.aio.ServicerContext[object, object]


@dataclass
class Observed:
    """What the router saw."""

    metadata: list[dict[str, str]] = field(default_factory=list)
    chats: list[chat_pb2.Chat] = field(default_factory=list)
    time_remaining: list[float | None] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled_at: float = 0.0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    batches: int = 100


class ScriptedRouter(chat_service_pb2_grpc.ChatServiceServicer):
    """ChatService as the table above says."""

    def __init__(self, observed: Observed, *, key: str | None = KEY) -> None:
        self.observed = observed
        self._key = key

    async def CompleteChat(
        self, request: chat_service_pb2.CompleteChatRequest, context: Context
    ) -> chat_service_pb2.CompleteChatResponse:
        """Answer in one piece."""
        chat = request.chat
        await self._admit(chat, context)
        await self._fail_as_told(chat.model, context)
        if chat.model == "hold":
            await self._hold()
        await context.send_initial_metadata(INITIAL_METADATA)
        return chat_service_pb2.CompleteChatResponse(reply=reply_to(chat))

    async def StreamChat(
        self, request: chat_service_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_service_pb2.StreamChatResponse]:
        """Answer piece by piece."""
        chat = request.chat
        await self._admit(chat, context)
        await self._fail_as_told(chat.model, context)
        if chat.model == "nothing":
            return
        if chat.model == "hold":
            await self._hold()
        await context.send_initial_metadata(INITIAL_METADATA)
        batches = many(self.observed.batches) if chat.model == "many" else batches_for(chat)
        for number, batch in enumerate(batches):
            if number == 3 and chat.model == "hold-midstream":
                await self._hold()
            if number == 3 and chat.model.startswith("midstream/"):
                await abort(context, error_named(chat.model.partition("/")[2]))
            yield chat_service_pb2.StreamChatResponse(events=batch)

    async def CountTokens(
        self, _request: chat_service_pb2.CountTokensRequest, _context: Context
    ) -> chat_service_pb2.CountTokensResponse:
        """Count 7."""
        return chat_service_pb2.CountTokensResponse(input_tokens=7)

    async def _admit(self, chat: chat_pb2.Chat, context: Context) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.observed.metadata.append(metadata)
        self.observed.chats.append(chat)
        self.observed.time_remaining.append(context.time_remaining())
        self.observed.arrived.set()
        await check_key(metadata.get("authorization"), self._key, context)

    async def _fail_as_told(self, model: str, context: Context) -> None:
        if model.startswith("error/"):
            await abort(context, error_named(model.partition("/")[2]))
        if model == "bug":
            raise RuntimeError("secret prompt text in a message")
        if not model.startswith(("demo/", "midstream/", "hold", "nothing", "many")):
            error = GatewayError(reasons.ERROR_REASON_MODEL_NOT_FOUND, f"No model {model!r}.", param="model")
            await abort(context, error)

    async def _hold(self) -> None:
        try:
            await self.observed.release.wait()
        except asyncio.CancelledError:
            self.observed.cancelled_at = asyncio.get_running_loop().time()
            self.observed.cancelled.set()
            raise


class ScriptedModels(model_service_pb2_grpc.ModelServiceServicer):
    """ModelService with two pages of models."""

    def __init__(self, *, key: str | None = KEY) -> None:
        self._key = key

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        """List them, one page each."""
        await _check(context, self._key)
        if not request.page_token:
            models = [_model("demo/echo", "demo"), _model("openai/*", "openai", is_wildcard=True)]
            return model_service_pb2.ListModelsResponse(models=models, next_page_token="2")
        return model_service_pb2.ListModelsResponse(models=[_model("gpt-4o", "openai")])

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: Context
    ) -> model_service_pb2.GetModelResponse:
        """Find one."""
        await _check(context, self._key)
        if not request.name.startswith(("demo/", "openai/", "gpt-4o")):
            error = GatewayError(reasons.ERROR_REASON_MODEL_NOT_FOUND, f"No model {request.name!r}.", param="model")
            await abort(context, error)
        return model_service_pb2.GetModelResponse(model=_model(request.name, "demo"))


class ScriptedDeployments(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """DeploymentService that only checks the key."""

    def __init__(self, *, key: str | None = KEY) -> None:
        self._key = key

    async def ListDeployments(
        self, _request: deployment_service_pb2.ListDeploymentsRequest, context: Context
    ) -> deployment_service_pb2.ListDeploymentsResponse:
        """List none."""
        await _check(context, self._key)
        return deployment_service_pb2.ListDeploymentsResponse()

    async def ExplainRoute(
        self, _request: deployment_service_pb2.ExplainRouteRequest, _context: Context
    ) -> deployment_service_pb2.ExplainRouteResponse:
        """Explain nothing."""
        return deployment_service_pb2.ExplainRouteResponse()


def _model(name: str, owned_by: str, *, is_wildcard: bool = False) -> model_service_pb2.Model:
    return model_service_pb2.Model(name=name, owned_by=owned_by, created_seconds=CREATED, is_wildcard=is_wildcard)


async def _check(context: Context, key: str | None) -> None:
    metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
    await check_key(metadata.get("authorization"), key, context)


async def check_key(credential: str | None, key: str | None, context: Context) -> None:
    """Refuse a call without the key, when there is one."""
    if key is not None and credential != f"Bearer {key}":
        error = GatewayError(reasons.ERROR_REASON_CALLER_UNAUTHENTICATED, "Incorrect API key provided.")
        await abort(context, error)


async def abort(context: Context, error: GatewayError) -> None:
    """End the call as the services do: a status with its details in the trailers."""
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, error.message, ((STATUS_TRAILER, status.SerializeToString()),))


def error_named(name: str) -> GatewayError:
    """Return an error of the reason with this wire name; rate limits say when to come back."""
    reason = Reason.Value(f"ERROR_REASON_{name}")
    retry_after = 1.25 if "RATE_LIMITED" in name else None
    param = "messages[0].content" if name == "INVALID_REQUEST" else None
    return GatewayError(reason, f"told to fail with {name}", param=param, retry_after=retry_after)


def answer_parts(chat: chat_pb2.Chat) -> tuple[str, chat_pb2.ToolCall | None]:
    """Return the text of the answer, or the tool call."""
    last = chat.messages[-1] if chat.messages else chat_pb2.Message()
    text = next((part.text.text for part in last.parts if part.HasField("text")), "") or "empty"
    if chat.tools and last.role == chat_pb2.ROLE_USER:
        return "", chat_pb2.ToolCall(id="call_1", name=chat.tools[0].function.name, arguments_json='{"city":"Rome"}')
    if chat.response_format.HasField("json_schema"):
        return '{"city":"Rome","degrees":21}', None
    return text, None


def reply_to(chat: chat_pb2.Chat) -> chat_pb2.ChatReply:
    """Return the whole answer."""
    text, call = answer_parts(chat)
    part = chat_pb2.Part(tool_call=call) if call else chat_pb2.Part(text=chat_pb2.TextPart(text=text))
    message = chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, parts=[part])
    finish = chat_pb2.FINISH_REASON_TOOL_CALLS if call else chat_pb2.FINISH_REASON_STOP
    choice = chat_pb2.Choice(index=0, message=message, finish_reason=finish)
    return chat_pb2.ChatReply(id="chatcmpl-1", model="echo-1", created_seconds=CREATED, choices=[choice], usage=USAGE)


def batches_for(chat: chat_pb2.Chat) -> Iterable[list[ev.ChatEvent]]:
    """Yield the answer as batches of events, one word or piece of arguments each; the first two open it."""
    text, call = answer_parts(chat)
    yield [ev.ChatEvent(started=ev.Started(id="chatcmpl-1", model="echo-1", created_seconds=CREATED))]
    if call is not None:
        begin = chat_pb2.ToolCall(id=call.id, name=call.name)
        yield [ev.ChatEvent(part_started=ev.PartStarted(begin=chat_pb2.Part(tool_call=begin)))]
        for piece in (call.arguments_json[:5], call.arguments_json[5:]):
            yield [ev.ChatEvent(tool_call_delta=ev.ToolCallDelta(arguments_json=piece))]
    else:
        yield [ev.ChatEvent(part_started=ev.PartStarted(begin=chat_pb2.Part(text=chat_pb2.TextPart())))]
        words = text.split(" ")
        for number, word in enumerate(words):
            delta = word if number == 0 else f" {word}"
            yield [ev.ChatEvent(text_delta=ev.TextDelta(text=delta))]
    finish = chat_pb2.FINISH_REASON_TOOL_CALLS if call else chat_pb2.FINISH_REASON_STOP
    yield [
        ev.ChatEvent(part_finished=ev.PartFinished()),
        ev.ChatEvent(choice_finished=ev.ChoiceFinished(finish_reason=finish)),
        ev.ChatEvent(usage_reported=ev.UsageReported(usage=USAGE)),
    ]


def many(batches: int) -> Iterable[list[ev.ChatEvent]]:
    """Yield an answer of this many batches of one delta each."""
    yield [
        ev.ChatEvent(started=ev.Started(id="chatcmpl-1", model="echo-1", created_seconds=CREATED)),
        ev.ChatEvent(part_started=ev.PartStarted(begin=chat_pb2.Part(text=chat_pb2.TextPart()))),
    ]
    for _ in range(batches):
        yield [ev.ChatEvent(text_delta=ev.TextDelta(text=" token"))]
    yield [
        ev.ChatEvent(part_finished=ev.PartFinished()),
        ev.ChatEvent(choice_finished=ev.ChoiceFinished(finish_reason=chat_pb2.FINISH_REASON_STOP)),
    ]
