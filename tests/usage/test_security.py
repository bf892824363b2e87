"""Text of callers stays text: no string field can change a statement, escape a filter or reach a log."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from services.usage.ledger_queries import PageKey
from services.usage.page_token import encode_page_token
from tests.usage.records import Stub, list_all, make_record, serving
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.usage.v1 import usage_service_pb2 as pb

NASTY = [
    "'",
    '"',
    "'; DROP TABLE usage_record; --",
    "' OR '1'='1",
    "\\'; DELETE FROM usage_record WHERE ''='",
    '") VALUES (1); --',
    "%",
    "_",
    "*",
    "?",
    ":name",
    "$1",
    "@x",
    "[id]",
    "`id`",
    "/* x */",
    "-- x",
    "line\nbreak\r\ttab",
    "nul\x00inside",
    "\u00e9\u4e2d\U0001f600\u202e\ufeff",
    '{"json": [1, "\\"]}',
    "x" * 100_000,
]
TEXT_FIELDS = [
    field.name
    for field in pb.UsageRecord.DESCRIPTOR.fields
    if field.type == field.TYPE_STRING and field.name != "record_id"
]


def nasty_record(text: str, number: int) -> pb.UsageRecord:
    return make_record(
        record_id=text[:200] + str(number),
        labels={text[:1000]: text, "room_id": text},
        attempts=[pb.UsageAttempt(deployment=text, error_reason=text)],
        usage=TokenUsage(input_tokens=1, output_tokens=1, raw_json=text, extra_json=text),
        **dict.fromkeys(TEXT_FIELDS, text),
    )


async def test_metacharacters_in_every_string_field_stay_data(tmp_path: Path) -> None:
    records = [nasty_record(text, number) for number, text in enumerate(NASTY)]
    async with serving(tmp_path / "ledger.sqlite") as stub:
        response = await stub.RecordUsage(pb.RecordUsageRequest(records=records))
        assert (response.applied_count, response.duplicate_count) == (len(NASTY), 0)
        assert not response.rejected_records
        listed = {record.record_id: record for record in await list_all(stub, page_size=7)}
        again = await stub.RecordUsage(pb.RecordUsageRequest(records=records))
        assert again.duplicate_count == len(NASTY)
    for record in records:
        found = listed[record.record_id]
        record.unpriced = found.unpriced
        assert found == record
    assert TEXT_FIELDS  # the list is not empty by accident


@pytest.mark.parametrize("field", ["model", "key_id", "request_id"])
async def test_metacharacters_in_a_filter_match_only_themselves(tmp_path: Path, field: str) -> None:
    records = [nasty_record(text, number) for number, text in enumerate(NASTY)]
    async with serving(tmp_path / "ledger.sqlite") as stub:
        await stub.RecordUsage(pb.RecordUsageRequest(records=[*records, make_record()]))
        for record, text in zip(records, NASTY, strict=True):
            filters: dict[str, Any] = {field: text}
            found = await list_all(stub, **filters)
            assert [one.record_id for one in found] == [record.record_id]
        assert len(await list_all(stub)) == len(NASTY) + 1


async def test_metacharacters_are_summed_up_under_their_own_name(tmp_path: Path) -> None:
    records = [nasty_record(text, number) for number, text in enumerate(NASTY)]
    async with serving(tmp_path / "ledger.sqlite") as stub:
        await stub.RecordUsage(pb.RecordUsageRequest(records=records))
        for dimension in (pb.SUMMARY_DIMENSION_MODEL, pb.SUMMARY_DIMENSION_PROVIDER, pb.SUMMARY_DIMENSION_KEY):
            response = await stub.SummarizeUsage(pb.SummarizeUsageRequest(dimension=dimension))
            assert {summary.value: summary.record_count for summary in response.summaries} == dict.fromkeys(NASTY, 1)


@pytest.mark.parametrize("text", NASTY)
async def test_a_page_token_made_by_a_caller_is_data_too(tmp_path: Path, text: str) -> None:
    token = encode_page_token(PageKey(start_time_us=2**62, record_id=text))
    async with serving(tmp_path / "ledger.sqlite") as stub:
        await stub.RecordUsage(pb.RecordUsageRequest(records=[make_record()]))
        page = await stub.ListUsage(pb.ListUsageRequest(page_token=token))
        assert len(page.records) == 1
        assert len(await list_all(stub)) == 1


async def test_no_value_of_a_record_reaches_a_log_or_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "ledger.sqlite"
    caplog.set_level("DEBUG")
    secret = "sk-hunter2-do-not-print"
    records = [nasty_record(secret, 0), nasty_record(secret, 1)]
    records[1].outcome = pb.OUTCOME_UNSPECIFIED
    async with serving(path) as stub:
        await stub.RecordUsage(pb.RecordUsageRequest(records=records))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE usage_record")
            connection.commit()
        error = await _failure(stub, records)
    assert secret not in error
    assert secret not in caplog.text
    assert not any(secret in str(record.__dict__) for record in caplog.records)


async def _failure(stub: Stub, records: list[pb.UsageRecord]) -> str:
    error: Any = None
    try:
        await stub.RecordUsage(pb.RecordUsageRequest(records=records))
    except Exception as caught:  # noqa: BLE001 - whatever it is, it must not tell
        error = caught
    assert error is not None
    return f"{error!r} {error} {error.trailing_metadata()}"
