"""Calls through the whole router, unary and streamed alike: who is asked, what the caller gets, what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.router.calls import BOTH, ask
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
from tests.router.world import TWO_DEPLOYMENTS, make_world
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.router.v1 import chat_service_pb2
from trunkline.usage.v1 import usage_service_pb2


@pytest.fixture(params=["local", "socket"])
def socket(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address at which the router reaches its neighbours, "" for in the same process."""
    return f"unix:{tmp_path}/socket" if request.param == "socket" else ""


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


async def check(case: Case, tmp_path: Path, socket: str, *, streamed: bool) -> None:
    async with make_world(tmp_path / "journal", socket=socket) as world:
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
async def test_a_course_of_events_ends_as_expected(case: Case, streamed: bool, tmp_path: Path, socket: str) -> None:
    await check(case, tmp_path, socket, streamed=streamed)


@pytest.mark.parametrize("case", STREAM_COURSES.values(), ids=STREAM_COURSES)
async def test_a_streams_course_ends_as_expected(case: Case, tmp_path: Path, socket: str) -> None:
    await check(case, tmp_path, socket, streamed=True)


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
async def test_a_caller_that_leaves_stops_the_upstream_and_is_recorded(
    streamed: bool, tmp_path: Path, socket: str
) -> None:
    async with make_world(tmp_path / "journal", socket=socket) as world:
        world.inference.play("first", Script(batches=SEEN, hang=True))
        if streamed:
            # What was forwarded is billed, so it must have been: that the upstream sent it says nothing over a socket.
            stream = world.chats.StreamChat(chat_service_pb2.StreamChatRequest(chat=make_chat()))
            first = await anext(aiter(stream))
            assert first.events[-1].text_delta.text == "Hel"
            stream.cancel()
        else:
            calling = asyncio.create_task(ask(world, streamed=False))
            await asyncio.wait_for(world.inference.reached.wait(), 5)
            calling.cancel()
            await asyncio.wait([calling])
        await asyncio.wait_for(world.inference.ended.wait(), 0.1)
        record = await world.record()
    assert record.outcome == usage_service_pb2.OUTCOME_CLIENT_DISCONNECT
    assert record.error_reason == "CALLER_CANCELLED"
    assert record.usage == TokenUsage(input_tokens=10, output_tokens=1 if streamed else 0, estimated=True)
    assert record.HasField("first_token_duration") is streamed


async def test_a_stream_dropped_between_two_messages_is_recorded_once(tmp_path: Path, socket: str) -> None:
    async with make_world(tmp_path / "journal", socket=socket) as world:
        stream = world.chats.StreamChat(chat_service_pb2.StreamChatRequest(chat=make_chat()))
        await anext(aiter(stream))
        stream.cancel()
        await asyncio.wait_for(world.inference.ended.wait(), 5)
        await asyncio.wait_for(world.usage.received.wait(), 5)
        record = await world.record()
    assert record.outcome == usage_service_pb2.OUTCOME_CLIENT_DISCONNECT
    assert record.usage.output_tokens == 1


async def test_a_stream_that_nobody_reads_asks_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        world.chats.StreamChat(chat_service_pb2.StreamChatRequest(chat=make_chat())).cancel()
        assert await world.records() == []
        assert world.inference.asked == []


@BOTH
async def test_a_deadline_that_passes_is_a_timeout_and_recorded_as_failed(
    streamed: bool, tmp_path: Path, socket: str
) -> None:
    async with make_world(tmp_path / "journal", socket=socket) as world:
        world.inference.play("first", Script(batches=HELD, hang=True))
        outcome = await ask(world, streamed=streamed, seconds=0.05)
        assert outcome.reason == "UPSTREAM_TIMEOUT"
        (asked,) = world.inference.asked
        assert asked.time_remaining is not None
        assert asked.time_remaining < 0.06
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


async def test_no_content_within_the_first_token_timeout_is_asked_elsewhere(tmp_path: Path, socket: str) -> None:
    models = {"gpt-4o": {**TWO_DEPLOYMENTS["gpt-4o"], "fallbacks": [], "first_token_timeout": 0.05}}
    async with make_world(tmp_path / "journal", socket=socket, models=models) as world:
        world.inference.play("first", Script(batches=HELD, hang=True))
        outcome = await ask(world, streamed=True)
        assert outcome.text == "Hi!"
        assert world.inference.open_calls == 0
        record = await world.record()
    assert [attempt.error_reason for attempt in record.attempts] == ["UPSTREAM_TIMEOUT", ""]
