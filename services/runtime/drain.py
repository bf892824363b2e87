"""Drain: the state of a server that finishes what it has begun and takes nothing new.

The one rule: whoever enters leaves, and a task has one call at a time. A drain belongs to one edge of the process (a
gRPC server, the HTTP front), never to calls inside of it: those are part of work that was already let in.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["Drain"]


class Drain:
    """Counts the calls in flight and lets a server wait for them."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_cut = False
        """True once calls in flight are being ended by force."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle: asyncio.Event | None = None

    @property
    def in_flight(self) -> int:
        """How many calls have begun and not ended."""
        return len(self._tasks)

    def enter(self) -> asyncio.Task[Any]:
        """Count the call that begins in the current task. Returns what `leave` wants. Raises SERVER_DRAINING."""
        if self.is_draining:
            raise GatewayError(error_reason_pb2.ERROR_REASON_SERVER_DRAINING, "the server is draining")
        task = asyncio.current_task(asyncio.get_running_loop())
        if task is None:
            raise RuntimeError("a call begins in a task")
        self._tasks.add(task)
        return task

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Count a call that has ended."""
        self._tasks.discard(task)
        if self._idle is not None and not self._tasks:
            self._idle.set()

    def begin(self) -> None:
        """Take nothing new from now on."""
        self.is_draining = True

    async def idle(self, timeout: float) -> bool:  # noqa: ASYNC109 - a drain's grace period is a number people configure
        """Wait until no call is in flight, at most `timeout` seconds. Returns whether none is."""
        if self._tasks:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(timeout):
                    await self._idle.wait()
            except TimeoutError:
                return False
        return True

    def cut(self) -> int:
        """Cancel the calls in flight, each in its task, and return how many there were.

        What entered them turns that into SERVER_DRAINING.
        """
        self.is_draining = self.is_cut = True
        for task in self._tasks:
            task.cancel()
        return len(self._tasks)
