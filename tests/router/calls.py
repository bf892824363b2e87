"""Calling a router as a test does, unary or streamed, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc.aio
import pytest

from tests.router.scripted import make_chat
from tests.router.world import World
from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat
from trunkline.router.v1 import chat_service_pb2

BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])

Metadata = Sequence[tuple[str, str]]


@dataclass
class Outcome:
    """What a caller got."""

    text: str = ""
    events: list[ChatEvent] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    error: GatewayError | None = None

    @property
    def reason(self) -> str:
        return "" if self.error is None else self.error.name


async def ask(
    world: World,
    *,
    streamed: bool,
    chat: Chat | None = None,
    metadata: Metadata = (),
    labels: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Outcome:
    chat = make_chat() if chat is None else chat
    outcome = Outcome()
    try:
        if streamed:
            stream = world.chats.StreamChat(
                chat_service_pb2.StreamChatRequest(chat=chat, labels=labels), metadata=metadata, timeout=seconds
            )
            async for response in stream:
                outcome.events.extend(response.events)
                outcome.batches.append(len(response.events))
                outcome.text += "".join(event.text_delta.text for event in response.events)
            outcome.metadata = dict(await stream.initial_metadata())
        else:
            unary = world.chats.CompleteChat(
                chat_service_pb2.CompleteChatRequest(chat=chat, labels=labels), metadata=metadata, timeout=seconds
            )
            answered = await unary
            outcome.text = answered.reply.choices[0].message.parts[0].text.text
            outcome.metadata = dict(await unary.initial_metadata())
    except grpc.aio.AioRpcError as rpc_error:
        outcome.error = from_rpc_error(rpc_error)
    return outcome
