"""What a journal keeps on disk beside its records: who owns the directory, how far it was read, which segments exist.

The one rule: everything here may be lost or stale and the worst that follows is that records are read twice.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

from services.runtime.journal_segment import parse_segment_name

__all__ = [
    "LOCK_NAME",
    "JournalBusyError",
    "JournalError",
    "JournalFullError",
    "list_segments",
    "lock_directory",
    "read_cursor",
    "remove_directory",
    "save_damage",
    "write_cursor",
]

LOCK_NAME: Final = "lock"
_CURSOR_NAME: Final = "cursor"
_CURSOR_DRAFT_NAME: Final = "cursor.new"
_MAX_RACES: Final = 100


class JournalError(Exception):
    """The journal could not take, keep or give a record. The message names the path and the system's reason.

    JournalError
    +-- JournalFullError    as many bytes wait to be read as the journal may hold
    +-- JournalBusyError    another process, or another Journal of this one, owns the directory
    """


class JournalFullError(JournalError):
    """As many bytes wait to be read as the journal may hold."""


class JournalBusyError(JournalError):
    """Another process, or another Journal of this one, owns the directory."""


def lock_directory(directory: Path) -> int:
    """Make the directory where it is missing, take its lock, and return the descriptor that holds it until closed.

    The lock ends with the process, however that ends. Raises JournalBusyError, or JournalError when the directory
    cannot be made or written.
    """
    path = directory / LOCK_NAME
    for _ in range(_MAX_RACES):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the owner removed the directory between the two calls
        except OSError as error:
            raise JournalError(f"the journal {directory} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise JournalBusyError(f"the journal {directory} is in use by another process") from error
            raise JournalError(f"the journal {directory} cannot be locked: {error.strerror}") from error
        if _is_still(descriptor, path):
            return descriptor
        os.close(descriptor)  # the former owner removed the file between our two calls
    raise JournalBusyError(f"the journal {directory} is removed again and again by another process")


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def list_segments(directory: Path) -> list[tuple[int, int, Path]]:
    """Return (base, mark, path) of the directory's segments, oldest first."""

    def named() -> Iterator[tuple[int, int, Path]]:
        for path in directory.iterdir():
            parsed = parse_segment_name(path.name)
            if parsed is not None:
                yield (*parsed, path)

    return sorted(named())


def read_cursor(directory: Path) -> int:
    """Return the position up to which records were read and committed; 0 when that is not known."""
    try:
        content = (directory / _CURSOR_NAME).read_bytes()
    except FileNotFoundError:
        return 0
    number, _, checksum = content.partition(b" ")
    if not number.isdigit() or checksum != b"%08x\n" % crc32(number):
        return 0
    return int(number)


def write_cursor(directory: Path, position: int) -> None:
    """Keep the position, in one step: a crash leaves the former one or this one. Raises OSError.

    Not synced: after a power loss an older cursor only means that records are read again.
    """
    number = b"%d" % position
    draft = directory / _CURSOR_DRAFT_NAME
    draft.write_bytes(b"%b %08x\n" % (number, crc32(number)))
    draft.replace(directory / _CURSOR_NAME)


def save_damage(directory: Path, position: int, data: bytes) -> Path:
    """Keep bytes that cannot be read as records, for people to look at, and return where. Raises OSError."""
    path = directory / f"damaged-{position:020d}.bin"
    path.write_bytes(data)
    return path


def remove_directory(directory: Path) -> None:
    """Remove a journal that holds nothing any more, and whose lock the caller holds. Other files in it make it stay."""
    with contextlib.suppress(OSError):
        for name in (_CURSOR_DRAFT_NAME, _CURSOR_NAME, LOCK_NAME):
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
