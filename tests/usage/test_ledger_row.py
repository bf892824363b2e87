"""Rows: what was recorded is read back equal, and nothing that a record can hold breaks a batch."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from services.usage.ledger_row import Row, check_record, decode_record, encode_record
from services.usage.ledger_schema import TOKEN_COUNTS, USAGE_RECORD
from services.usage.pricing import MAX_COUNT
from tests.usage.records import make_record
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.usage.v1 import usage_service_pb2 as pb

TEXT_FIELDS = [
    "request_id",
    "key_id",
    "operation",
    "model",
    "deployment",
    "provider",
    "catalog",
    "upstream_model",
    "reply_id",
    "service_tier",
    "error_reason",
    "finish_reason",
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
durations = st.integers(0, 10**15).map(lambda us: Duration(seconds=us // 10**6, nanos=us % 10**6 * 1000))
usages = st.builds(
    TokenUsage,
    **{name: st.none() | st.integers(0, MAX_COUNT) for name in TOKEN_COUNTS},
    upstream_cost_nano_usd=st.none() | st.integers(0, 10**16),
    estimated=st.booleans(),
    raw_json=texts,
    extra_json=texts,
)
records = st.builds(
    pb.UsageRecord,
    record_id=texts.filter(bool),
    **dict.fromkeys(TEXT_FIELDS, texts),
    labels=st.dictionaries(texts, texts, max_size=3),
    streamed=st.booleans(),
    usage=st.none() | usages,
    start_time=st.integers(0, 10**15).map(lambda us: Timestamp(seconds=us // 10**6, nanos=us % 10**6 * 1000)),
    first_token_duration=st.none() | durations,
    total_duration=st.none() | durations,
    outcome=st.sampled_from([outcome for outcome in pb.Outcome.values() if outcome]),
    attempts=st.lists(
        st.builds(pb.UsageAttempt, deployment=texts, error_reason=texts, total_duration=st.none() | durations),
        max_size=3,
    ),
)


def columns(row: Row) -> dict[str, Any]:
    return dict(zip((column.name for column in USAGE_RECORD.columns), row, strict=True))


@settings(deadline=None)  # the machine may be busy
@given(records, st.none() | st.integers(0, 10**16))
def test_a_record_is_read_back_equal(record: pb.UsageRecord, cost: int | None) -> None:
    assert check_record(record) is None
    expected = pb.UsageRecord()
    expected.CopyFrom(record)
    expected.unpriced = cost is None
    if cost is not None:
        expected.cost_nano_usd = cost
    assert decode_record(columns(encode_record(record, cost))) == expected


def test_every_field_of_a_record_and_of_token_usage_has_its_column() -> None:
    """Adding a field to the contract without a place in the ledger would lose it."""
    renamed = {
        "labels": "labels_json",
        "usage": "has_usage",
        "start_time": "start_time_us",
        "first_token_duration": "first_token_us",
        "total_duration": "total_us",
        "attempts": "attempts_json",
        "raw_json": "usage_raw_json",
        "extra_json": "usage_extra_json",
    }
    fields = [field.name for field in (*pb.UsageRecord.DESCRIPTOR.fields, *TokenUsage.DESCRIPTOR.fields)]
    assert sorted(renamed.get(name, name) for name in fields) == sorted(column.name for column in USAGE_RECORD.columns)


def test_absent_is_null_and_zero_is_zero() -> None:
    row = columns(encode_record(make_record(usage=TokenUsage(input_tokens=0)), 0))
    assert (row["input_tokens"], row["output_tokens"], row["cost_nano_usd"]) == (0, None, 0)
    row = columns(encode_record(make_record(usage=None), None))
    assert (row["has_usage"], row["input_tokens"], row["cost_nano_usd"], row["unpriced"]) == (False, None, None, True)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"record_id": ""}, "record_id is empty"),
        ({"record_id": "x" * 257}, "record_id is longer than 256 characters"),
        ({"start_time": None}, "start_time is absent"),
        ({"start_time": Timestamp(seconds=-1)}, "start_time is out of range"),
        ({"start_time": Timestamp(seconds=2**62)}, "start_time is out of range"),
        ({"outcome": pb.OUTCOME_UNSPECIFIED}, "outcome is not given"),
        ({"outcome": 99}, "outcome is not given"),
    ],
)
def test_what_can_never_be_applied_is_said(fields: dict[str, Any], problem: str) -> None:
    assert check_record(make_record(**fields)) == problem


def test_numbers_that_cannot_be_true_become_absent_and_break_nothing() -> None:
    record = make_record(
        usage=TokenUsage(input_tokens=-1, output_tokens=2**63 - 1, upstream_cost_nano_usd=-(2**63), raw_json="{}"),
        first_token_duration=Duration(seconds=2**62),
        total_duration=Duration(seconds=-5),
        attempts=[pb.UsageAttempt(deployment="d", total_duration=Duration(seconds=2**62))],
    )
    row = columns(encode_record(record, None))
    for name in ("input_tokens", "output_tokens", "upstream_cost_nano_usd", "first_token_us", "total_us"):
        assert row[name] is None
    assert row["usage_raw_json"] == "{}"
    assert not decode_record(row).attempts[0].HasField("total_duration")
