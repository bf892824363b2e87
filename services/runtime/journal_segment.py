"""The journal's file format: frames in segment files, without any I/O. The one rule: a record is read back whole and
checked, or not at all.

A segment's name says where it begins and how its frames are marked: `<base position>-<mark>.j1`. Its content is frames:

    offset  size  what
    0       4     the segment's mark, so that reading can go on behind damage
    4       4     length of the record, little endian like every number here
    8       8     when it was written, nanoseconds since 1970
    16      4     crc32 over bytes 0..16 and the record
    20      n     the record

The mark is random per segment. Records hold text of callers, and one who puts bytes that look like a frame into a label
must not get them read as a record when damage before them makes the reader search for the next frame.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final
from zlib import crc32

__all__ = [
    "FRAME_OVERHEAD",
    "Scan",
    "Taken",
    "encode_frame",
    "find_frame",
    "frame_length",
    "frame_time_ns",
    "is_unfinished",
    "parse_segment_name",
    "scan",
    "segment_name",
    "take_frames",
]

FRAME_OVERHEAD: Final = 20

_PREFIX: Final = struct.Struct("<IIQ")
_CRC: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct("<IIQI")
_NAME: Final = re.compile(r"([0-9]{20})-([0-9a-f]{8})\.j1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What take_frames found: the records, and the offset behind the last of them."""

    records: list[bytes]
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a whole segment holds: how many records, where the last one ends, and the damaged ranges before that."""

    records: int
    end: int
    damage: tuple[tuple[int, int], ...]


def segment_name(base: int, mark: int) -> str:
    """Return the file name of a segment that begins at position `base`."""
    return f"{base:020d}-{mark:08x}.j1"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """Return (base, mark) of a segment's file name, or None when it is not one."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2], 16)) if match else None


def encode_frame(record: bytes, mark: int, time_ns: int) -> bytes:
    """Return the frame of a record."""
    prefix = _PREFIX.pack(mark, len(record), time_ns)
    return prefix + _CRC.pack(crc32(record, crc32(prefix))) + record


def frame_length(data: bytes, offset: int, mark: int) -> int | None:
    """Return the size that the frame at the offset claims to have, or None when no frame begins there."""
    if len(data) - offset < FRAME_OVERHEAD:
        return None
    found, length, _, _ = _HEADER.unpack_from(data, offset)
    return FRAME_OVERHEAD + length if found == mark else None


def frame_time_ns(data: bytes, mark: int) -> int | None:
    """Return when the frame that begins the data was written, or None when none begins there."""
    if frame_length(data, 0, mark) is None:
        return None
    time_ns: int = _HEADER.unpack_from(data, 0)[2]
    return time_ns


def is_unfinished(tail: bytes, mark: int) -> bool:
    """Whether the bytes are the beginning of a frame whose writing was cut off, rather than a damaged one."""
    length = frame_length(tail, 0, mark)
    begins_like_one = mark.to_bytes(4, "little").startswith(tail[:4])
    return begins_like_one and (length is None or length > len(tail))


def take_frames(data: bytes, offset: int, mark: int, *, max_records: int) -> Taken:
    """Return the whole frames from the offset on, up to the first that is cut off or damaged."""
    records: list[bytes] = []
    size = len(data)
    while len(records) < max_records and size - offset >= FRAME_OVERHEAD:
        found, length, _, crc = _HEADER.unpack_from(data, offset)
        start = offset + FRAME_OVERHEAD
        end = start + length
        if found != mark or end > size:
            break
        record = data[start:end]
        if crc32(record, crc32(data[offset : start - _CRC.size])) != crc:
            break
        records.append(record)
        offset = end
    return Taken(records=records, end=offset)


def find_frame(data: bytes, offset: int, mark: int) -> int | None:
    """Return the offset of the first whole frame at or behind `offset`, or None when there is none."""
    needle = mark.to_bytes(4, "little")
    while (offset := data.find(needle, offset)) >= 0:
        if take_frames(data, offset, mark, max_records=1).records:
            return offset
        offset += 1
    return None


def scan(data: bytes, offset: int, mark: int) -> Scan:
    """Return what a segment's bytes hold from the offset on; what follows `end` is a torn tail."""
    count = 0
    damage: list[tuple[int, int]] = []
    while True:
        taken = take_frames(data, offset, mark, max_records=len(data))
        count += len(taken.records)
        behind = find_frame(data, taken.end + 1, mark) if taken.end < len(data) else None
        if behind is None:
            return Scan(records=count, end=taken.end, damage=tuple(damage))
        damage.append((taken.end, behind))
        offset = behind
