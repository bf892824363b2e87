"""A crash-safe journal of byte records in a directory: appended by one process, read by the same one in batches.

The one rule: a record whose `append` returned is read back, once or more often, until a batch that holds it was
committed.

What is promised, and against what:

| `sync`       | kill -9 of the process     | power loss, kernel crash                                  |
|--------------|----------------------------|-----------------------------------------------------------|
| `"none"`     | every append that returned | what the kernel happened to write, as a rule all but 30 s |
| `"interval"` | every append that returned | all but the last `sync_interval_seconds`                  |
| `"always"`   | every append that returned | every append for which `durable(position)` returned       |

An append that a crash cut off was never acknowledged; its bytes are cut away at the next start. A record that is
damaged later is reported loudly, its bytes are kept beside the journal, and the records behind it are read as if
nothing had been. After a crash between the reader's work and its commit the reader is given the same records again, so
that work must be idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.runtime.journal_directory import (
    LOCK_NAME,
    JournalBusyError,
    JournalError,
    JournalFullError,
    lock_directory,
    remove_directory,
)
from services.runtime.journal_reader import GROWING, Batch, JournalReader, Segment
from services.runtime.journal_segment import FRAME_OVERHEAD, encode_frame, segment_name
from services.runtime.journal_sync import DiskSync, SyncMode

__all__ = [
    "Batch",
    "Journal",
    "JournalBusyError",
    "JournalError",
    "JournalFullError",
    "JournalStats",
    "SyncMode",
    "open_journal",
    "open_orphans",
]

_LOG = logging.getLogger(__name__)

_NEVER: Final = sys.maxsize
_MAX_SIBLINGS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStats:
    """How far the reader is behind, and what went wrong. `oldest_age_seconds` is None when nothing is pending."""

    pending_records: int
    pending_bytes: int
    oldest_age_seconds: float | None
    damaged_ranges: int
    sync_errors: int


class Journal:
    """The journal in one directory, owned by one process at a time.

    Positions are byte counts that only grow. `max_total_bytes` bounds what waits to be read; the disk holds at most one
    segment more. Not thread-safe: use it from one event loop. Opening reads what is pending (2.5 s per GiB); do it
    before serving. Raises JournalBusyError, JournalError.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_segment_bytes: int = 8 << 20,
        max_total_bytes: int = 1 << 30,
        sync: SyncMode = "interval",
        sync_interval_seconds: float = 0.05,
    ) -> None:
        self.directory = directory
        self._max_segment_bytes = max_segment_bytes
        self._max_total_bytes = max_total_bytes
        self._sync = DiskSync(directory, self._sync_target, mode=sync, interval_seconds=sync_interval_seconds)
        self._reader = JournalReader(directory)
        self._active: Segment | None = None
        self._fd = -1
        self._mark = 0
        self._limit = 0
        """The position up to which append may go without a second thought."""
        self._wake_at = _NEVER
        self._wake = asyncio.Event()
        self._closed = False
        self._lock_fd = lock_directory(directory)
        try:
            self._pending_records, self._end = self._reader.recover()
        except OSError as error:
            os.close(self._lock_fd)
            raise JournalError(f"the journal {directory} cannot be read: {error.strerror}") from error

    def start(self) -> None:
        """Begin to sync, as `sync` says. Needs a running loop. Who only reads need not call it."""
        self._sync.start()

    def append(self, record: bytes) -> int:
        """Append a record in one write(2) and return the position behind it.

        Raises JournalFullError when the journal holds all it may, JournalError when the disk takes no more, the record
        is larger than a segment, or the journal is closed. Then the record is not in the journal, and later appends are
        not harmed.
        """
        frame = encode_frame(record, self._mark, time.time_ns())
        size = len(frame)
        if self._end + size > self._limit:
            self._make_room(size)
            frame = encode_frame(record, self._mark, time.time_ns())
        try:
            written = os.write(self._fd, frame)
        except OSError as error:
            self._cut_back()
            raise JournalError(f"the journal {self.directory} cannot be written: {error.strerror}") from error
        if written != size:
            self._cut_back()
            raise JournalError(f"the journal {self.directory} cannot be written: the disk is full")
        self._end += size
        self._pending_records += 1
        if self._pending_records >= self._wake_at:
            self._wake.set()
        if not self._sync.dirty:
            self._sync.touch()
        return self._end

    async def durable(self, position: int) -> None:
        """Return when a power loss cannot take the record away any more; at once unless `sync` is "always".

        Raises JournalError when the disk refused.
        """
        await self._sync.durable(position)

    @property
    def pending_records(self) -> int:
        """How many records are not committed."""
        return self._pending_records

    async def wait(self, records: int = 1) -> None:
        """Return when that many records are pending, or when `release` is called. For one waiter at a time."""
        self._wake.clear()
        if self._pending_records < records:
            self._wake_at = records
            try:
                await self._wake.wait()
            finally:
                self._wake_at = _NEVER

    def release(self) -> None:
        """Let the waiter go, whatever is pending."""
        self._wake.set()

    def read_batch(self, *, max_records: int = 500, max_bytes: int = 1 << 20) -> Batch:
        """Return the oldest records that are not committed; the same again until they are. Empty when there are none.

        A record larger than `max_bytes` comes alone. Reads from the page cache as a rule: 0.5 ms per 500 records.
        Raises JournalError.
        """
        batch = self._reader.read(self._end, max_records=max_records, max_bytes=max_bytes)
        if not batch.records:
            self._pending_records = 0  # what was counted and is not there was reported as damage
        return batch

    def commit(self, batch: Batch) -> None:
        """Say that the batch read last is dealt with: it is not read again, and its disk space is freed."""
        if batch.end > self._reader.committed:
            self._pending_records -= len(batch.records)
            self._reader.commit(batch.end)
            self._set_limit()

    def stats(self) -> JournalStats:
        """Return the gauges. Raises JournalError."""
        return JournalStats(
            pending_records=self._pending_records,
            pending_bytes=self._end - self._reader.committed,
            oldest_age_seconds=self._reader.oldest_age_seconds(self._end),
            damaged_ranges=self._reader.damaged_ranges,
            sync_errors=self._sync.error_count,
        )

    async def close(self) -> None:
        """Sync, give up the directory, and remove it when nothing in it is pending. Idempotent."""
        if not self._closed:
            self._closed = True
            self._limit = 0
            await self._sync.close()
            self.release_directory()

    def release_directory(self) -> None:
        """What `close` does, for a journal that was never started: nothing to sync, so no loop needed. Idempotent."""
        self._closed = True
        if self._lock_fd < 0:
            return
        self._end_segment()
        self._sync.close_retired()
        self._reader.close()
        if self._pending_records == 0:
            self._reader.drop_all()
            remove_directory(self.directory)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def _make_room(self, size: int) -> None:
        if self._closed:
            raise JournalError(f"the journal {self.directory} is closed")
        if size > self._max_segment_bytes:
            raise JournalError(f"a record of {size - FRAME_OVERHEAD} bytes is larger than a segment of the journal")
        pending = self._end - self._reader.committed
        if pending + size > self._max_total_bytes:
            raise JournalFullError(f"the journal {self.directory} is full: {pending} bytes wait to be read")
        if self._active is None or self._end + size > self._active.base + self._max_segment_bytes:
            self._begin_segment()
        self._set_limit()

    def _set_limit(self) -> None:
        if self._active is not None:
            room = self._reader.committed + self._max_total_bytes
            self._limit = min(self._active.base + self._max_segment_bytes, room)

    def _begin_segment(self) -> None:
        mark = secrets.randbelow(0xFFFFFFFF) + 1  # never 0: a tail of zeros, as a power loss leaves, is no frame
        path = self.directory / segment_name(self._end, mark)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"the journal {self.directory} cannot be written: {error.strerror}") from error
        self._end_segment()
        self._fd, self._mark = descriptor, mark
        self._active = Segment(path=path, base=self._end, end=GROWING, mark=mark)
        self._reader.add(self._active)
        self._sync.add_file()

    def _end_segment(self) -> None:
        if self._active is not None:
            self._active.end = self._end
            self._active = None
            self._limit = 0
            self._sync.retire(self._fd)
            self._fd = -1
            self._reader.drop_committed()

    def _cut_back(self) -> None:
        """Remove what a failed write left behind the last whole record."""
        assert self._active is not None
        base = self._active.base
        try:
            os.ftruncate(self._fd, self._end - base)
        except OSError as error:
            leavings = os.fstat(self._fd).st_size
            _LOG.error("journal segment given up", extra={"path": str(self.directory), "reason": error.strerror})
            self._end_segment()
            self._end = max(self._end, base + leavings)  # the next segment begins behind them

    def _sync_target(self) -> tuple[int | None, int]:
        return (self._fd if self._active is not None else None), self._end


