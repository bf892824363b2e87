"""Any gateway, any course of events: no attempt too many, one record, and the bill goes to the one that answered."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import grpc.aio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.router.scripted import (
    INVALID,
    OVERLOADED,
    TIMEOUT,
    TRUNCATED,
    Script,
    answer,
    delta,
    fail,
    make_chat,
    make_usage,
    opening,
    provider,
)
from tests.router.world import make_world
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.router.v1 import chat_service_pb2, deployment_service_pb2
from trunkline.usage.v1 import usage_service_pb2

HELD = [opening()]
SEEN = [opening(), delta("Hel")]

scripts = st.sampled_from([
    "answer", "overloaded", "timeout", "invalid", "held and overloaded", "seen and overloaded", "seen and cut", "empty",
])  # fmt: skip


def script(name: str, number: int) -> Script:
    """Return a script; an answer's usage tells which provider gave it."""
    return {
        "answer": answer(usage=make_usage(100 + number, 7)),
        "overloaded": fail(OVERLOADED),
        "timeout": fail(TIMEOUT),
        "invalid": fail(INVALID),
        "held and overloaded": fail(OVERLOADED, after=HELD),
        "seen and overloaded": fail(OVERLOADED, after=SEEN),
        "seen and cut": fail(TRUNCATED, after=SEEN),
        "empty": fail(TRUNCATED),
    }[name]


deployments = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 0, 3])), min_size=1, max_size=3)
models = st.lists(st.tuples(deployments, st.integers(0, 2)), min_size=1, max_size=3)


@given(
    models,
    st.lists(st.lists(scripts, min_size=1, max_size=3), min_size=6, max_size=6),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
async def test_every_request_keeps_the_rules_and_leaves_one_true_record(
    shape: list[tuple[list[tuple[int, int]], int]], courses: list[list[str]], streamed: bool
) -> None:
    config: dict[str, Any] = {}
    for number, (places, retries) in enumerate(shape):
        listed = [{"provider": f"p{place}", "model": "x", "weight": weight} for place, weight in places]
        listed[0]["weight"] = 1
        fallbacks = [f"m{number + 1}"] if number + 1 < len(shape) else []
        config[f"m{number}"] = {"deployments": listed, "retries": retries, "fallbacks": fallbacks}
    with tempfile.TemporaryDirectory() as directory:
        async with make_world(
            Path(directory), models=config, providers=[provider(f"p{number}") for number in range(6)]
        ) as world:
            for number, course in enumerate(courses):
                world.inference.play(f"p{number}", *(script(name, number) for name in course))
            route = await world.deployments.ExplainRoute(deployment_service_pb2.ExplainRouteRequest(model="m0"))
            reason = ""
            try:
                if streamed:
                    request = chat_service_pb2.StreamChatRequest(chat=make_chat("m0"))
                    async for _ in world.chats.StreamChat(request):
                        pass
                else:
                    await world.chats.CompleteChat(chat_service_pb2.CompleteChatRequest(chat=make_chat("m0")))
            except grpc.aio.AioRpcError as rpc_error:
                reason = from_rpc_error(rpc_error).name
            asked = [one.deployment for one in world.inference.asked]
            record = await world.record()
    assert 1 <= len(asked) <= route.max_attempts
    assert [attempt.deployment for attempt in record.attempts] == asked
    assert record.deployment == asked[-1]
    assert record.provider == world.inference.asked[-1].provider
    assert record.error_reason == reason
    assert all(attempt.error_reason for attempt in record.attempts[:-1])
    assert bool(record.attempts[-1].error_reason) is bool(reason)
    for number, (places, _) in enumerate(shape):
        mine = [name for name in asked if name.startswith(f"m{number}/")]
        first_round = mine[: len(places)]
        assert len(set(first_round)) == len(first_round)
    if not reason:
        assert record.outcome == usage_service_pb2.OUTCOME_COMPLETED
        assert record.usage.input_tokens == 100 + int(record.provider.removeprefix("p"))
