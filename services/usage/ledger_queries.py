"""What the ledger asks its database, in SQL that SQLite and PostgreSQL share. Statements only, no I/O.

The one rule: every value of a caller is a bound parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import case, func, literal, literal_column, select, tuple_
from sqlalchemy.sql import ColumnElement, Select

from services.usage.ledger_schema import USAGE_RECORD

__all__ = ["Dimension", "Filters", "PageKey", "Summary", "list_query", "summary_query"]

Dimension = Literal["", "model", "provider", "key_id", "day", "outcome"]
"""What records are added up by; "" is nothing, one row over all."""

_RECORD: Final = USAGE_RECORD.c
# A literal, not a parameter: PostgreSQL takes the parameters of SELECT and GROUP BY for different expressions.
_DAY: Final[ColumnElement[Any]] = _RECORD.start_time_us // literal_column("86400000000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which records: None and "" mean any. Times in microseconds since 1970, the end exclusive."""

    start_us: int | None = None
    end_us: int | None = None
    request_id: str = ""
    model: str = ""
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageKey:
    """The last record of a page; the next page begins behind it."""

    start_time_us: int
    record_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Sums over the records of one value of a dimension. The value of a day is the number of days since 1970."""

    value: str | int = ""
    record_count: int
    failed_count: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    unpriced_count: int
    estimated_count: int


def list_query(filters: Filters, *, limit: int, after: PageKey | None) -> Select[Any]:
    """Return the query for up to `limit` records, newest first, from behind a page's end."""
    query = _filtered(select(USAGE_RECORD), filters)
    if after is not None:
        key = tuple_(_RECORD.start_time_us, _RECORD.record_id)
        query = query.where(key < tuple_(literal(after.start_time_us), literal(after.record_id)))
    return query.order_by(_RECORD.start_time_us.desc(), _RECORD.record_id.desc()).limit(limit)


def summary_query(dimension: Dimension, filters: Filters) -> Select[Any]:
    """Return the query for the sums by value of a dimension, in the order of the values; its columns are Summary's."""
    if not dimension:
        return _filtered(select(*_sums()), filters)
    value = _DAY if dimension == "day" else _RECORD[dimension]
    return _filtered(select(value.label("value"), *_sums()), filters).group_by(value).order_by(value)


def _filtered(query: Select[Any], filters: Filters) -> Select[Any]:
    if filters.start_us is not None:
        query = query.where(_RECORD.start_time_us >= filters.start_us)
    if filters.end_us is not None:
        query = query.where(_RECORD.start_time_us < filters.end_us)
    for column, value in (
        (_RECORD.request_id, filters.request_id),
        (_RECORD.model, filters.model),
        (_RECORD.key_id, filters.key_id),
    ):
        if value:
            query = query.where(column == value)
    return query


def _sums() -> list[ColumnElement[Any]]:
    def count_if(condition: ColumnElement[bool]) -> ColumnElement[Any]:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    def total(column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.coalesce(func.sum(column), 0)

    return [
        func.count().label("record_count"),
        count_if(_RECORD.outcome != "completed").label("failed_count"),
        total(_RECORD.input_tokens).label("input_tokens"),
        total(_RECORD.output_tokens).label("output_tokens"),
        total(_RECORD.cost_nano_usd).label("cost_nano_usd"),
        count_if(_RECORD.unpriced).label("unpriced_count"),
        count_if(_RECORD.estimated).label("estimated_count"),
    ]
