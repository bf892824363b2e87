"""Watches a slow request: ends the router call when the client leaves, and keeps a silent stream alive.

The rule: a fast request pays for one timer, never for a task.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from starlette.types import Receive

__all__ = ["Cancellable", "ClientLeft", "Heart", "Watch", "ended"]

# Most answers of a fake or cached upstream come sooner; with it a leaving client is seen well within 100 ms.
_START_AFTER: Final = 0.03


class ClientLeft(Exception):  # noqa: N818 - not an error of anybody
    """The client closed its connection before the answer was complete; there is nobody left to tell."""


class Cancellable(Protocol):
    """A call that can be given up."""

    def cancel(self) -> bool:
        """Give it up; its awaiting side gets CancelledError."""
        ...


class Heart(Protocol):
    """A stream that must not be silent for long."""

    def next_beat(self) -> float:
        """Return when it has been silent for too long, in the loop's time."""
        ...

    async def beat(self) -> None:
        """Send a sign of life."""
        ...


class Watch:
    """Reads what the server says of the client while a call is in work.

    `client_left` tells whether it was this watch that gave the call up.
    """

    __slots__ = ("_call", "_heart", "_receive", "_task", "_timer", "client_left")

    def __init__(self, receive: Receive, call: Cancellable, heart: Heart | None = None) -> None:
        self._receive = receive
        self._call = call
        self._heart = heart
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_START_AFTER, self._start)
        self.client_left = False

    def close(self) -> asyncio.Task[None] | None:
        """Stop watching. A task that is returned must be awaited with `ended`."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        return self._task

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout_at(None if self._heart is None else self._heart.next_beat()):
                    message = await self._receive()
            except TimeoutError:
                if self._heart is not None:
                    await self._heart.beat()
                continue
            if message["type"] == "http.disconnect":
                self.client_left = True
                self._call.cancel()
                return


async def ended(task: asyncio.Task[None]) -> None:
    """Wait for the task of a closed watch; an exception of its own is raised here."""
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
