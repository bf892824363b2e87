"""Calls through the whole router, unary and streamed alike: who is asked, what the caller gets, what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest

from tests.router.scripted import (
    INVALID,
    OVERLOADED,
    TIMEOUT,
    TRUNCATED,
    Script,
    answer,
    closing,
    delta,
    fail,
    make_chat,
    make_usage,
    opening,
)
from tests.router.world import KEY, TWO_DEPLOYMENTS, World, make_world
from trunkline.errors import GatewayError, Reason, reason_name
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.router.v1 import chat_service_pb2
from trunkline.usage.v1 import usage_service_pb2

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
        return "" if self.error is None else reason_name(self.error.reason)


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


@BOTH
async def test_an_answer_comes_with_its_metadata_and_leaves_one_record(streamed: bool, tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        outcome = await ask(world, streamed=streamed, metadata=[("x-request-id", "req-abc")])
        assert outcome.text == "Hi!"
        assert {key: outcome.metadata[key] for key in outcome.metadata if key.startswith("x-")} == {
            "x-request-id": "req-abc",
            "x-trunkline-deployment": "gpt-4o/0",
            "x-trunkline-provider": "first",
            "x-trunkline-attempts": "1",
        }
        (asked,) = world.inference.asked
        assert (asked.provider, asked.model, asked.deployment, asked.number) == ("first", "one", "gpt-4o/0", 1)
        assert asked.metadata["x-request-id"] == "req-abc"
        assert asked.chat == make_chat()
        record = await world.record()
    assert record.request_id == "req-abc"
    assert record.key_id == "anonymous"
    assert record.operation == "chat"
    assert record.streamed is streamed
    assert (record.model, record.deployment, record.provider) == ("gpt-4o", "gpt-4o/0", "first")
    assert (record.catalog, record.upstream_model, record.reply_id) == ("openai", "one", "reply-1")
    assert record.usage == make_usage()
    assert record.outcome == usage_service_pb2.OUTCOME_COMPLETED
    assert (record.error_reason, record.finish_reason) == ("", "stop")
    assert [(attempt.deployment, attempt.error_reason) for attempt in record.attempts] == [("gpt-4o/0", "")]
    assert 0 < record.first_token_duration.ToNanoseconds() <= record.total_duration.ToNanoseconds()
    assert record.start_time.seconds > 1_700_000_000


HELD = (opening(),)
SEEN = (opening(), delta("Hel"))
MUTE = make_usage(30, 1)


@dataclass(frozen=True)
class Case:
    """One course of events. `unary` and `stream` tell what is expected where the two differ."""

    scripts: Mapping[str, Sequence[Script]]
    reason: str = ""
    text: str = "Hi!"
    tried: tuple[str, ...] = ("gpt-4o/0",)
    outcome: str = "COMPLETED"
    attempts: tuple[str, ...] = ("",)
    usage: TokenUsage | None = field(default_factory=make_usage)


COURSES: dict[str, Case] = {
    "ok": Case({}),
    "a failure before content is retried elsewhere": Case(
        {"first": [fail(OVERLOADED, after=HELD)]},
        tried=("gpt-4o/0", "gpt-4o/1"),
        attempts=("UPSTREAM_OVERLOADED", ""),
    ),
    "a failure before anything is retried elsewhere": Case(
        {"first": [fail(TIMEOUT)]}, tried=("gpt-4o/0", "gpt-4o/1"), attempts=("UPSTREAM_TIMEOUT", "")
    ),
    "two failures are followed by the same deployments again": Case(
        {"first": [fail(OVERLOADED), answer()], "second": [fail(TIMEOUT)]},
        tried=("gpt-4o/0", "gpt-4o/1", "gpt-4o/0"),
        attempts=("UPSTREAM_OVERLOADED", "UPSTREAM_TIMEOUT", ""),
    ),
    "the fallback answers when the model's own cannot": Case(
        {"first": [fail(TIMEOUT)], "second": [fail(TIMEOUT)]},
        tried=("gpt-4o/0", "gpt-4o/1", "other/0"),
        attempts=("UPSTREAM_TIMEOUT", "UPSTREAM_TIMEOUT", ""),
    ),
    "nobody can": Case(
        {"first": [fail(TIMEOUT)], "second": [fail(OVERLOADED)], "third": [fail(TIMEOUT)]},
        reason="NO_HEALTHY_DEPLOYMENT",
        text="",
        tried=("gpt-4o/0", "gpt-4o/1", "gpt-4o/1", "other/0"),
        outcome="FAILED",
        attempts=("UPSTREAM_TIMEOUT", "UPSTREAM_OVERLOADED", "UPSTREAM_OVERLOADED", "UPSTREAM_TIMEOUT"),
        usage=None,
    ),
    "what is the caller's fault is told at once": Case(
        {"first": [fail(INVALID)]},
        reason="INVALID_REQUEST",
        text="",
        outcome="FAILED",
        attempts=("INVALID_REQUEST",),
        usage=None,
    ),
}

STREAM_COURSES: dict[str, Case] = {
    "an error after content ends the stream with it": Case(
        {"first": [fail(OVERLOADED, after=SEEN)]},
        reason="UPSTREAM_OVERLOADED",
        text="Hel",
        outcome="FAILED",
        attempts=("UPSTREAM_OVERLOADED",),
        usage=TokenUsage(input_tokens=10, output_tokens=1, estimated=True),
    ),
    "a stream cut after content is truncated": Case(
        {"first": [fail(TRUNCATED, after=SEEN)]},
        reason="STREAM_TRUNCATED",
        text="Hel",
        outcome="TRUNCATED",
        attempts=("STREAM_TRUNCATED",),
        usage=TokenUsage(input_tokens=10, output_tokens=1, estimated=True),
    ),
    "a stream that ends well without its end is truncated": Case(
        {"first": [Script(batches=SEEN)]},
        reason="STREAM_TRUNCATED",
        text="Hel",
        outcome="TRUNCATED",
        attempts=("STREAM_TRUNCATED",),
        usage=TokenUsage(input_tokens=10, output_tokens=1, estimated=True),
    ),
    "a stream that ends before content is asked elsewhere": Case(
        {"first": [Script(batches=HELD)]}, tried=("gpt-4o/0", "gpt-4o/1"), attempts=("STREAM_TRUNCATED", "")
    ),
    "an empty stream is asked elsewhere": Case(
        {"first": [Script()]}, tried=("gpt-4o/0", "gpt-4o/1"), attempts=("STREAM_TRUNCATED", "")
    ),
    "an answer without a word is an answer": Case({"first": [Script(batches=[opening(), closing(MUTE)])]}, text="",
                                                  usage=MUTE),
}  # fmt: skip


async def check(case: Case, tmp_path: Path, *, streamed: bool) -> None:
    async with make_world(tmp_path) as world:
        for provider, scripts in case.scripts.items():
            world.inference.play(provider, *scripts)
        outcome = await ask(world, streamed=streamed)
        assert (outcome.reason, outcome.text) == (case.reason, case.text)
        assert tuple(asked.deployment for asked in world.inference.asked) == case.tried
        assert [asked.number for asked in world.inference.asked] == list(range(1, len(case.tried) + 1))
        assert world.inference.open_calls == 0
        if not case.reason:
            assert outcome.metadata["x-trunkline-attempts"] == str(len(case.tried))
        record = await world.record()
    assert usage_service_pb2.Outcome.Name(record.outcome) == f"OUTCOME_{case.outcome}"
    assert record.error_reason == case.reason
    assert tuple(attempt.error_reason for attempt in record.attempts) == case.attempts
    assert tuple(attempt.deployment for attempt in record.attempts) == case.tried
    assert record.deployment == case.tried[-1]
    assert (record.usage if record.HasField("usage") else None) == case.usage


@BOTH
@pytest.mark.parametrize("case", COURSES.values(), ids=COURSES)
async def test_a_course_of_events_ends_as_expected(case: Case, streamed: bool, tmp_path: Path) -> None:
    await check(case, tmp_path, streamed=streamed)


@pytest.mark.parametrize("case", STREAM_COURSES.values(), ids=STREAM_COURSES)
async def test_a_streams_course_ends_as_expected(case: Case, tmp_path: Path) -> None:
    await check(case, tmp_path, streamed=True)


@BOTH
async def test_a_single_deployments_error_keeps_what_the_upstream_said(streamed: bool, tmp_path: Path) -> None:
    async with make_world(tmp_path, models={}) as world:
        world.inference.play("first", fail(error_reason_pb2.ERROR_REASON_UPSTREAM_RATE_LIMITED, retry_after=99.0))
        outcome = await ask(world, streamed=streamed, chat=make_chat("first/some/model"))
        assert outcome.error is not None
        assert (outcome.reason, outcome.error.retry_after) == ("UPSTREAM_RATE_LIMITED", 99.0)
        assert outcome.error.metadata["deployment"] == "first/some/model/0"
        (asked,) = world.inference.asked
        assert asked.model == "some/model"


async def test_events_are_held_until_content_and_forwarded_as_they_come(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        outcome = await ask(world, streamed=True)
        assert outcome.batches == [3, 1, 1, 3]
        whole = [*opening(), *delta("H"), *delta("i"), *delta("!"), *closing(make_usage())]
        assert outcome.events == whole


async def test_the_first_content_is_sent_before_the_next_is_there(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        world.inference.play("first", Script(batches=SEEN, hang=True))
        stream = world.chats.StreamChat(chat_service_pb2.StreamChatRequest(chat=make_chat()))
        first = await anext(aiter(stream))
        assert first.events[-1].text_delta.text == "Hel"
        assert not world.inference.reached.is_set()
        stream.cancel()


@BOTH
async def test_a_caller_that_leaves_stops_the_upstream_and_is_recorded(streamed: bool, tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        world.inference.play("first", Script(batches=SEEN, hang=True))
        calling = asyncio.create_task(ask(world, streamed=streamed))
        await asyncio.wait_for(world.inference.reached.wait(), 5)
        calling.cancel()
        await asyncio.wait([calling])
        await asyncio.wait_for(world.inference.ended.wait(), 0.1)
        record = await world.record()
    assert record.outcome == usage_service_pb2.OUTCOME_CLIENT_DISCONNECT
    assert record.error_reason == "CALLER_CANCELLED"
    assert record.usage == TokenUsage(input_tokens=10, output_tokens=1 if streamed else 0, estimated=True)
    assert record.HasField("first_token_duration") is streamed


async def test_a_stream_dropped_between_two_messages_is_recorded_once(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        stream = world.chats.StreamChat(chat_service_pb2.StreamChatRequest(chat=make_chat()))
        await anext(aiter(stream))
        stream.cancel()
        await asyncio.wait_for(world.inference.ended.wait(), 5)
        record = await world.record()
    assert record.outcome == usage_service_pb2.OUTCOME_CLIENT_DISCONNECT
    assert record.usage.output_tokens == 1


async def test_a_stream_that_nobody_reads_asks_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        world.chats.StreamChat(chat_service_pb2.StreamChatRequest(chat=make_chat())).cancel()
        assert await world.records() == []
        assert world.inference.asked == []


@BOTH
async def test_a_deadline_that_passes_is_a_timeout_and_recorded_as_failed(streamed: bool, tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        world.inference.play("first", Script(batches=HELD, hang=True))
        outcome = await ask(world, streamed=streamed, seconds=0.05)
        assert outcome.reason == "UPSTREAM_TIMEOUT"
        (asked,) = world.inference.asked
        assert asked.time_remaining is not None
        assert asked.time_remaining <= 0.05
        record = await world.record()
    assert record.outcome == usage_service_pb2.OUTCOME_FAILED
    assert record.error_reason == "UPSTREAM_TIMEOUT"
    assert not record.HasField("usage")


@BOTH
async def test_without_a_deadline_the_models_or_the_routers_default_holds(streamed: bool, tmp_path: Path) -> None:
    models = {"slow": {"deployments": [{"provider": "first", "model": "x"}], "timeout": 0.05}}
    async with make_world(tmp_path, models=models, timeout=30) as world:
        world.inference.play("first", Script(hang=True))
        assert (await ask(world, streamed=streamed, chat=make_chat("slow"))).reason == "UPSTREAM_TIMEOUT"
        await ask(world, streamed=streamed, chat=make_chat("second/x"))
        first, second = (asked.time_remaining for asked in world.inference.asked)
        assert first is not None
        assert first <= 0.05
        assert second is not None
        assert 29 < second <= 30


async def test_no_content_within_the_first_token_timeout_is_asked_elsewhere(tmp_path: Path) -> None:
    models = {"gpt-4o": {**TWO_DEPLOYMENTS["gpt-4o"], "fallbacks": [], "first_token_timeout": 0.05}}
    async with make_world(tmp_path, models=models) as world:
        world.inference.play("first", Script(batches=HELD, hang=True))
        outcome = await ask(world, streamed=True)
        assert outcome.text == "Hi!"
        assert world.inference.open_calls == 0
        record = await world.record()
    assert [attempt.error_reason for attempt in record.attempts] == ["UPSTREAM_TIMEOUT", ""]


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


def test_every_reason_is_named_in_a_record() -> None:
    assert all(reason_name(reason) for reason in Reason.values())
