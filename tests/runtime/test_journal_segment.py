"""The journal's frames: whatever happens to the bytes, a record is read back whole and checked, or not at all."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.journal_segment import (
    FRAME_OVERHEAD,
    encode_frame,
    find_frame,
    frame_length,
    frame_time_ns,
    is_unfinished,
    parse_segment_name,
    scan,
    segment_name,
    take_frames,
)

MARK = 0x1234ABCD
NOW = 1_760_000_000_000_000_000

records_lists = st.lists(st.binary(max_size=60), min_size=1, max_size=8)


def frames(records: list[bytes]) -> list[bytes]:
    return [encode_frame(record, MARK, NOW) for record in records]


def test_a_frame_is_laid_out_as_documented() -> None:
    frame = encode_frame(b"hello", MARK, NOW)
    assert frame[:4] == struct.pack("<I", MARK)
    assert frame[4:8] == struct.pack("<I", 5)
    assert frame[8:16] == struct.pack("<Q", NOW)
    assert frame[FRAME_OVERHEAD:] == b"hello"
    assert frame_length(frame, 0, MARK) == len(frame)
    assert frame_time_ns(frame, MARK) == NOW


def test_a_segment_name_tells_its_base_and_mark() -> None:
    assert segment_name(17, MARK) == "00000000000000000017-1234abcd.j1"
    assert parse_segment_name(segment_name(17, MARK)) == (17, MARK)
    for name in ("cursor", "lock", "17-1234abcd.j1", "00000000000000000017-1234abcd.j1.bak"):
        assert parse_segment_name(name) is None


@settings(deadline=None)  # the machine may be busy
@given(records_lists)
def test_what_was_framed_is_taken_back(records: list[bytes]) -> None:
    data = b"".join(frames(records))
    taken = take_frames(data, 0, MARK, max_records=100)
    assert (taken.records, taken.end) == (records, len(data))
    assert scan(data, 0, MARK).records == len(records)


@settings(deadline=None)  # the machine may be busy
@given(records_lists, st.data())
def test_a_cut_loses_only_the_record_it_goes_through(records: list[bytes], data: st.DataObject) -> None:
    framed = frames(records)
    whole = b"".join(framed)
    cut = data.draw(st.integers(0, len(whole)))
    kept: list[bytes] = []
    size = 0
    for record, frame in zip(records, framed, strict=True):
        size += len(frame)
        if size <= cut:
            kept.append(record)
    end = sum(len(encode_frame(record, MARK, NOW)) for record in kept)
    taken = take_frames(whole[:cut], 0, MARK, max_records=100)
    assert (taken.records, taken.end) == (kept, end)
    found = scan(whole[:cut], 0, MARK)
    assert (found.records, found.end, found.damage) == (len(kept), end, ())
    assert is_unfinished(whole[end:cut], MARK)


@settings(deadline=None)  # the machine may be busy
@given(records_lists, st.data())
def test_a_changed_byte_loses_only_the_record_it_is_in(records: list[bytes], data: st.DataObject) -> None:
    framed = frames(records)
    whole = bytearray(b"".join(framed))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    hit = 0
    while place >= len(framed[hit]):
        place -= len(framed[hit])
        hit += 1
    assert read_all(bytes(whole)) == records[:hit] + records[hit + 1 :]
    assert scan(bytes(whole), 0, MARK).records == len(records) - 1


@settings(deadline=None)  # the machine may be busy
@given(records_lists, st.binary(max_size=80))
def test_rubbish_behind_the_records_invents_none(records: list[bytes], rubbish: bytes) -> None:
    assert read_all(b"".join(frames(records)) + rubbish) == records


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=400))
def test_rubbish_alone_holds_no_record(rubbish: bytes) -> None:
    assert scan(rubbish, 0, MARK).records == 0
    assert find_frame(rubbish, 0, MARK) is None


def test_zeros_as_a_power_loss_leaves_them_are_no_frame() -> None:
    data = encode_frame(b"kept", MARK, NOW) + bytes(4096)
    found = scan(data, 0, MARK)
    assert (found.records, found.end) == (1, FRAME_OVERHEAD + 4)


def test_a_record_that_looks_like_a_frame_is_not_read_as_one_behind_damage() -> None:
    forged = encode_frame(b"forged by a caller, who cannot know the mark", MARK ^ 1, NOW)
    data = bytearray(encode_frame(forged, MARK, NOW) + encode_frame(b"next", MARK, NOW))
    data[10] ^= 0xFF
    assert read_all(bytes(data)) == [b"next"]


def read_all(data: bytes) -> list[bytes]:
    """Read as the journal does: on behind whatever is no frame."""
    records: list[bytes] = []
    offset: int | None = 0
    while offset is not None:
        taken = take_frames(data, offset, MARK, max_records=100)
        records += taken.records
        offset = find_frame(data, taken.end + 1, MARK)
    return records
