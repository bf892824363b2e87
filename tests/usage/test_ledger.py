"""The ledger: applied once, durable when it says so, listed newest first, added up exactly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.usage.ledger import Ledger, LedgerError
from services.usage.ledger_queries import Dimension, Filters, PageKey
from services.usage.ledger_row import Row, encode_record
from tests.usage.records import MIDNIGHT, make_record
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.usage.v1 import usage_service_pb2 as pb


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with opened(path) as ledger:
        yield ledger


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(path)
    try:
        await ledger.open()
        yield ledger
    finally:
        await ledger.close()


def rows_of(count: int) -> list[Row]:
    return [encode_record(make_record(), 1) for _ in range(count)]


async def ids(ledger: Ledger) -> set[str]:
    return {row["record_id"] for row in await ledger.list_records(Filters(), limit=100_000)}


async def test_rows_are_applied_once_and_counted_exactly(ledger: Ledger) -> None:
    rows = rows_of(5)
    assert await ledger.apply(rows[:3]) == 3
    assert await ledger.apply(rows) == 2
    assert await ledger.apply(rows) == 0
    assert await ledger.apply([]) == 0
    assert await ids(ledger) == {row[0] for row in rows}


@pytest.mark.parametrize("count", [1, 5, 7, 13, 100, 385, 511, 512, 513, 1000])
async def test_a_batch_of_any_size_is_applied_whole_and_counted_exactly(ledger: Ledger, count: int) -> None:
    rows = rows_of(count)
    assert await ledger.apply(rows) == count
    assert await ids(ledger) == {row[0] for row in rows}
    assert await ledger.apply([*rows, *rows_of(2)]) == 2


async def test_a_batch_that_holds_a_row_twice_applies_it_once(ledger: Ledger) -> None:
    (row,) = rows_of(1)
    assert await ledger.apply([row, row, row]) == 1


async def test_a_batch_larger_than_one_statement_takes_is_one_transaction(ledger: Ledger) -> None:
    rows = rows_of(2000)
    broken = (*rows[-1][:5], object(), *rows[-1][6:])
    with pytest.raises(LedgerError):
        await ledger.apply([*rows[:-1], broken])
    assert await ids(ledger) == set()
    assert await ledger.apply(rows) == 2000


async def test_overlapping_batches_at_once_count_each_row_once(ledger: Ledger) -> None:
    rows = rows_of(400)
    batches = [rows[start : start + 100] for start in range(0, 301, 20)]
    applied = await asyncio.gather(*(ledger.apply(batch) for batch in batches))
    assert sum(applied) == 400
    assert len(await ids(ledger)) == 400


async def test_two_ledgers_on_one_file_share_it(ledger: Ledger, path: Path) -> None:
    rows = rows_of(200)
    async with opened(path) as other:
        applied = await asyncio.gather(
            *(target.apply(rows[start : start + 50]) for start in range(0, 200, 10) for target in (ledger, other))
        )
    assert sum(applied) == 200


async def test_an_apply_whose_caller_is_gone_is_all_or_nothing(ledger: Ledger) -> None:
    rows = rows_of(500)
    task = asyncio.create_task(ledger.apply(rows))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await ledger.apply(rows) in (0, 500)
    assert len(await ids(ledger)) == 500


async def test_closing_finishes_what_is_being_applied(path: Path) -> None:
    rows = rows_of(500)
    async with opened(path) as ledger:
        task = asyncio.create_task(ledger.apply(rows))
        await asyncio.sleep(0)
    assert await task == 500
    async with opened(path) as ledger:
        assert len(await ids(ledger)) == 500
        await ledger.close()
    assert not path.with_name(path.name + "-wal").exists()


async def test_a_commit_is_on_the_disk_before_it_is_acknowledged(ledger: Ledger) -> None:
    """The routers delete their copies on our word, so the write-ahead log must be synced with every commit."""
    with ledger._write_engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


# -- listing ----------------------------------------------------------------------------------------------------------


async def test_pages_are_newest_first_and_hold_each_record_once_whatever_comes_in_between(ledger: Ledger) -> None:
    rows = [
        encode_record(make_record(record_id=f"r{number:03d}", start_time={"seconds": MIDNIGHT + number // 3}), 1)
        for number in range(50)
    ]
    await ledger.apply(rows)
    seen: list[str] = []
    after: PageKey | None = None
    while page := await ledger.list_records(Filters(), limit=7, after=after):
        seen += [row["record_id"] for row in page]
        after = PageKey(start_time_us=page[-1]["start_time_us"], record_id=page[-1]["record_id"])
        await ledger.apply([encode_record(make_record(start_time={"seconds": MIDNIGHT + 1000}), 1)])
    assert seen == [f"r{number:03d}" for number in reversed(range(50))]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), {"a", "b", "c"}),
        (Filters(model="m1"), {"a", "c"}),
        (Filters(key_id="k2"), {"b", "c"}),
        (Filters(model="m1", key_id="k2"), {"c"}),
        (Filters(request_id="q-a"), {"a"}),
        (Filters(request_id="nobody"), set()),
        (Filters(start_us=(MIDNIGHT + 2) * 10**6), {"b", "c"}),
        (Filters(end_us=(MIDNIGHT + 2) * 10**6), {"a"}),
        (Filters(start_us=(MIDNIGHT + 2) * 10**6, end_us=(MIDNIGHT + 3) * 10**6), {"b"}),
    ],
)
async def test_filters_narrow_the_list(ledger: Ledger, filters: Filters, expected: set[str]) -> None:
    for record_id, model, key_id, second in (("a", "m1", "k1", 1), ("b", "m2", "k2", 2), ("c", "m1", "k2", 3)):
        record = make_record(
            record_id=record_id,
            request_id=f"q-{record_id}",
            model=model,
            key_id=key_id,
            start_time={"seconds": MIDNIGHT + second},
        )
        await ledger.apply([encode_record(record, 1)])
    assert {row["record_id"] for row in await ledger.list_records(filters, limit=10)} == expected


# -- adding up --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def filled(ledger: Ledger) -> Ledger:
    failed = {"outcome": pb.OUTCOME_FAILED, "usage": None}
    estimate = {"outcome": pb.OUTCOME_TRUNCATED, "usage": TokenUsage(input_tokens=5, output_tokens=1, estimated=True)}
    tomorrow = {"seconds": MIDNIGHT + 86_400}
    await ledger.apply(
        [
            encode_record(make_record(model="m1", provider="p1", key_id="k1"), 30),
            encode_record(make_record(model="m1", provider="p2", key_id="k1", **estimate), 7),
            encode_record(make_record(model="m2", provider="p2", key_id="k2", **failed), 0),
            encode_record(make_record(model="m2", provider="p2", key_id="k2", start_time=tomorrow), None),
        ]
    )
    return ledger


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        ("", {"": (4, 2, 2005, 201, 37, 1, 1)}),
        ("model", {"m1": (2, 1, 1005, 101, 37, 0, 1), "m2": (2, 1, 1000, 100, 0, 1, 0)}),
        ("provider", {"p1": (1, 0, 1000, 100, 30, 0, 0), "p2": (3, 2, 1005, 101, 7, 1, 1)}),
        ("key_id", {"k1": (2, 1, 1005, 101, 37, 0, 1), "k2": (2, 1, 1000, 100, 0, 1, 0)}),
        (
            "outcome",
            {
                "completed": (2, 0, 2000, 200, 30, 1, 0),
                "failed": (1, 1, 0, 0, 0, 0, 0),
                "truncated": (1, 1, 5, 1, 7, 0, 1),
            },
        ),
        (
            "day",
            {
                MIDNIGHT // 86_400: (3, 2, 1005, 101, 37, 0, 1),
                MIDNIGHT // 86_400 + 1: (1, 0, 1000, 100, 0, 1, 0),
            },
        ),
    ],
)
async def test_sums_by_dimension(
    filled: Ledger, dimension: Dimension, expected: dict[str | int, tuple[int, ...]]
) -> None:
    sums = {
        one.value: (
            one.record_count,
            one.failed_count,
            one.input_tokens,
            one.output_tokens,
            one.cost_nano_usd,
            one.unpriced_count,
            one.estimated_count,
        )
        for one in await filled.summarize(dimension, Filters())
    }
    assert sums == expected
    assert list(sums) == sorted(sums, key=lambda value: (isinstance(value, int), value))


async def test_sums_of_nothing_and_of_a_range(filled: Ledger) -> None:
    (nothing,) = await filled.summarize("", Filters(start_us=(MIDNIGHT + 10 * 86_400) * 10**6))
    assert (nothing.record_count, nothing.cost_nano_usd, nothing.input_tokens) == (0, 0, 0)
    assert await filled.summarize("model", Filters(end_us=0)) == []
    (late,) = await filled.summarize("", Filters(start_us=(MIDNIGHT + 86_400) * 10**6))
    assert late.record_count == 1


# -- opening ----------------------------------------------------------------------------------------------------------


async def test_reopening_keeps_what_was_applied(path: Path) -> None:
    rows = rows_of(3)
    for _ in range(3):
        async with opened(path) as ledger:
            await ledger.apply(rows)
            assert len(await ids(ledger)) == 3


async def test_two_that_open_a_new_ledger_at_once_both_succeed(path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(opened(path)) for _ in range(4)))


@pytest.mark.parametrize("content", [b"this is not a database, " * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be opened: "):
        async with opened(path):
            pass
    assert path.read_bytes() == content


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match=r"file/ledger\.sqlite cannot be opened"):
        async with opened(tmp_path / "file" / "ledger.sqlite"):
            pass


async def test_a_path_that_is_a_directory_is_named(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be opened: unable to open"):
        async with opened(path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_file_that_may_not_be_written_is_named(path: Path) -> None:
    async with opened(path):
        pass
    path.chmod(0o400)
    path.parent.chmod(0o500)
    with pytest.raises(LedgerError, match="readonly"):
        async with opened(path):
            pass


async def test_a_ledger_of_a_later_version_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
        connection.commit()
    with pytest.raises(LedgerError, match="has schema version 99, and this program knows version 1"):
        async with opened(path):
            pass


async def test_an_error_tells_the_path_and_the_drivers_reason_but_no_statement_and_no_value(
    ledger: Ledger, path: Path
) -> None:
    row = encode_record(make_record(labels={"secret": "hunter2"}), 1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE usage_record")
        connection.commit()
    with pytest.raises(LedgerError) as caught:
        await ledger.apply([row])
    assert str(caught.value) == f"the ledger {path} cannot be written: no such table: usage_record"
    with pytest.raises(LedgerError, match="cannot be read: no such table"):
        await ledger.summarize("", Filters())
