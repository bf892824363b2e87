"""Brings a journal's files to the disk, in a thread, one call for all who wait (group commit).

The one rule: whoever was told that a position is durable finds it after a power loss.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from services.runtime.journal_directory import JournalError

__all__ = ["DiskSync", "SyncMode"]

_LOG = logging.getLogger(__name__)

SyncMode = Literal["none", "interval", "always"]


class DiskSync:
    """Syncs what was appended: never ("none"), a while after ("interval"), or as soon as it can ("always").

    `target` returns the descriptor that is appended to, None when there is none, and the position behind the last
    record. Owns the task it starts and the descriptors given to `retire`.
    """

    def __init__(
        self, directory: Path, target: Callable[[], tuple[int | None, int]], *, mode: SyncMode, interval_seconds: float
    ) -> None:
        self.dirty = mode == "none"
        """True while there is nothing to tell this object: all is to be synced already, or nothing ever is."""
        self.error_count = 0
        self._directory = directory
        self._target = target
        self._mode = mode
        self._interval_seconds = interval_seconds
        self._synced = 0
        self._new_files = False
        self._retired: list[int] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._executor: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Begin to sync, on the running loop."""
        if self._mode != "none" and self._task is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal-sync")
            self._task = asyncio.create_task(self._run(), name="journal-sync")

    def touch(self) -> None:
        """Say that something was appended since the last sync began."""
        self.dirty = True
        self._wake.set()

    def add_file(self) -> None:
        """Say that a file was made, so that its name must reach the disk too."""
        self._new_files = True

    def retire(self, descriptor: int) -> None:
        """Take over a descriptor that is appended to no more: sync it once, then close it."""
        if self._mode == "none":
            os.close(descriptor)
        else:
            self._retired.append(descriptor)

    async def durable(self, position: int) -> None:
        """Return when the position is on the disk; at once unless the mode is "always". Raises JournalError."""
        if self._mode != "always" or position <= self._synced:
            return
        if self._task is None or self._closing:
            raise JournalError(f"the journal {self._directory} is not started, so nothing becomes durable")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter

    async def close(self) -> None:
        """End the task and sync what is left. The descriptor appended to stays open."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
            await self._sync()
        self.close_retired()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def close_retired(self) -> None:
        """Close the descriptors taken over, synced or not."""
        for descriptor in self._retired:
            os.close(descriptor)
        self._retired.clear()

    async def _run(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            if self._mode == "interval" and not self._closing:
                await self._pause()
            await self._sync()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_seconds):
                while not self._closing:
                    await self._wake.wait()
                    self._wake.clear()
        except TimeoutError:
            return

    async def _sync(self) -> None:
        waiters, self._waiters = self._waiters, []
        retired, self._retired = self._retired, []
        new_files, self._new_files = self._new_files, False
        active, end = self._target()
        self.dirty = False  # from here on an append is none of this round's
        descriptors = retired if active is None else [*retired, active]
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, _sync_files, descriptors, self._directory if new_files else None)
        except OSError as error:
            self._fail(error, waiters)
        else:
            self._synced = end
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        finally:
            for descriptor in retired:
                os.close(descriptor)

    def _fail(self, error: OSError, waiters: list[asyncio.Future[None]]) -> None:
        # The kernel may have dropped the pages it could not write, so trying the same again would prove nothing.
        self.error_count += 1
        _LOG.error("journal not synced", extra={"path": str(self._directory), "reason": error.strerror})
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(JournalError(f"the journal {self._directory} cannot be synced: {error.strerror}"))


def _sync_files(descriptors: list[int], directory: Path | None) -> None:
    for descriptor in descriptors:
        os.fdatasync(descriptor)
    if directory is not None:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
