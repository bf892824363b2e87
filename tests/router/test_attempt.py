"""The retry loop by itself: who is asked, in which order, how often, and what the last word is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.attempt import Attempt, Attempts
from services.router.routes import Deployment, Excluded, Group, Plan
from tests.router.scripted import INVALID, OVERLOADED, RATE_LIMITED, TIMEOUT, TRUNCATED, sequence
from trunkline.errors import FACES, GatewayError, Reason, reason_name
from trunkline.errors.reasons import Next
from trunkline.errors.v1 import error_reason_pb2

NO_HEALTHY = error_reason_pb2.ERROR_REASON_NO_HEALTHY_DEPLOYMENT
UNREACHABLE = error_reason_pb2.ERROR_REASON_UPSTREAM_UNREACHABLE
TRANSIENT = {OVERLOADED, RATE_LIMITED, UNREACHABLE, TRUNCATED}


def group(model: str, count: int, *, retries: int = 2, weights: Sequence[float] = ()) -> Group:
    deployments = tuple(
        Deployment(
            name=f"{model}/{number}",
            model=model,
            provider="p",
            catalog="p",
            upstream_model="m",
            weight=weights[number] if weights else 1.0,
        )
        for number in range(count)
    )
    return Group(model=model, deployments=deployments, excluded=(), max_attempts=retries + 1, first_token_timeout=None)


def plan(*groups: Group) -> Plan:
    return Plan(model=groups[0].model, matched=groups[0].model, groups=groups, timeout=600.0)


def attempts(*groups: Group, seconds: float = 60.0, draw: Callable[[], float] = lambda: 0.0) -> Attempts:
    return Attempts(plan(*groups), time.monotonic() + seconds, draw=draw)


class Upstream:
    """Fails as told, call by call, then answers with the deployment's name."""

    def __init__(self, *errors: GatewayError | grpc.aio.AioRpcError | Reason.ValueType) -> None:
        self._errors = list(errors)
        self.asked: list[str] = []

    async def __call__(self, attempt: Attempt) -> str:
        self.asked.append(attempt.deployment.name)
        if not self._errors:
            return attempt.deployment.name
        error = self._errors.pop(0)
        raise GatewayError(error, "scripted") if isinstance(error, int) else error


async def failure(loop: Attempts, upstream: Upstream) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await loop.run(upstream)
    return raised.value


async def test_the_first_answer_ends_the_loop() -> None:
    loop, upstream = attempts(group("a", 3)), Upstream()
    assert await loop.run(upstream) == "a/0"
    assert upstream.asked == ["a/0"]


async def test_each_deployment_is_asked_once_before_any_is_asked_again() -> None:
    loop, upstream = attempts(group("a", 2, retries=3)), Upstream(OVERLOADED, OVERLOADED, OVERLOADED)
    await loop.run(upstream)
    assert sorted(upstream.asked[:2]) == sorted(upstream.asked[2:]) == ["a/0", "a/1"]
    assert [attempt.number for attempt in loop.log] == [1, 2, 3, 4]


async def test_attempts_are_bounded_for_each_model_then_the_fallbacks_follow() -> None:
    upstream = Upstream(*[OVERLOADED] * 3)
    assert await attempts(group("a", 1, retries=1), group("b", 1, retries=1)).run(upstream) == "b/0"
    assert upstream.asked == ["a/0", "a/0", "b/0", "b/0"]


@pytest.mark.parametrize("reason", [reason for reason in FACES if FACES[reason].next is Next.STOP])
async def test_a_reason_that_would_meet_all_alike_ends_the_call_at_once(reason: Reason.ValueType) -> None:
    upstream = Upstream(reason)
    error = await failure(attempts(group("a", 3), group("b", 1)), upstream)
    assert error.reason == reason
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("reason", [reason for reason in FACES if FACES[reason].next is Next.TRY_NEXT])
async def test_other_reasons_go_on_and_ask_the_same_again_only_when_they_may_pass(reason: Reason.ValueType) -> None:
    upstream = Upstream(reason, reason, reason)
    error = await failure(attempts(group("a", 1)), upstream)
    assert error.reason == reason
    assert upstream.asked == ["a/0"] * (3 if reason in TRANSIENT else 1)


async def test_a_deployment_that_timed_out_is_left_out_when_others_are_asked_again() -> None:
    upstream = Upstream(TIMEOUT, OVERLOADED, OVERLOADED)
    await attempts(group("a", 2, retries=3)).run(upstream)
    assert upstream.asked == ["a/0", "a/1", "a/1", "a/1"]


async def test_the_one_deployments_own_error_is_the_last_word() -> None:
    error = await failure(attempts(group("a", 1, retries=1)), Upstream(RATE_LIMITED, OVERLOADED))
    assert error.reason == OVERLOADED


async def test_several_that_failed_alike_give_that_error() -> None:
    error = await failure(attempts(group("a", 2, retries=1)), Upstream(OVERLOADED, OVERLOADED))
    assert error.reason == OVERLOADED


async def test_several_that_failed_differently_are_listed() -> None:
    limited = GatewayError(RATE_LIMITED, "slow down", retry_after=7.0)
    error = await failure(attempts(group("a", 1, retries=0), group("b", 1, retries=0)), Upstream(limited, TIMEOUT))
    assert error.reason == NO_HEALTHY
    assert error.metadata["tried"] == "a/0=UPSTREAM_RATE_LIMITED,b/0=UPSTREAM_TIMEOUT"
    assert error.retry_after == 7.0


