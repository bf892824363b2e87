"""The ledger: usage records in a SQLite file, applied once, listed and added up.

The one rule: when `apply` has returned, its records survive a power loss, because the routers then delete their copies.
Hence WAL with synchronous=FULL: one fdatasync per batch.

SQLite works in threads of its own, a whole transaction per visit and one statement for as many rows as it takes. Each
time such a thread wants the interpreter back it waits up to 5 ms for a busy event loop, so what counts is how often it
has to, not how much it does (docs/decisions/2026-11-21-ledger-thread.md).
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, select
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.sql import Select

from services.usage.ledger_queries import Dimension, Filters, PageKey, Summary, list_query, summary_query
from services.usage.ledger_row import Row
from services.usage.ledger_schema import METADATA, SCHEMA_VERSION, USAGE_RECORD, VERSION

__all__ = ["Ledger", "LedgerError"]

_BUSY_SECONDS: Final = 5.0
_BUSY_PAUSE_SECONDS: Final = 0.02
_READERS: Final = 2

_Result = TypeVar("_Result")


class LedgerError(Exception):
    """The database cannot be opened, read or written. The message names its path and the database's own reason."""


class Ledger:
    """A ledger in a SQLite file: one connection that writes, a few that read beside it. `open` it before all else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_engine = _engine(path, "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", pool_size=1)
        self._read_engine = _engine(path, "PRAGMA query_only=ON", pool_size=_READERS)
        self._write_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger-write")
        self._read_threads = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="ledger-read")

    async def open(self) -> None:
        """Open the database, and make it with its directory where it is missing.

        Raises LedgerError when that is not possible, the file is no ledger, or one of a later version. `close` it then
        too.
        """
        await self._run(self._write_thread, "opened", self._prepare)

    async def close(self) -> None:
        """Finish what is being applied, and close."""
        await asyncio.to_thread(self._close)

    async def apply(self, rows: Sequence[Row]) -> int:
        """Insert the rows whose record_id is new, in one transaction, and return how many those were.

        Raises LedgerError; then none was inserted. When the caller is cancelled, all are or none is.
        """
        return await self._run(self._write_thread, "written", lambda: self._insert(rows))

    async def list_records(
        self, filters: Filters, *, limit: int, after: PageKey | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """Return up to `limit` rows by column name, newest first, from behind a page's end. Raises LedgerError."""
        query = list_query(filters, limit=limit, after=after)
        return await self._run(self._read_threads, "read", lambda: self._select(query))

    async def summarize(self, dimension: Dimension, filters: Filters) -> Sequence[Summary]:
        """Return the sums by value of a dimension, in the order of the values. Raises LedgerError."""
        query = summary_query(dimension, filters)
        rows = await self._run(self._read_threads, "read", lambda: self._select(query))
        return [Summary(**row) for row in rows]

    async def _run(self, threads: ThreadPoolExecutor, verb: str, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except (SQLAlchemyError, sqlite3.Error) as error:
            # The driver's own words: SQLAlchemy's add the statement and its parameters.
            reason = getattr(error, "orig", None) or error
            raise LedgerError(f"the ledger {self._path} cannot be {verb}: {reason}") from error

    def _prepare(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"the ledger {self._path} cannot be opened: {error}") from error
        give_up = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._create_tables()
            except OperationalError as error:
                # Where two open a new file at once, one is told at once that it is locked: SQLite does not wait while
                # the other switches to WAL.
                busy = getattr(error.orig, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > give_up:
                    raise
                time.sleep(_BUSY_PAUSE_SECONDS)

    def _create_tables(self) -> None:
        with self._write_engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            METADATA.create_all(connection)
            self._check_version(connection)

    def _check_version(self, connection: Connection) -> None:
        version = connection.execute(select(VERSION.c.version)).scalar_one_or_none()
        if version is None:
            connection.execute(insert(VERSION).values(version=SCHEMA_VERSION))
        elif version != SCHEMA_VERSION:
            known = f"this program knows version {SCHEMA_VERSION}"
            raise LedgerError(f"the ledger {self._path} has schema version {version}, and {known}")

    def _insert(self, rows: Sequence[Row]) -> int:
        applied = 0
        with self._write_engine.begin() as connection:
            for start in range(0, len(rows), _SIZES[-1]):
                some = rows[start : start + _SIZES[-1]]
                size = _SIZES[bisect_left(_SIZES, len(some))]
                filled = chain(some, repeat(some[-1], size - len(some)))
                result = connection.exec_driver_sql(_insert_of(size), tuple(chain.from_iterable(filled)))
                applied += result.rowcount  # SQLite counts the rows it inserted, not those that were there
        return applied

    def _select(self, query: Select[Any]) -> list[Mapping[str, Any]]:
        with self._read_engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _close(self) -> None:
        self._write_thread.shutdown(wait=True)
        self._read_threads.shutdown(wait=True)
        self._read_engine.dispose()
        self._write_engine.dispose()


# "INSERT INTO usage_record (record_id, ...) VALUES ", "(?, ...)", " ON CONFLICT DO NOTHING"
_ROW: Final = "(" + ", ".join("?" * len(USAGE_RECORD.columns)) + ")"
_INSERT, _, _UNLESS_THERE = str(
    sqlite_insert(USAGE_RECORD).on_conflict_do_nothing().compile(dialect=sqlite_dialect())
).partition(_ROW)
# How many rows a statement takes; what is missing to the next of these is filled with the last row again, which does
# nothing. So the driver has each of these few statements prepared: a row takes 9 us, where it takes 19 with a statement
# of its exact size, as that is new nearly every time. 512 rows are within SQLite's own limit of 32,766 parameters.
_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@functools.cache
def _insert_of(size: int) -> str:
    """Return the statement for so many rows."""
    return _INSERT + ", ".join([_ROW] * size) + _UNLESS_THERE


def _engine(path: Path, *pragmas: str, pool_size: int) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _BUSY_SECONDS},
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # errors, and the log at its lowest level, show the statement without its values
    )

    def configure(connection: sqlite3.Connection, _: object) -> None:
        for pragma in pragmas:
            connection.execute(pragma).close()

    event.listen(engine, "connect", configure)
    return engine
