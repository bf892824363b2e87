"""Local calls: what `stub.Method(request)` returns over a LocalChannel, and the call with one answer.

The one rule: a handler runs in the task that awaits its call, so a call costs no task, no queue and no copy. What is
rare (deadline, cancel from elsewhere, metadata asked for early) is arranged around that and paid for only when used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

import grpc

from services.runtime.deadline import Deadlines
from services.runtime.local_context import CANCELLED_DETAILS, DEADLINE_DETAILS, LocalContext, ReceivedMetadata

__all__ = ["LocalCall", "LocalUnaryCall", "UnaryHandler"]

UnaryHandler = Callable[[Any, Any], Awaitable[Any]]

_LOGGER: Final = logging.getLogger(__name__)
_CANCELLED: Final = grpc.StatusCode.CANCELLED
_DEADLINE_EXCEEDED: Final = grpc.StatusCode.DEADLINE_EXCEEDED


class LocalCall(grpc.aio.Call):
    """What both kinds of call share: their state, how they are interrupted, how they end.

    `_task` is the task that drives the handler right now, None between two messages of a stream. An interruption
    (cancel, deadline) cancels that task and is taken back when the CancelledError comes back here, as asyncio.timeout
    does.
    """

    _task: asyncio.Task[Any] | None = None
    _interruption: grpc.StatusCode | None = None
    _disarm: Callable[[], object] | None = None
    _cancelling = 0
    _callbacks: list[Callable[[Any], None]] | None = None
    _context: LocalContext
    _deadlines: Deadlines

    def cancelled(self) -> bool:
        """Whether the call was cancelled on this side."""
        return self._context.is_over and self._context.status is _CANCELLED and self._context.was_cancelled

    def done(self) -> bool:
        """Whether the call is over."""
        return self._context.is_over

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline, or None without one."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(call)` when the call is over, at once when it is."""
        if self._context.is_over:
            callback(self)
            return
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def cancel(self) -> bool:
        """Give up: the handler gets CancelledError where it waits, or GeneratorExit where it yielded."""
        if self._context.is_over or self._interruption is not None:
            return False
        self._interrupt(_CANCELLED, CANCELLED_DETAILS)
        return True

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return the metadata that precedes the answer."""
        if not self._context.is_over:  # or half of a finished call would be walked through again
            await self._reach_headers()
        return ReceivedMetadata(self._context.initial)

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return the metadata that follows the answer, when the call is over."""
        await self._reach_end()
        return grpc.aio.Metadata.from_tuple(self._context.trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        """Return the status, when the call is over."""
        await self._reach_end()
        return self._context.status

    async def details(self) -> str:
        """Return the words beside the status, when the call is over."""
        await self._reach_end()
        return self._context.details()

    async def debug_error_string(self) -> str:
        """Return nothing: there is no transport to debug."""
        await self._reach_end()
        return ""

    async def wait_for_connection(self) -> None:
        """Return at once: there is nothing to connect to."""

    async def _reach_headers(self) -> None:
        raise NotImplementedError

    async def _reach_end(self) -> None:
        raise NotImplementedError

    async def _finished(self) -> None:
        """Wait until another task has driven the call to its end."""
        if not self._context.is_over:
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(_: object) -> None:
                if not over.done():
                    over.set_result(None)

            self.add_done_callback(wake)
            await over

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the task that drives the handler from here on."""
        if self._task is not None:
            raise grpc.aio.UsageError("another task is waiting for this call")
        self._task = task = asyncio.current_task(loop)
        if self._disarm is not None and task is not None:
            self._cancelling = task.cancelling()

    def _start_clock(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Arm the deadline. False when it has passed, and then the call is over."""
        deadline = self._context.deadline
        if deadline is None:
            return True
        now = loop.time()
        if deadline <= now:
            self._end(_DEADLINE_EXCEEDED, DEADLINE_DETAILS)
            return False
        self._disarm = self._deadlines.add(self, deadline, now, loop)
        return True

    def _interrupt(self, status: grpc.StatusCode, details: str) -> None:
        """Stop the handler for a reason that lies outside of it."""
        context = self._context
        context.was_cancelled = context.halted = True
        if self._task is None:
            self._end(status, details)
            return
        self._interruption = status
        self._task.cancel()

    def expire(self) -> None:
        """End the call because its deadline has come."""
        if not self._context.is_over and self._interruption is None:
            self._interrupt(_DEADLINE_EXCEEDED, DEADLINE_DETAILS)

    def _end(self, status: grpc.StatusCode | None = None, details: str = "") -> None:
        """Note the end, disarm the deadline, tell who asked to be told."""
        if self._disarm is not None:
            self._disarm()
            self._disarm = None
        self._context.finish(status, details)
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                callback(self)

    def _conclude(self, raised: BaseException | None) -> BaseException | None:
        """End the call after an outcome that is not simply an answer; return what the caller sees, None for the answer.

        `raised` is what the handler raised, None when it returned.
        """
        context, task, self._task = self._context, self._task, None
        if self._interruption is not None:
            return self._conclude_interrupted(task, raised)
        if isinstance(raised, asyncio.CancelledError) and (task is None or task.cancelling()):
            context.was_cancelled = True
            self._end(_CANCELLED, CANCELLED_DETAILS)
            return raised
        if context.is_aborted:
            self._end()
        elif isinstance(raised, asyncio.CancelledError):
            self._end(_CANCELLED, "Cancelled by the handler")
        elif raised is not None:
            _LOGGER.error("unexpected %s raised by a local handler", type(raised).__name__)
            status = grpc.StatusCode.UNKNOWN if context.status is grpc.StatusCode.OK else context.status
            self._end(status, f"Unexpected {type(raised)}: {raised}")
        else:
            self._end()
        return None if context.status is grpc.StatusCode.OK else context.error()

    def _conclude_interrupted(
        self, task: asyncio.Task[Any] | None, raised: BaseException | None
    ) -> BaseException | None:
        """Take the interruption back from the task and return what it stands for."""
        cancelling = task.uncancel() if task is not None else 0
        if self._interruption is _CANCELLED:
            self._end(_CANCELLED, CANCELLED_DETAILS)
            return asyncio.CancelledError()
        self._end(_DEADLINE_EXCEEDED, DEADLINE_DETAILS)
        if cancelling > self._cancelling and isinstance(raised, asyncio.CancelledError):
            return raised  # the caller was cancelled in the same moment, and that goes further than this call
        return self._context.error()

    def _raise_end(self) -> None:
        """Raise what a call that is over stands for; nothing when it went well."""
        if self.cancelled():
            raise asyncio.CancelledError
        if self._context.status is not grpc.StatusCode.OK:
            raise self._context.error()


class LocalUnaryCall(LocalCall, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call with one answer. Its handler starts when the call is awaited."""

    _started = False
    _response: Any = None

    def __init__(self, handler: UnaryHandler, request: object, context: LocalContext, deadlines: Deadlines) -> None:
        self._handler = handler
        self._request = request
        self._context = context
        self._deadlines = deadlines

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the answer. Raises AioRpcError, or CancelledError for a cancelled call."""
        return self._answer().__await__()

    async def _answer(self) -> Any:
        context = self._context
        if self._started or context.is_over:
            return await self._answer_again()
        self._started = True
        loop = asyncio.get_running_loop()
        if context.deadline is not None and not self._start_clock(loop):
            raise context.error()
        self._enter(loop)
        outcome: BaseException | None = None
        try:
            self._response = response = await self._handler(self._request, context)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - whatever a handler raises becomes a status
            outcome = error
        else:
            if not context.halted and context.status_code is None and response is not None:
                self._task = None
                self._end()
                return response
            if response is None:
                outcome = TypeError("the handler returned no message")
        outcome = self._conclude(outcome)
        if outcome is None:
            return self._response
        try:
            raise outcome
        finally:
            outcome = None  # or it would keep itself alive, through its traceback and this frame

    async def _answer_again(self) -> Any:
        """Answer who awaits a call that was awaited before."""
        await self._finished()
        self._raise_end()
        return self._response

    async def _reach_end(self) -> None:
        """Drive the call to its end, keeping what it ends with for who awaits it."""
        try:
            await self._answer()
        except grpc.aio.AioRpcError:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise

    _reach_headers = _reach_end
