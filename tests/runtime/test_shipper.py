"""The shipper: every record arrives at least once, in order, and nothing is committed that was not taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.runtime.journal import Journal, JournalError
from services.runtime.shipper import Shipper
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "journal", sync="none")
    yield journal
    await journal.close()


class Receiver:
    """Takes batches; fails as often as told first."""

    def __init__(self, *, failures: int = 0, error: Callable[[], Exception] | None = None) -> None:
        self.batches: list[list[bytes]] = []
        self.calls = 0
        self.failures = failures
        self.error = error or unavailable
        self.arrived = asyncio.Event()

    async def __call__(self, records: list[bytes]) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise self.error()
        self.batches.append(records)
        self.arrived.set()

    @property
    def records(self) -> list[bytes]:
        return [record for batch in self.batches for record in batch]


def unavailable() -> GatewayError:
    return GatewayError(error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE, "the ledger is away")


def no_wait() -> float:
    return 0.0


def numbered(count: int) -> list[bytes]:
    return [b"record %d" % number for number in range(count)]


async def test_a_full_batch_leaves_at_once(journal: Journal) -> None:
    receiver = Receiver()
    shipper = Shipper(journal, receiver, max_records=3, linger_seconds=3600)
    shipper.start()
    await asyncio.sleep(0)
    for record in numbered(3):
        journal.append(record)
    async with asyncio.timeout(5):
        await receiver.arrived.wait()
    assert receiver.batches == [numbered(3)]
    assert await shipper.drain(5)


async def test_a_batch_that_is_not_full_leaves_after_the_linger_time(journal: Journal) -> None:
    receiver = Receiver()
    shipper = Shipper(journal, receiver, linger_seconds=0.02)
    shipper.start()
    for record in numbered(2):
        journal.append(record)
    async with asyncio.timeout(5):
        await receiver.arrived.wait()
    assert receiver.batches == [numbered(2)]
    assert await shipper.drain(5)
    assert (shipper.stats().sent_records, shipper.stats().sent_batches) == (2, 1)


async def test_draining_sends_what_is_pending_without_delay(journal: Journal) -> None:
    receiver = Receiver()
    shipper = Shipper(journal, receiver, max_records=4, linger_seconds=3600)
    shipper.start()
    await asyncio.sleep(0)
    for record in numbered(10):
        journal.append(record)
    async with asyncio.timeout(5):
        assert await shipper.drain(60)
    assert [len(batch) for batch in receiver.batches] == [4, 4, 2]
    assert receiver.records == numbered(10)
    assert await shipper.drain(60)


async def test_draining_an_empty_journal_ends_at_once(journal: Journal) -> None:
    shipper = Shipper(journal, Receiver(), linger_seconds=3600)
    shipper.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await shipper.drain(60)


async def test_failures_are_tried_again_with_the_same_records_and_growing_waits(journal: Journal) -> None:
    waits: list[float] = []

    def jitter() -> float:
        waits.append(1.0)
        return 0.0

    receiver = Receiver(failures=5)
    shipper = Shipper(journal, receiver, linger_seconds=0, jitter=jitter)
    for record in numbered(3):
        journal.append(record)
    shipper.start()
    async with asyncio.timeout(5):
        await receiver.arrived.wait()
    assert receiver.calls == 6
    assert len(waits) == 5
    assert receiver.records == numbered(3)
    assert await shipper.drain(5)
    assert shipper.stats().failures == 0


async def test_what_was_not_taken_stays_pending(journal: Journal) -> None:
    receiver = Receiver(failures=1_000_000)
    shipper = Shipper(journal, receiver, linger_seconds=0)
    for record in numbered(3):
        journal.append(record)
    shipper.start()
    assert not await shipper.drain(0.05)
    assert journal.pending_records == 3
    assert journal.read_batch().records == numbered(3)


async def test_a_send_that_hangs_does_not_outlive_the_drain(journal: Journal) -> None:
    cancelled = asyncio.Event()

    async def hanging(records: list[bytes]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    shipper = Shipper(journal, hanging, linger_seconds=0)
    journal.append(b"a")
    shipper.start()
    assert not await shipper.drain(0.02)
    assert cancelled.is_set()
    assert journal.pending_records == 1


async def test_an_undeclared_error_ends_the_task_and_is_told(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver(failures=1, error=lambda: ZeroDivisionError("a bug"))
    shipper = Shipper(journal, receiver, linger_seconds=0)
    journal.append(b"a")
    shipper.start()
    with pytest.raises(ZeroDivisionError):
        await shipper.drain(5)
    assert "the journal grows" in caplog.text
    assert journal.pending_records == 1


async def test_a_journal_that_cannot_be_read_for_a_while_is_tried_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = journal.read_batch
    failures = iter([True, True, False])

    def failing(*, max_records: int = 500, max_bytes: int = 1 << 20) -> object:
        if next(failures, False):
            raise JournalError("Input/output error")
        return real(max_records=max_records, max_bytes=max_bytes)

    monkeypatch.setattr(journal, "read_batch", failing)
    receiver = Receiver()
    shipper = Shipper(journal, receiver, linger_seconds=0, jitter=no_wait)
    journal.append(b"a")
    shipper.start()
    assert await shipper.drain(5)
    assert receiver.records == [b"a"]


async def test_records_appended_while_batches_are_sent_arrive_once_and_in_order(journal: Journal) -> None:
    receiver = Receiver()
    shipper = Shipper(journal, receiver, max_records=7, linger_seconds=0.001)
    shipper.start()
    records = numbered(1000)
    for number, record in enumerate(records):
        journal.append(record)
        if number % 13 == 0:
            await asyncio.sleep(0)
    assert await shipper.drain(10)
    assert receiver.records == records
    assert journal.stats().pending_bytes == 0


async def test_batches_hold_no_more_bytes_than_allowed(journal: Journal) -> None:
    receiver = Receiver()
    shipper = Shipper(journal, receiver, max_bytes=1000, linger_seconds=0)
    for _ in range(10):
        journal.append(b"x" * 300)
    shipper.start()
    assert await shipper.drain(5)
    assert max(sum(map(len, batch)) for batch in receiver.batches) <= 1000
    assert len(receiver.records) == 10
