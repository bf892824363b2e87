"""Who is let in to a chat, what is written down of it, and how tokens are counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import grpc.aio
import pytest

from tests.router.calls import BOTH, Metadata, ask
from tests.router.scripted import (
    Script,
    closing,
    delta,
    make_chat,
    opening,
)
from tests.router.world import KEY, make_world
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.inference.v1.chat_pb2 import Chat
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.router.v1 import chat_service_pb2
from trunkline.usage.v1 import usage_service_pb2


@BOTH
async def test_usage_that_was_never_reported_is_estimated_and_marked(streamed: bool, tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        world.inference.play("first", Script(batches=[opening(), delta("x" * 40), closing()]))
        await ask(world, streamed=streamed)
        record = await world.record()
    assert record.usage == TokenUsage(input_tokens=10, output_tokens=10, estimated=True)
    assert record.outcome == usage_service_pb2.OUTCOME_COMPLETED


REFUSED: dict[str, tuple[Chat, Metadata, Mapping[str, str], str, str]] = {
    "no key": (make_chat(), [], {}, "CALLER_UNAUTHENTICATED", ""),
    "a wrong key": (make_chat(), [("authorization", "Bearer nope")], {}, "CALLER_UNAUTHENTICATED", ""),
    "an unknown model": (make_chat("gpt-4p"), [("authorization", f"Bearer {KEY}")], {}, "MODEL_NOT_FOUND", ""),
    "a provider without credentials": (
        make_chat("locked/x"), [("authorization", f"Bearer {KEY}")], {}, "MODEL_NOT_FOUND", "",
    ),
    "no messages": (Chat(model="gpt-4o"), [("authorization", f"Bearer {KEY}")], {}, "INVALID_REQUEST", "messages"),
    "a long label": (
        make_chat(), [("authorization", f"Bearer {KEY}")], {"k": "v" * 257}, "INVALID_REQUEST", "labels.k",
    ),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_asks_nobody_and_leaves_no_record(
    refused: tuple[Chat, Metadata, Mapping[str, str], str, str], streamed: bool, tmp_path: Path
) -> None:
    chat, metadata, labels, reason, param = refused
    async with make_world(tmp_path, auth={"master_key": KEY}) as world:
        outcome = await ask(world, streamed=streamed, chat=chat, metadata=metadata, labels=labels)
        assert outcome.error is not None
        assert (outcome.reason, outcome.error.param or "") == (reason, param)
        assert world.inference.asked == []
        assert await world.records() == []


@BOTH
async def test_key_and_labels_are_recorded(streamed: bool, tmp_path: Path) -> None:
    async with make_world(tmp_path, auth={"master_key": KEY}) as world:
        metadata = [("authorization", f"Bearer {KEY}"), ("x-livekit-room-id", "RM_1")]
        outcome = await ask(world, streamed=streamed, metadata=metadata, labels={"tenant": "blue"})
        assert outcome.error is None
        record = await world.record()
    assert record.key_id == "master"
    assert dict(record.labels) == {"room_id": "RM_1", "tenant": "blue"}
    assert KEY.encode() not in record.SerializeToString()


@BOTH
async def test_a_request_that_nobody_can_be_asked_for_is_recorded_without_a_deployment(
    streamed: bool, tmp_path: Path
) -> None:
    models = {"a": {"deployments": [{"provider": "locked", "model": "x"}]}}
    async with make_world(tmp_path, models=models) as world:
        outcome = await ask(world, streamed=streamed, chat=make_chat("a"))
        assert outcome.reason == "NO_HEALTHY_DEPLOYMENT"
        record = await world.record()
    assert (record.deployment, record.provider, len(record.attempts)) == ("", "", 0)


async def test_a_name_beyond_ascii_goes_through(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        outcome = await ask(world, streamed=False, chat=make_chat("first/modèle"))
        assert outcome.text == "Hi!"
        assert outcome.metadata["x-trunkline-deployment"] == "first/mod%C3%A8le/0"
        assert (await world.record()).deployment == "first/modèle/0"


@pytest.mark.parametrize(("counted", "expected"), [(42, (42, False)), (None, (10, True))], ids=["counted", "estimated"])
async def test_tokens_are_counted_by_the_provider_else_estimated(
    counted: int | None, expected: tuple[int, bool], tmp_path: Path
) -> None:
    async with make_world(tmp_path) as world:
        world.inference.counted_tokens = counted
        response = await world.chats.CountTokens(chat_service_pb2.CountTokensRequest(chat=make_chat()))
        assert (response.input_tokens, response.estimated) == expected
        assert await world.records() == []


async def test_counting_needs_a_key_and_a_model(tmp_path: Path) -> None:
    async with make_world(tmp_path, auth={"master_key": KEY}) as world:
        for chat, metadata, reason in [
            (make_chat(), (), "CALLER_UNAUTHENTICATED"),
            (make_chat("nothing"), (("authorization", f"Bearer {KEY}"),), "MODEL_NOT_FOUND"),
        ]:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await world.chats.CountTokens(chat_service_pb2.CountTokensRequest(chat=chat), metadata=metadata)
            assert from_rpc_error(raised.value).name == reason