async def test_nobody_to_ask_is_told_with_the_reasons() -> None:
    out = Excluded(deployment=group("a", 1).deployments[0], reason="provider 'x' has no credentials")
    nobody = Group(model="a", deployments=(), excluded=(out,), max_attempts=3, first_token_timeout=None)
    error = await failure(attempts(nobody), Upstream())
    assert error.reason == NO_HEALTHY
    assert "a/0: provider 'x' has no credentials" in error.message


async def test_nobody_is_asked_after_the_deadline() -> None:
    upstream = Upstream()
    error = await failure(attempts(group("a", 1), seconds=0.0), upstream)
    assert error.reason == TIMEOUT
    assert upstream.asked == []


async def test_each_attempt_gets_the_time_that_is_left() -> None:
    loop = attempts(group("a", 2), seconds=5.0)
    await loop.run(Upstream(OVERLOADED))
    first, second = loop.log
    assert 4.5 < second.timeout < first.timeout <= 5.0


async def test_the_same_deployment_is_asked_again_only_after_the_time_it_asked_for() -> None:
    loop = attempts(group("a", 1))
    await loop.run(Upstream(GatewayError(RATE_LIMITED, "", retry_after=0.05)))
    first, second = loop.log
    assert first.end is not None
    assert second.start - first.end >= 0.05


async def test_another_deployment_is_asked_without_a_pause() -> None:
    loop = attempts(group("a", 2), draw=sequence(0.0, 0.999))
    await loop.run(Upstream(GatewayError(RATE_LIMITED, "", retry_after=30.0)))
    assert loop.log[1].start - loop.log[0].start < 5


async def test_who_asks_for_more_time_than_there_is_is_not_asked_again() -> None:
    upstream = Upstream(GatewayError(RATE_LIMITED, "", retry_after=30.0))
    error = await failure(attempts(group("a", 1), seconds=5.0), upstream)
    assert error.reason == RATE_LIMITED
    assert error.retry_after == 30.0
    assert len(upstream.asked) == 1


async def test_the_pause_is_jittered_between_nothing_and_its_bound() -> None:
    loop = attempts(group("a", 1, retries=1), draw=sequence(0.0, 0.0, 0.2))
    await loop.run(Upstream(OVERLOADED))
    first, second = loop.log
    assert first.end is not None
    assert 0.05 <= second.start - first.end < 1


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED]
)
async def test_what_the_providers_service_holds_against_the_router_is_not_held_against_the_caller(
    code: grpc.StatusCode,
) -> None:
    rpc_error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no")
    error = await failure(attempts(group("a", 1)), Upstream(rpc_error))
    assert error.reason == error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE


class _Noting:
    """Health that leaves one out and notes what it is told."""

    def __init__(self, out: str = "") -> None:
        self._out = out
        self.reports: list[tuple[str, str]] = []

    def candidates(self, asked: Group) -> Sequence[Deployment]:
        return [one for one in asked.deployments if one.name != self._out]

    def report(self, deployment: Deployment, error: GatewayError | None) -> None:
        self.reports.append((deployment.name, "" if error is None else reason_name(error.reason)))


async def test_health_filters_the_candidates_and_hears_every_result_once() -> None:
    health = _Noting(out="a/0")
    loop = Attempts(plan(group("a", 3)), time.monotonic() + 60, draw=lambda: 0.0, health=health)
    assert await loop.run(Upstream(OVERLOADED)) == "a/2"
    loop.finish(None)
    loop.finish(None)
    assert health.reports == [("a/1", "UPSTREAM_OVERLOADED"), ("a/2", "")]


async def test_a_caller_that_left_is_nobodys_failure() -> None:
    health = _Noting()
    loop = Attempts(plan(group("a", 1)), time.monotonic() + 60, draw=lambda: 0.0, health=health)
    await loop.run(Upstream())
    loop.finish(GatewayError(error_reason_pb2.ERROR_REASON_CALLER_CANCELLED, ""))
    assert health.reports == []


_REASONS = st.sampled_from([OVERLOADED, TIMEOUT, RATE_LIMITED, UNREACHABLE, INVALID])


@given(
    shapes=st.lists(
        st.tuples(st.lists(st.sampled_from([0.0, 1.0, 5.0]), min_size=1, max_size=4), st.integers(0, 3)),
        min_size=1,
        max_size=3,
    ),
    course=st.lists(st.none() | _REASONS, max_size=15),
)
@settings(max_examples=300, deadline=None)
async def test_over_any_topology_the_rules_hold(
    shapes: list[tuple[list[float], int]], course: list[Reason.ValueType | None]
) -> None:
    groups = [
        group(f"m{number}", len(weights), retries=retries, weights=weights)
        for number, (weights, retries) in enumerate(shapes)
    ]
    # A draw of 0 makes the pauses vanish; who is chosen varies by the weights.
    loop = Attempts(plan(*groups), time.monotonic() + 60, draw=lambda: 0.0)
    left = list(course)
    asked: list[str] = []

    async def ask(attempt: Attempt) -> str:
        asked.append(attempt.deployment.name)
        reason = left.pop(0) if left else None
        if reason is not None:
            raise GatewayError(reason, "scripted")
        return attempt.deployment.name

    try:
        answered = await loop.run(ask)
    except GatewayError:
        answered = ""
    assert len(asked) <= plan(*groups).max_attempts
    assert [attempt.deployment.name for attempt in loop.log] == asked
    models = [name.partition("/")[0] for name in asked]
    assert models == sorted(models)
    for one in groups:
        mine = [name for name in asked if name.startswith(f"{one.model}/")]
        assert len(mine) <= one.max_attempts
        first_round = mine[: len(one.deployments)]
        assert len(set(first_round)) == len(first_round), "one was asked twice while another was left"
    if answered:
        assert loop.log[-1].deployment.name == answered
        assert loop.log[-1].error is None
