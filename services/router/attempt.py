"""The one retry loop of the gateway: which deployment is asked, when again, and what error is the last word. Rules:

1. A group's deployments are asked before those of its fallbacks, each group at most `max_attempts` times.
2. A deployment is asked again only when no other of its group is left and its last failure may have been a passing one;
   only then the loop waits (full jitter, or longer where the upstream said so).
3. A reason that would meet every deployment alike ends the loop at once. Nothing is asked after the deadline.

The same loop serves a whole answer and a stream; for a stream "answered" means that its first content has come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import grpc.aio

from services.router.routes import Deployment, Group, Plan
from services.router.select import STRATEGIES
from trunkline.errors import GatewayError, reason_name
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.errors.reasons import Next
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["ALL_HEALTHY", "Attempt", "Attempts", "Health", "upstream_error"]

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

FIRST_PAUSE: Final = 0.25
"""Seconds: the longest pause before a deployment is asked for the second time. It doubles with each further time."""
LONGEST_PAUSE: Final = 8.0
LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds. Who is told to wait longer gets the error instead, with the time, or an answer from a fallback."""

_TRANSIENT: Final = frozenset(
    {
        error_reason_pb2.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        error_reason_pb2.ERROR_REASON_UPSTREAM_OVERLOADED,
        error_reason_pb2.ERROR_REASON_UPSTREAM_UNREACHABLE,
        error_reason_pb2.ERROR_REASON_STREAM_TRUNCATED,
    }
)
"""Reasons for which the same deployment may be asked again. Not a timeout: who was too slow once will be again."""

# To the providers service the caller is this router; what it says of its caller is not for ours.
_NOT_THE_CALLERS: Final = frozenset(
    {
        error_reason_pb2.ERROR_REASON_CALLER_CANCELLED,
        error_reason_pb2.ERROR_REASON_CALLER_UNAUTHENTICATED,
        error_reason_pb2.ERROR_REASON_CALLER_FORBIDDEN,
    }
)


class Attempt:
    """One call of one deployment. `number` counts from 1; times are seconds of the monotonic clock."""

    __slots__ = ("deployment", "end", "error", "first_token_timeout", "number", "start", "timeout")

    def __init__(
        self, deployment: Deployment, number: int, start: float, timeout: float, first_token_timeout: float | None
    ) -> None:
        self.deployment = deployment
        self.number = number
        self.start = start
        self.timeout = timeout
        """Seconds left for it."""
        self.first_token_timeout = first_token_timeout
        self.end: float | None = None
        self.error: GatewayError | None = None


class Health(Protocol):
    """Who may be asked. Circuit breaking, limits and draining of deployments belong behind this."""

    def candidates(self, group: Group) -> Sequence[Deployment]:
        """Return the deployments of the group that may be asked now."""
        ...

    def report(self, deployment: Deployment, error: GatewayError | None) -> None:
        """Take note of how an attempt ended; None when it answered."""
        ...


class _AllHealthy:
    def candidates(self, group: Group) -> Sequence[Deployment]:
        return group.deployments

    def report(self, deployment: Deployment, error: GatewayError | None) -> None:
        """Nothing is remembered."""


ALL_HEALTHY: Final[Health] = _AllHealthy()
"""Everyone may always be asked."""


class _Failures:
    """What is known of a deployment that failed in this call."""

    __slots__ = ("count", "not_before", "reason")

    def __init__(self) -> None:
        self.count = 0
        self.not_before = 0.0
        self.reason = error_reason_pb2.ERROR_REASON_UNSPECIFIED


