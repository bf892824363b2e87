"""What a journal finds when it is opened again: after restarts, damage, failed writes and dead neighbours."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.journal import Journal, JournalBusyError, JournalError, open_journal, open_orphans
from services.runtime.journal_segment import FRAME_OVERHEAD, segment_name


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "0"


@pytest.fixture
def journal(directory: Path) -> Iterator[Journal]:
    journal = Journal(directory, sync="none")
    yield journal
    journal.release_directory()


def numbered(start: int, stop: int) -> list[bytes]:
    return [b"record %d" % number for number in range(start, stop)]


def drain(journal: Journal, *, max_records: int = 500, max_bytes: int = 1 << 20) -> list[bytes]:
    """Read and commit everything."""
    records: list[bytes] = []
    while batch := journal.read_batch(max_records=max_records, max_bytes=max_bytes).records:
        journal.commit(journal.read_batch(max_records=max_records, max_bytes=max_bytes))
        records += batch
    return records


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.j1"))


def test_what_is_not_committed_is_there_after_reopening(directory: Path) -> None:
    journal = Journal(directory, sync="none")
    for record in numbered(0, 10):
        journal.append(record)
    journal.commit(journal.read_batch(max_records=4))
    journal.release_directory()
    again = Journal(directory, sync="none")
    assert again.pending_records == 6
    again.append(b"record 10")
    assert drain(again) == numbered(4, 11)
    again.release_directory()


def test_reopening_many_times_keeps_order_and_leaves_no_files_behind(directory: Path) -> None:
    read: list[bytes] = []
    for round_number in range(20):
        journal = Journal(directory, sync="none", max_segment_bytes=100)
        for record in numbered(round_number * 3, round_number * 3 + 3):
            journal.append(record)
        batch = journal.read_batch(max_records=2)
        read += batch.records
        journal.commit(batch)
        journal.release_directory()
    journal = Journal(directory, sync="none")
    read += drain(journal)
    assert read == numbered(0, 60)
    journal.release_directory()
    assert not directory.exists()


def test_a_second_opener_is_refused_until_the_first_is_done(directory: Path) -> None:
    journal = Journal(directory, sync="none")
    journal.append(b"a")
    with pytest.raises(JournalBusyError, match=str(directory)):
        Journal(directory)
    journal.release_directory()
    again = Journal(directory, sync="none")
    assert again.pending_records == 1
    again.release_directory()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match="file/journal"):
        Journal(tmp_path / "file" / "journal")


@pytest.mark.parametrize("cursor", [b"", b"12", b"999 00000000\n", b"rubbish\n", b"\x00" * 20])
def test_a_broken_cursor_means_reading_again_and_not_losing(directory: Path, cursor: bytes) -> None:
    journal = Journal(directory, sync="none")
    for record in numbered(0, 6):
        journal.append(record)
    journal.commit(journal.read_batch(max_records=3))
    journal.release_directory()
    (directory / "cursor").write_bytes(cursor)
    again = Journal(directory, sync="none")
    assert drain(again) == numbered(0, 6)
    again.release_directory()


def test_a_cursor_ahead_of_the_files_hides_nothing_appended_later(directory: Path) -> None:
    """As after a power loss that took the records, which were dealt with, but not the cursor."""
    journal = Journal(directory, sync="none")
    for record in numbered(0, 6):
        journal.append(record)
    journal.commit(journal.read_batch(max_records=5))
    journal.release_directory()
    for path in segments(directory):
        os.truncate(path, FRAME_OVERHEAD)
    again = Journal(directory, sync="none")
    assert again.pending_records == 0
    again.append(b"new")
    again.release_directory()
    last = Journal(directory, sync="none")
    assert drain(last) == [b"new"]
    last.release_directory()


def write_segments(directory: Path, records: list[bytes]) -> None:
    journal = Journal(directory, sync="none", max_segment_bytes=200)
    for record in records:
        journal.append(record)
    journal.release_directory()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=12), st.data())
def test_a_torn_tail_loses_only_what_was_torn(records: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "journal"
        write_segments(directory, records)
        last = segments(directory)[-1]
        cut = data.draw(st.integers(0, last.stat().st_size))
        size = sum(path.stat().st_size for path in segments(directory)[:-1]) + cut
        ends = itertools.accumulate(len(record) + FRAME_OVERHEAD for record in records)
        whole = sum(end <= size for end in ends)
        os.truncate(last, cut)
        journal = Journal(directory, sync="none")
        journal.append(b"appended later")
        kept = drain(journal, max_records=data.draw(st.integers(1, 5)))
        assert kept == [*records[:whole], b"appended later"]
        assert journal.stats().damaged_ranges == 0
        journal.release_directory()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=12), st.data())
def test_a_changed_byte_anywhere_loses_one_record_and_reports_it(records: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "journal"
        write_segments(directory, records)
        path = data.draw(st.sampled_from(segments(directory)))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        journal = Journal(directory, sync="none")
        assert journal.pending_records == len(records) - 1
        journal.append(b"appended later")
        kept = drain(journal, max_records=data.draw(st.integers(1, 5)))
        assert kept.pop() == b"appended later"
        assert any(kept == records[:hole] + records[hole + 1 :] for hole in range(len(records)))
        assert journal.pending_records == 0
        journal.release_directory()


def test_damage_in_the_middle_is_kept_aside_and_what_follows_is_read(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_segments(directory, numbered(0, 3))
    (path,) = segments(directory)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    journal = Journal(directory, sync="none")
    assert journal.stats().damaged_ranges == 1
    assert "journal damaged" in caplog.text
    assert drain(journal) == [b"record 0", b"record 2"]
    journal.release_directory()
    (kept,) = directory.glob("damaged-*.bin")
    frame_size = FRAME_OVERHEAD + len(b"record 1")
    assert kept.read_bytes() == bytes(content[frame_size : 2 * frame_size])
    assert not segments(directory)


def test_damage_that_appears_while_running_neither_stops_nor_spins_the_reader(
    journal: Journal, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for record in numbered(0, 4):
        journal.append(record)
    (path,) = segments(directory)
    with path.open("r+b") as file:
        file.seek(FRAME_OVERHEAD + len(b"record 0") + 5)
        file.write(b"\xff\xff")
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert drain(journal) == [b"record 0", b"record 2"]
    assert journal.pending_records == 0
    assert journal.stats().damaged_ranges == 2
    assert caplog.text.count("journal damaged") == 2
    journal.append(b"record 4")
    assert drain(journal) == [b"record 4"]


def test_an_unfinished_append_is_cut_off_quietly(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_segments(directory, numbered(0, 2))
    (path,) = segments(directory)
    os.truncate(path, path.stat().st_size - 3)
    journal = Journal(directory, sync="none")
    assert drain(journal) == [b"record 0"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    journal.release_directory()
    assert not directory.exists()


@pytest.mark.parametrize("written", [0, 1, 19, 25])
def test_a_partial_write_is_taken_back_and_later_appends_are_read(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    journal.append(b"first")
    real = os.write

    def short(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:written])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(JournalError, match="disk is full"):
            journal.append(b"not this one")
    assert journal.pending_records == 1
    journal.append(b"second")
    assert drain(journal) == [b"first", b"second"]


def test_a_partial_write_that_cannot_be_taken_back_costs_the_segment_and_nothing_else(
    journal: Journal, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(b"first")
    real = os.write

    def short(descriptor: int, data: bytes) -> int:
        real(descriptor, data[:9])
        raise OSError(28, "No space left on device")

    def stuck(descriptor: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        patch.setattr(os, "ftruncate", stuck)
        with pytest.raises(JournalError, match="No space left"):
            journal.append(b"not this one")
    journal.append(b"second")
    assert len(segments(directory)) == 2
    journal.release_directory()
    again = Journal(directory, sync="none")
    assert again.pending_records == 2
    assert drain(again) == [b"first", b"second"]
    again.release_directory()


def test_orphans_are_adopted_and_removed_when_they_are_empty(tmp_path: Path) -> None:
    for slot in ("0", "1", "2"):
        journal = open_journal(tmp_path, slot)
        for record in numbered(0, 3):
            journal.append(slot.encode() + record)
        if slot == "2":
            drain(journal)
            os.close(journal._lock_fd)  # as the kernel does for a process that was killed
        else:
            journal.release_directory()
    mine = open_journal(tmp_path, "1")
    orphans = open_orphans(tmp_path)
    assert [orphan.directory.name for orphan in orphans] == ["0"]
    assert not (tmp_path / "2").exists()
    assert drain(orphans[0]) == [b"0" + record for record in numbered(0, 3)]
    orphans[0].release_directory()
    assert not (tmp_path / "0").exists()
    assert mine.pending_records == 3
    mine.release_directory()


def test_a_slot_that_a_neighbour_has_adopted_opens_a_sibling(tmp_path: Path) -> None:
    first = open_journal(tmp_path, "0")
    first.append(b"left behind")
    first.release_directory()
    (adopted,) = open_orphans(tmp_path)
    mine = open_journal(tmp_path, "0")
    assert mine.directory.name == "0.1"
    assert open_orphans(tmp_path) == []
    drain(adopted)
    adopted.release_directory()
    mine.append(b"a")
    mine.release_directory()
    (orphan,) = open_orphans(tmp_path)
    assert orphan.directory.name == "0.1"
    orphan.release_directory()


def test_an_orphan_that_cannot_be_read_is_reported_and_keeps_nobody_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "lock").touch()
    (tmp_path / "0" / segment_name(0, 1)).mkdir()
    assert open_orphans(tmp_path) == []
    assert "cannot be read" in caplog.text
    assert (tmp_path / "0").exists()


def test_no_root_means_no_orphans(tmp_path: Path) -> None:
    assert open_orphans(tmp_path / "journal") == []