def open_journal(root: Path, slot: str, *, sync: SyncMode = "interval", max_total_bytes: int = 1 << 30) -> Journal:
    """Open the journal of a process that has a lasting name below `root`.

    Where another process holds that directory, because it ships what an earlier process of this name left, the journal
    is opened in a fresh sibling ("0.1" for "0"). Raises JournalError.
    """
    for number in range(_MAX_SIBLINGS):
        name = f"{slot}.{number}" if number else slot
        try:
            return Journal(root / name, sync=sync, max_total_bytes=max_total_bytes)
        except JournalBusyError:
            continue
    raise JournalBusyError(f"every journal {slot} below {root} is in use by another process")


def open_orphans(root: Path) -> list[Journal]:
    """Open the journals below `root` that no living process owns and that hold records, to be shipped and closed.

    Those that hold none are removed; one that cannot be read is reported and left as it is. Call it after
    `open_journal`.
    """
    return list(_orphans(root))


def _orphans(root: Path) -> Iterator[Journal]:
    directories = sorted(path.parent for path in root.glob(f"*/{LOCK_NAME}"))
    for directory in directories:
        try:
            journal = Journal(directory, sync="none")
        except JournalBusyError:
            continue
        except JournalError as error:
            _LOG.error("journal left behind cannot be read", extra={"path": str(directory), "reason": str(error)})
            continue
        if journal.pending_records:
            yield journal
        else:
            journal.release_directory()