class Attempts:
    """The attempts of one call. `deadline` is on the monotonic clock; `draw` gives random numbers in [0, 1)."""

    __slots__ = ("_asked_in_group", "_draw", "_failures", "_group_number", "_health", "_plan", "deadline", "log")

    def __init__(self, plan: Plan, deadline: float, *, draw: Callable[[], float], health: Health = ALL_HEALTHY) -> None:
        self._plan = plan
        self.deadline = deadline
        self._draw = draw
        self._health = health
        self._group_number = 0
        self._asked_in_group = 0
        self._failures: dict[str, _Failures] = {}
        self.log: list[Attempt] = []
        """Every attempt, in order."""

    async def run(self, ask: Callable[[Attempt], Awaitable[_T]]) -> _T:
        """Return the first answer. Raises GatewayError when there is none.

        `ask` makes one attempt and raises AioRpcError or GatewayError when it fails. The attempt that answered stays
        open until `finish`.
        """
        while True:
            chosen = self._choose()
            if chosen is None:
                raise self._last_word()
            group, deployment, pause = chosen
            if pause > 0:
                await asyncio.sleep(pause)
            attempt = self._begin(group, deployment)
            try:
                return await ask(attempt)
            except grpc.aio.AioRpcError as rpc_error:
                error = upstream_error(rpc_error, deployment)
            except GatewayError as gateway_error:
                error = gateway_error
            self.finish(error)
            if error.face.next is Next.STOP:
                raise error

    def finish(self, error: GatewayError | None) -> None:
        """Close the last attempt, once: with the error that ended it, or None when it answered."""
        if not self.log:
            return
        attempt = self.log[-1]
        if attempt.end is not None:
            return
        now = time.monotonic()
        attempt.end = now
        attempt.error = error
        deployment = attempt.deployment
        if error is None:
            self._health.report(deployment, None)
            return
        if error.reason == error_reason_pb2.ERROR_REASON_CALLER_CANCELLED:
            return
        self._health.report(deployment, error)
        if error.face.next is Next.TRY_NEXT:
            _LOG.warning("attempt failed", extra=_about(attempt, error, now))
        failures = self._failures.setdefault(deployment.name, _Failures())
        failures.count += 1
        failures.reason = error.reason
        failures.not_before = now + (error.retry_after or 0.0)

    def _begin(self, group: Group, deployment: Deployment) -> Attempt:
        now = time.monotonic()
        self._asked_in_group += 1
        attempt = Attempt(deployment, len(self.log) + 1, now, max(0.0, self.deadline - now), group.first_token_timeout)
        self.log.append(attempt)
        return attempt

    def _choose(self) -> tuple[Group, Deployment, float] | None:
        """Return whom to ask next and after what pause, or None when nobody is left or the time is over."""
        now = time.monotonic()
        if now >= self.deadline:
            return None
        groups = self._plan.groups
        while self._group_number < len(groups):
            group = groups[self._group_number]
            if self._asked_in_group < group.max_attempts:
                candidates = self._health.candidates(group)
                left = [one for one in candidates if one.name not in self._failures] if self._failures else candidates
                if left:
                    return group, STRATEGIES[group.strategy](left, self._draw()), 0.0
                again = self._choose_again(group, candidates, now)
                if again is not None:
                    return again
            self._group_number += 1
            self._asked_in_group = 0
        return None

    def _choose_again(
        self, group: Group, candidates: Sequence[Deployment], now: float
    ) -> tuple[Group, Deployment, float] | None:
        """Return one that failed before, of those asked least often; None when the deadline allows none."""
        latest = min(self.deadline, now + LONGEST_RETRY_AFTER)
        passing = [
            (failures.count, one)
            for one in candidates
            if (failures := self._failures[one.name]).reason in _TRANSIENT and failures.not_before < latest
        ]
        if not passing:
            return None
        fewest = min(count for count, _ in passing)
        chosen = STRATEGIES[group.strategy]([one for count, one in passing if count == fewest], self._draw())
        jitter = self._draw() * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (fewest - 1))
        pause = max(jitter, self._failures[chosen.name].not_before - now)
        return (group, chosen, pause) if now + pause < self.deadline else None

    def _last_word(self) -> GatewayError:
        """Return the error of a call that nobody answered."""
        errors = [attempt.error for attempt in self.log if attempt.error is not None]
        if not errors:
            return self._nobody_asked()
        last = errors[-1]
        if len(self._failures) == 1 or all(error.reason == last.reason for error in errors):
            return last
        tried = ",".join(
            f"{attempt.deployment.name}={reason_name(attempt.error.reason)}"
            for attempt in self.log
            if attempt.error is not None
        )
        waits = [error.retry_after for error in errors if error.retry_after is not None]
        return GatewayError(
            error_reason_pb2.ERROR_REASON_NO_HEALTHY_DEPLOYMENT,
            f"no deployment of {self._plan.model!r} could answer: {tried}",
            metadata={"model": self._plan.model, "tried": tried},
            retry_after=min(waits) if waits else None,
        )

    def _nobody_asked(self) -> GatewayError:
        if any(group.deployments for group in self._plan.groups) and time.monotonic() >= self.deadline:
            return GatewayError(
                error_reason_pb2.ERROR_REASON_UPSTREAM_TIMEOUT, "the deadline had passed before anyone was asked"
            )
        out = "; ".join(
            f"{excluded.deployment.name}: {excluded.reason}"
            for group in self._plan.groups
            for excluded in group.excluded
        )
        return GatewayError(
            error_reason_pb2.ERROR_REASON_NO_HEALTHY_DEPLOYMENT,
            f"no deployment of {self._plan.model!r} can be asked" + (f": {out}" if out else ""),
            metadata={"model": self._plan.model, "tried": ""},
        )


def _about(attempt: Attempt, error: GatewayError, end: float) -> dict[str, object]:
    return {
        "deployment": attempt.deployment.name,
        "provider": attempt.deployment.provider,
        "attempt": attempt.number,
        "reason": error.name,
        "duration_ms": round((end - attempt.start) * 1e3, 1),
    }


def upstream_error(rpc_error: grpc.aio.AioRpcError, deployment: Deployment) -> GatewayError:
    """Return the error of a failed call of the providers service, with the deployment in its metadata."""
    error = from_rpc_error(rpc_error)
    if error.reason in _NOT_THE_CALLERS:
        return GatewayError(
            error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE,
            "the providers service refused or dropped the call",
            metadata={"service": "providers", "deployment": deployment.name},
        )
    error.metadata.setdefault("deployment", deployment.name)
    return error
