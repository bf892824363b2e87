"""The reading half of a journal: its segment files, what is damaged in them, and how far they were dealt with.

The one rule: what cannot be read as records is reported and kept aside once, and reading goes on behind it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.runtime.journal_directory import JournalError, list_segments, read_cursor, save_damage, write_cursor
from services.runtime.journal_segment import (
    FRAME_OVERHEAD,
    find_frame,
    frame_length,
    frame_time_ns,
    is_unfinished,
    scan,
    take_frames,
)

__all__ = ["GROWING", "Batch", "JournalReader", "Segment"]

_LOG = logging.getLogger(__name__)

GROWING: Final = sys.maxsize
"""The end of the segment that is still appended to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records in the order they were appended. `end` is the position to commit once they are dealt with."""

    records: list[bytes]
    end: int


@dataclass(slots=True, kw_only=True)
class Segment:
    """One file: the positions from `base` to `end`, and its frames' mark."""

    path: Path
    base: int
    end: int
    mark: int
    damage: dict[int, int] = field(default_factory=dict)
    """Where damage begins -> where reading goes on, for damage that was reported already."""


class JournalReader:
    """Reads the segments of one directory, whose lock the caller holds, from the committed position on."""

    def __init__(self, directory: Path) -> None:
        self.committed = 0
        """The position up to which everything was dealt with."""
        self.damaged_ranges = 0
        self._directory = directory
        self._segments: list[Segment] = []
        self._fd = -1
        self._fd_path: Path | None = None

    def recover(self) -> tuple[int, int]:
        """Take stock: return how many records are pending, and the position behind everything. Raises OSError."""
        pending = 0
        end = self.committed = read_cursor(self._directory)
        for base, mark, path in list_segments(self._directory):
            data = path.read_bytes()
            segment = Segment(path=path, base=base, end=base + len(data), mark=mark)
            # After a power loss a cursor can be ahead of the files; later appends must not lie before it.
            end = max(end, segment.end)
            pending += self._recover_segment(segment, data)
            if segment.end > max(segment.base, self.committed):
                self._segments.append(segment)
            else:
                path.unlink()
        return pending, end

    def add(self, segment: Segment) -> None:
        """Take in the segment that is appended to from now on."""
        self._segments.append(segment)

    def read(self, end: int, *, max_records: int, max_bytes: int) -> Batch:
        """Return the oldest records from the committed position to `end`; empty when there are none. JournalError."""
        position = self.committed
        for segment in self._segments:
            stop = min(segment.end, end)
            position = max(position, segment.base)
            while position < stop:
                batch = self._read_here(segment, position, stop, max_records, max_bytes)
                if batch.records:
                    return batch
                position = self._behind_damage(segment, position, stop)
        return Batch(records=[], end=position)

    def commit(self, position: int) -> None:
        """Keep the position, and free the segments before it."""
        self.committed = position
        try:
            write_cursor(self._directory, position)
        except OSError as error:  # after a crash these records are read again, nothing worse
            _LOG.error("journal cursor not written", extra={"path": str(self._directory), "reason": error.strerror})
        self.drop_committed()

    def drop_committed(self) -> None:
        """Delete the segments that lie before the committed position."""
        while self._segments and self._segments[0].end <= self.committed:
            path = self._segments.pop(0).path
            if path == self._fd_path:
                self.close()
            path.unlink(missing_ok=True)

    def drop_all(self) -> None:
        """Delete every segment; for when nothing in them is pending."""
        self.close()
        for segment in self._segments:
            segment.path.unlink(missing_ok=True)
        self._segments.clear()

    def oldest_age_seconds(self, end: int) -> float | None:
        """Return how long ago the oldest record up to `end` that is not committed was appended. None without one."""
        segment = next((segment for segment in self._segments if segment.end > self.committed), None)
        position = max(self.committed, segment.base) if segment is not None else end
        if segment is None or position >= end:
            return None
        time_ns = frame_time_ns(self._pread(segment, position, FRAME_OVERHEAD), segment.mark)
        return None if time_ns is None else max(0.0, (time.time_ns() - time_ns) / 1e9)

    def close(self) -> None:
        """Close the file that is open for reading. Another read opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._fd_path = -1, None

    def _read_here(self, segment: Segment, position: int, stop: int, max_records: int, max_bytes: int) -> Batch:
        available = stop - position
        data = self._pread(segment, position, min(max_bytes, available))
        length = frame_length(data, 0, segment.mark)
        if length is not None and len(data) < length <= available:
            data = self._pread(segment, position, length)
        taken = take_frames(data, 0, segment.mark, max_records=max_records)
        return Batch(records=taken.records, end=position + taken.end)

    def _behind_damage(self, segment: Segment, position: int, stop: int) -> int:
        """Return where to read on, when no whole record is at the position."""
        known = segment.damage.get(position)
        if known is not None:
            return known
        rest = self._pread(segment, position, stop - position)
        behind = find_frame(rest, 1, segment.mark)
        self._report_damage(segment, position, rest[:behind])
        return stop if behind is None else position + behind

    def _pread(self, segment: Segment, position: int, size: int) -> bytes:
        try:
            if self._fd_path != segment.path:
                self.close()
                self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
                self._fd_path = segment.path
            return os.pread(self._fd, size, position - segment.base)
        except OSError as error:
            raise JournalError(f"the journal {self._directory} cannot be read: {error.strerror}") from error

    def _recover_segment(self, segment: Segment, data: bytes) -> int:
        start = max(0, self.committed - segment.base)
        if start >= len(data):
            return 0
        found = scan(data, start, segment.mark)
        for begin, behind in found.damage:
            self._report_damage(segment, segment.base + begin, data[begin:behind])
        if found.end < len(data):
            self._cut_tail(segment, found.end, data[found.end :])
        return found.records

    def _cut_tail(self, segment: Segment, offset: int, tail: bytes) -> None:
        position = segment.base + offset
        segment.end = position
        if is_unfinished(tail, segment.mark):
            about = {"path": str(segment.path), "bytes": len(tail)}
            _LOG.warning("journal had an unfinished append at position %d, cut off", position, extra=about)
        elif not self._report_damage(segment, position, tail):
            return
        os.truncate(segment.path, offset)

    def _report_damage(self, segment: Segment, position: int, data: bytes) -> bool:
        """Say so, and return whether the bytes could be kept."""
        segment.damage[position] = position + len(data)
        self.damaged_ranges += 1
        try:
            path = save_damage(self._directory, position, data)
        except OSError as error:
            about = {"path": str(segment.path), "bytes": len(data), "reason": error.strerror}
            _LOG.error("journal damaged at position %d, skipped, could not be kept", position, extra=about)
            return False
        about = {"path": str(path), "bytes": len(data)}
        _LOG.error("journal damaged at position %d, skipped, kept aside", position, extra=about)
        return True
