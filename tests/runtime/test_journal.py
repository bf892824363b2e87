"""The journal: what append acknowledged is read until it is committed, whatever happens to the files in between."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.runtime.journal import (
    Journal,
    JournalError,
    JournalFullError,
)
from services.runtime.journal_segment import FRAME_OVERHEAD


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


def test_records_are_read_in_order_until_they_are_committed(journal: Journal) -> None:
    for record in numbered(0, 5):
        journal.append(record)
    first = journal.read_batch(max_records=3)
    assert first.records == numbered(0, 3)
    assert journal.read_batch(max_records=3) == first
    journal.commit(first)
    assert journal.pending_records == 2
    assert journal.read_batch().records == numbered(3, 5)


def test_append_returns_growing_positions_that_count_bytes(journal: Journal) -> None:
    positions = [journal.append(record) for record in (b"", b"a", b"bc")]
    assert positions == [FRAME_OVERHEAD, 2 * FRAME_OVERHEAD + 1, 3 * FRAME_OVERHEAD + 3]


def test_each_append_is_one_write(journal: Journal, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append(b"opens the segment")
    writes: list[int] = []
    real = os.write

    def counting(descriptor: int, data: bytes) -> int:
        writes.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", counting)
    journal.append(b"x" * 600)
    assert writes == [600 + FRAME_OVERHEAD]


def test_an_empty_journal_gives_an_empty_batch(journal: Journal) -> None:
    assert journal.read_batch().records == []
    journal.commit(journal.read_batch())
    assert journal.pending_records == 0


def test_a_batch_holds_no_more_bytes_than_asked_but_always_one_record(journal: Journal) -> None:
    for size in (100, 100, 5000, 10):
        journal.append(b"x" * size)
    sizes = []
    while records := (batch := journal.read_batch(max_bytes=300)).records:
        sizes.append([len(record) for record in records])
        journal.commit(batch)
    assert sizes == [[100, 100], [5000], [10]]


def test_a_batch_read_before_further_appends_commits_only_itself(journal: Journal) -> None:
    journal.append(b"before")
    batch = journal.read_batch()
    journal.append(b"after")
    journal.commit(batch)
    journal.commit(batch)
    assert journal.pending_records == 1
    assert drain(journal) == [b"after"]


def test_segments_wrap_around_and_are_deleted_once_committed(directory: Path) -> None:
    journal = Journal(directory, sync="none", max_segment_bytes=200)
    for record in numbered(0, 50):
        journal.append(record)
    assert len(segments(directory)) > 5
    assert all(path.stat().st_size <= 200 for path in segments(directory))
    assert drain(journal, max_records=4) == numbered(0, 50)
    assert len(segments(directory)) == 1
    journal.append(b"goes on")
    assert drain(journal) == [b"goes on"]
    journal.release_directory()


def test_a_record_larger_than_a_segment_is_refused(directory: Path) -> None:
    journal = Journal(directory, sync="none", max_segment_bytes=200)
    with pytest.raises(JournalError, match="larger than a segment"):
        journal.append(b"x" * 200)
    journal.append(b"x" * (200 - FRAME_OVERHEAD))
    assert journal.pending_records == 1
    journal.release_directory()


def test_a_full_journal_refuses_until_something_is_committed(directory: Path) -> None:
    journal = Journal(directory, sync="none", max_segment_bytes=300, max_total_bytes=1000)
    while journal.stats().pending_bytes <= 1000 - FRAME_OVERHEAD - len(b"record 00"):
        journal.append(b"record %d" % journal.pending_records)
    taken = journal.pending_records
    with pytest.raises(JournalFullError, match="bytes wait to be read"):
        journal.append(b"record %d" % taken)
    assert journal.stats().pending_bytes <= 1000
    assert sum(path.stat().st_size for path in segments(directory)) <= 1300
    with pytest.raises(JournalFullError):
        journal.append(b"record x")
    journal.commit(journal.read_batch(max_records=1))
    journal.append(b"fits now")
    assert drain(journal) == [*numbered(1, taken), b"fits now"]
    journal.release_directory()


def test_the_gauges_say_how_much_waits_and_since_when(journal: Journal) -> None:
    assert journal.stats().oldest_age_seconds is None
    journal.append(b"a")
    began = time.monotonic()
    journal.append(b"b")
    stats = journal.stats()
    assert (stats.pending_records, stats.pending_bytes) == (2, 2 * FRAME_OVERHEAD + 2)
    assert stats.oldest_age_seconds is not None
    assert 0 <= stats.oldest_age_seconds <= time.monotonic() - began + 1
    drain(journal)
    stats = journal.stats()
    assert (stats.pending_records, stats.pending_bytes, stats.oldest_age_seconds) == (0, 0, None)


def test_a_closed_journal_refuses(journal: Journal) -> None:
    journal.append(b"a")
    journal.release_directory()
    with pytest.raises(JournalError, match="closed"):
        journal.append(b"b")


async def test_wait_returns_once_enough_is_pending(journal: Journal) -> None:
    waiting = asyncio.ensure_future(journal.wait(2))
    await asyncio.sleep(0)
    journal.append(b"a")
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.append(b"b")
    await waiting
    await journal.wait(2)


async def test_release_lets_the_waiter_go(journal: Journal) -> None:
    waiting = asyncio.ensure_future(journal.wait())
    await asyncio.sleep(0)
    journal.release()
    await waiting
    assert journal.pending_records == 0


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls of fdatasync, by the size of the file at the time."""
    calls: list[int] = []
    real = os.fdatasync

    def recording(descriptor: int) -> None:
        calls.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", recording)
    return calls


