"""The local call with a stream of answers, pulled: each message that is read runs the handler's generator once.

The one rule: no task and no queue stand between reader and handler. A generator left suspended is closed from a task of
the server's own, or by asyncio when the call was dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import AsyncGeneratorType
from typing import Any, Final

import grpc

from services.runtime.deadline import Deadlines
from services.runtime.local_call import LocalCall
from services.runtime.local_context import CANCELLED_DETAILS, LocalContext

__all__ = ["CloseLater", "LocalStreamCall", "StreamHandler", "close_generator"]

StreamHandler = Callable[[Any, Any], AsyncGeneratorType[Any, None]]
CloseLater = Callable[[AsyncGeneratorType[Any, None]], None]

_LOGGER: Final = logging.getLogger(__name__)
_CANCELLED: Final = grpc.StatusCode.CANCELLED


async def close_generator(generator: AsyncGeneratorType[Any, None]) -> None:
    """Close a handler's generator. What it raises then reaches nobody over a socket either, so it is logged."""
    try:
        await generator.aclose()
    except Exception as error:  # noqa: BLE001 - the caller is gone; as grpc's server does
        _LOGGER.error("a handler raised %s while it was closed", type(error).__name__)


class LocalStreamCall(LocalCall, grpc.aio.UnaryStreamCall[Any, Any]):
    """A call with a stream of answers, and its own iterator. Its handler runs only while a message is waited for."""

    _generator: AsyncGeneratorType[Any, None] | None = None
    _next: Callable[[], Awaitable[Any]] | None = None
    """Asks the handler for a message; None before the first, while a message is held, and after the end."""
    _held: Any = None

    def __init__(
        self,
        handler: StreamHandler,
        request: object,
        context: LocalContext,
        deadlines: Deadlines,
        close_later: CloseLater,
    ) -> None:
        self._handler = handler
        self._request = request
        self._context = context
        self._deadlines = deadlines
        self._close_later = close_later
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        """End a call that was dropped. Its generator goes with it, and asyncio closes that."""
        if not self._context.is_over:
            self._generator = None
            self._context.was_cancelled = True
            self._end(_CANCELLED, "Cancelled upon garbage collection!")

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return the call itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next message. Raises StopAsyncIteration at the end, AioRpcError, or CancelledError."""
        pull = self._next
        if pull is None:
            return await self._begin()
        self._enter(self._loop)
        outcome: BaseException | None = None
        try:
            message = await pull()
        except StopAsyncIteration:
            pass
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - whatever a handler raises becomes a status
            outcome = error
        else:
            if not self._context.halted:
                self._task = None
                return message
        outcome = self._conclude(outcome)
        if outcome is None:
            raise StopAsyncIteration
        try:
            raise outcome
        finally:
            outcome = None  # or it would keep itself alive, through its traceback and this frame

    async def read(self) -> Any:
        """Return the next message, or grpc.aio.EOF at the end."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def aclose(self) -> None:
        """Give up and wait until the handler has cleaned up."""
        if self._context.is_over:
            return
        if self._task is not None:
            self.cancel()
            await self._finished()
            return
        generator, self._generator = self._generator, None
        self._context.was_cancelled = True
        self._end(_CANCELLED, CANCELLED_DETAILS)
        if generator is not None:
            await close_generator(generator)

    async def _begin(self) -> Any:
        """Return the next message where that is not simply a matter of asking the handler."""
        context = self._context
        if context.is_over:
            self._raise_end()
            raise StopAsyncIteration
        if self._generator is None:
            if not self._start_clock(self._loop):
                raise context.error()
            self._generator = self._handler(self._request, context)
            self._next = self._generator.__anext__
            return await self.__anext__()
        message, self._held = self._held, None
        self._next = self._generator.__anext__
        return message

    async def _reach_headers(self) -> None:
        """Run the handler until it has a message, and hold that for the reader: headers precede the first message."""
        if self._generator is not None:
            return
        try:
            self._held = await self.__anext__()
        except (StopAsyncIteration, grpc.aio.AioRpcError):
            return
        except asyncio.CancelledError:
            task = asyncio.current_task(self._loop)
            if task is not None and task.cancelling():
                raise
        else:
            self._next = None

    async def _reach_end(self) -> None:
        """Wait for the end, which comes when the stream is read to it."""
        await self._finished()

    def _end(self, status: grpc.StatusCode | None = None, details: str = "") -> None:
        self._next = self._held = None
        generator, self._generator = self._generator, None
        super()._end(status, details)
        if generator is not None and generator.ag_frame is not None:
            self._close_later(generator)
