"""Recorded exchanges replayed through the service: the upstream sees an equal request, the caller the same answer."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from services.providers.catalog import load_catalog
from tests.providers.recordings import (
    Meaning,
    Recording,
    answer_steps,
    arguments_of,
    meaning_of_anthropic,
    meaning_of_openai,
    recordings,
)
from tests.providers.serving import local_channel, read_stream
from tests.upstream import ScriptedUpstream
from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.inference.v1 import chat_pb2
from trunkline.inference.v1.chat_pb2 import ChatReply
from trunkline.openai_json import decode_chat_request
from trunkline.providers.v1 import inference_service_pb2 as pb
from trunkline.providers.v1.inference_service_pb2_grpc import InferenceServiceStub
from trunkline.reply import fold


async def replay(recording: Recording, chat: chat_pb2.Chat) -> tuple[ChatReply | GatewayError, Any]:
    """Return what the caller gets, and the JSON that the upstream got."""
    row = recording.provider if recording.provider in load_catalog() else "openai_compatible"
    if recording.api == "anthropic.messages":
        row = "anthropic"
    async with ScriptedUpstream() as upstream:
        upstream.answer(*answer_steps(recording))
        providers = {"acme": {"catalog": row, "base_url": f"{upstream.url}/v1", "api_key": "sk-x"}}
        async with local_channel(providers) as channel:
            stub = InferenceServiceStub(channel)
            target = pb.Target(provider="acme", model=recording.model)
            outcome: ChatReply | GatewayError | None
            if recording.operation == "chat_stream":
                events, outcome = await read_stream(stub, pb.StreamChatRequest(chat=chat, target=target))
                outcome = outcome or fold(events)
            else:
                try:
                    outcome = (await stub.CompleteChat(pb.CompleteChatRequest(chat=chat, target=target))).reply
                except grpc.aio.AioRpcError as error:
                    outcome = from_rpc_error(error)
    return outcome, upstream.requests[0].json if upstream.requests else None


def meaning_of(reply: ChatReply) -> Meaning:
    """Return what a reply says in its first choice, in the terms of the recordings."""
    choice = reply.choices[0]
    usage = reply.usage
    calls = [part.tool_call for part in choice.message.parts if part.WhichOneof("part") == "tool_call"]
    return Meaning(
        text="".join(part.text.text for part in choice.message.parts),
        reasoning="".join(part.reasoning.text for part in choice.message.parts),
        tool_calls=[(call.name, arguments_of(call.arguments_json)) for call in calls],
        finish_reason=choice.raw_finish_reason or None,
        input_tokens=usage.input_tokens if usage.HasField("input_tokens") else None,
        output_tokens=usage.output_tokens if usage.HasField("output_tokens") else None,
        total_tokens=usage.total_tokens if usage.HasField("total_tokens") else None,
    )


def check(outcome: ChatReply | GatewayError, expected: Meaning) -> None:
    """Compare what the caller got with what was recorded."""
    assert isinstance(outcome, GatewayError if expected.failed else ChatReply), outcome
    if isinstance(outcome, ChatReply):
        found = meaning_of(outcome)
        if expected.input_tokens is None:
            found.input_tokens = found.output_tokens = None
        assert found == expected


def _comparable(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request without what the gateway decides itself: how it streams, and that it asks for the usage."""
    return {name: value for name, value in body.items() if name not in ("stream", "stream_options")}


@pytest.mark.parametrize("recording", recordings("openai.chat_completions", "chat", "chat_stream"))
async def test_an_openai_shaped_exchange_means_the_same_through_the_service(recording: Recording) -> None:
    body = recording.request.get("body") or {"messages": [{"role": "user", "content": "?"}]}
    body.setdefault("model", recording.model)
    outcome, sent = await replay(recording, decode_chat_request(json.dumps(body).encode()).chat)
    status = recording.response["status"]
    if status >= 400:
        assert isinstance(outcome, GatewayError), outcome
        # What the provider refused is known in advance, or it is the provider's own error.
        assert "feature" in outcome.metadata or outcome.metadata["upstream_status"] == str(status)
        return
    expected = meaning_of_openai(recording)
    check(outcome, expected)
    assert _comparable(sent) == _comparable(body)


@pytest.mark.parametrize("recording", recordings("anthropic.messages", "chat", "chat_stream"))
async def test_an_answer_of_the_messages_api_means_the_same_through_the_service(recording: Recording) -> None:
    chat = decode_chat_request(b'{"model":"m","messages":[{"role":"user","content":"?"}]}').chat
    outcome, sent = await replay(recording, chat)
    assert (sent["model"], sent["messages"][0]["role"]) == (recording.model, "user")
    status = recording.response["status"]
    if status >= 400:
        assert isinstance(outcome, GatewayError), outcome
        assert outcome.metadata["upstream_status"] == str(status)
        return
    if isinstance(outcome, ChatReply):
        outcome.usage.ClearField("total_tokens")
    check(outcome, meaning_of_anthropic(recording))