async def test_always_makes_a_position_durable_before_it_says_so(directory: Path, synced: list[int]) -> None:
    journal = Journal(directory, sync="always")
    journal.start()
    position = journal.append(b"a")
    await journal.durable(position)
    assert max(synced) >= position
    await journal.durable(position)
    await journal.close()


async def test_many_who_wait_share_a_sync(directory: Path, synced: list[int]) -> None:
    journal = Journal(directory, sync="always")
    journal.start()

    async def record(number: int) -> None:
        position = journal.append(b"record %d" % number)
        await journal.durable(position)
        assert max(synced) >= position

    await asyncio.gather(*(record(number) for number in range(200)))
    assert len(synced) < 20
    await journal.close()


@pytest.mark.parametrize("sync", ["none", "interval"])
async def test_durable_returns_at_once_unless_always(directory: Path, sync: str) -> None:
    journal = Journal(directory, sync="none" if sync == "none" else "interval")
    journal.start()
    task = journal.durable(journal.append(b"a"))
    with pytest.raises(StopIteration):
        task.send(None)  # it did not even yield to the loop
    await journal.close()


async def test_interval_syncs_once_for_all_appends_of_a_while(directory: Path, synced: list[int]) -> None:
    journal = Journal(directory, sync="interval", sync_interval_seconds=0.02)
    journal.start()
    for record in numbered(0, 100):
        journal.append(record)
    async with asyncio.timeout(5):
        while not synced:
            await asyncio.sleep(0.005)
    assert synced == [segments(directory)[0].stat().st_size]
    await journal.close()


async def test_closing_syncs_what_is_left_over_all_segments(directory: Path, synced: list[int]) -> None:
    journal = Journal(directory, sync="interval", sync_interval_seconds=3600, max_segment_bytes=100)
    journal.start()
    await asyncio.sleep(0)
    for record in numbered(0, 20):
        journal.append(record)
    sizes = sorted(path.stat().st_size for path in segments(directory))
    async with asyncio.timeout(5):
        await journal.close()
    assert len(sizes) > 3
    assert all(size in synced for size in sizes)
    assert not [path for path in Path("/proc/self/fd").iterdir() if _leads_into(path, directory)]


def _leads_into(link: Path, directory: Path) -> bool:
    try:
        return directory in link.readlink().parents
    except FileNotFoundError:  # the descriptor that lists the directory is gone by now
        return False


async def test_a_disk_that_refuses_to_sync_is_told_to_those_who_wait(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(directory, sync="always")
    journal.start()

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(JournalError, match="cannot be synced"):
            await journal.durable(journal.append(b"a"))
    assert journal.stats().sync_errors >= 1
    await journal.durable(journal.append(b"b"))
    await journal.close()


async def test_durable_without_start_is_an_error_and_not_a_hang(directory: Path) -> None:
    journal = Journal(directory, sync="always")
    with pytest.raises(JournalError, match="not started"):
        await journal.durable(journal.append(b"a"))
    await journal.close()


def test_an_append_costs_single_microseconds(directory: Path) -> None:
    """Measured 2.5 us; the bound leaves room for a loaded machine, and a regression by a factor still shows."""
    journal = Journal(directory, sync="none")
    record = bytes(600)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(500):
            journal.append(record)
        best = min(best, (time.perf_counter() - began) / 500)
    assert best < 20e-6
    journal.release_directory()
