"""Sends what a journal holds to where it belongs, in batches, as long as it takes.

The one rule: a batch is committed only after `send` returned, so what it holds is sent at least once and `send` must be
idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from services.runtime.journal import Batch, Journal, JournalError
from trunkline.errors import GatewayError

__all__ = ["Shipper", "ShipperStats"]

_LOG = logging.getLogger(__name__)

_FIRST_BACKOFF_SECONDS: Final = 0.05
_MAX_BACKOFF_SECONDS: Final = 5.0
_LOG_EVERY: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipperStats:
    """What was sent, and how it goes now. `failures` counts the failed sends since the last good one."""

    sent_records: int
    sent_batches: int
    failures: int


class Shipper:
    """Owns the task that ships one journal. `send` takes the records of a batch, oldest first.

    A batch is sent when `max_records` are pending or `linger_seconds` after the first. When `send` raises one of
    `retry_on` it is called again with the same records, after a wait that doubles, with full jitter. A send that fails
    for one record only must say so by other means than raising, or it holds up all behind it. Any other exception ends
    the task; it is logged at once and raised by `drain`. The journal stays its opener's, to be closed after `drain`.
    """

    def __init__(
        self,
        journal: Journal,
        send: Callable[[list[bytes]], Awaitable[None]],
        *,
        max_records: int = 500,
        max_bytes: int = 1 << 20,
        linger_seconds: float = 0.05,
        retry_on: tuple[type[Exception], ...] = (GatewayError,),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._journal = journal
        self._send = send
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._linger_seconds = linger_seconds
        self._retry_on: tuple[type[Exception], ...] = (*retry_on, JournalError)
        self._jitter = jitter
        self._sent_records = 0
        self._sent_batches = 0
        self._failures = 0
        self._draining = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ship, on the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="shipper")
            self._task.add_done_callback(self._report_end)

    def stats(self) -> ShipperStats:
        """Return the gauges; those of the journal say how far this one is behind."""
        return ShipperStats(sent_records=self._sent_records, sent_batches=self._sent_batches, failures=self._failures)

    async def drain(self, timeout_seconds: float) -> bool:
        """Send what is pending without delay, then end. Return whether nothing is left.

        What could not be sent in time stays in the journal, for its next opener. Raises what ended the task, if not one
        of `retry_on` did.
        """
        self._draining.set()
        self._journal.release()
        if self._task is not None:
            try:
                await asyncio.wait((self._task,), timeout=timeout_seconds)
            finally:
                if not self._task.done():
                    self._task.cancel()
                    await asyncio.wait((self._task,))
            if not self._task.cancelled():
                self._task.result()
        return self._journal.pending_records == 0

    async def _run(self) -> None:
        while await self._gather():
            try:
                batch = self._journal.read_batch(max_records=self._max_records, max_bytes=self._max_bytes)
                if batch.records:
                    await self._send(batch.records)
            except self._retry_on as error:
                await self._back_off(error)
            else:
                self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        self._journal.commit(batch)
        self._failures = 0
        if batch.records:
            self._sent_records += len(batch.records)
            self._sent_batches += 1

    async def _gather(self) -> bool:
        """Wait until a batch is worth sending; False when draining and nothing is left."""
        if self._journal.pending_records == 0 and not self._draining.is_set():
            await self._journal.wait()
        if self._journal.pending_records < self._max_records and not self._draining.is_set():
            try:
                async with asyncio.timeout(self._linger_seconds):
                    await self._journal.wait(self._max_records)
            except TimeoutError:
                return True
        return self._journal.pending_records > 0 or not self._draining.is_set()

    async def _back_off(self, error: Exception) -> None:
        if self._failures % _LOG_EVERY == 0:
            facts = {"reason": str(error), "attempt": self._failures + 1, "count": self._journal.pending_records}
            _LOG.warning("journal batch not taken, it will be sent again", extra=facts)
        delay = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(self._failures, 10)) * self._jitter()
        self._failures += 1
        if self._draining.is_set():
            await asyncio.sleep(delay)
            return
        try:
            async with asyncio.timeout(delay):
                await self._draining.wait()
        except TimeoutError:
            return

    def _report_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            facts = {"path": str(self._journal.directory), "count": self._journal.pending_records}
            _LOG.critical("shipper ended, the journal grows", extra=facts, exc_info=error)
