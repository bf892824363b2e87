"""The ledger's tables, in SQL that SQLite and PostgreSQL share. The one rule: this is the only definition of them.

Times are microseconds since 1970 in UTC, durations microseconds, money nano-USD: integers all. A NULL count was not
reported. Records are only ever inserted.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, Table, Text

__all__ = ["METADATA", "SCHEMA_VERSION", "TOKEN_COUNTS", "USAGE_RECORD", "VERSION"]

SCHEMA_VERSION: Final = 1

TOKEN_COUNTS: Final = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "input_cached_tokens",
    "input_cache_written_tokens",
    "input_cache_written_5m_tokens",
    "input_cache_written_1h_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "input_text_tokens",
    "output_reasoning_tokens",
    "output_audio_tokens",
    "output_image_tokens",
    "output_text_tokens",
    "output_accepted_prediction_tokens",
    "output_rejected_prediction_tokens",
    "web_search_requests",
)
"""The counts of inference.v1.TokenUsage: the columns bear the fields' names."""

METADATA: Final = MetaData()

VERSION: Final = Table("schema_version", METADATA, Column("version", Integer, nullable=False))

USAGE_RECORD: Final = Table(
    "usage_record",
    METADATA,
    Column("record_id", Text, primary_key=True),
    Column("start_time_us", BigInteger, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("labels_json", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("model", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("catalog", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("reply_id", Text, nullable=False),
    Column("service_tier", Text, nullable=False),
    Column("has_usage", Boolean, nullable=False),
    *(Column(name, BigInteger) for name in TOKEN_COUNTS),
    Column("upstream_cost_nano_usd", BigInteger),
    Column("estimated", Boolean, nullable=False),
    Column("usage_raw_json", Text, nullable=False),
    Column("usage_extra_json", Text, nullable=False),
    Column("cost_nano_usd", BigInteger),
    Column("unpriced", Boolean, nullable=False),
    Column("first_token_us", BigInteger),
    Column("total_us", BigInteger),
    Column("outcome", Text, nullable=False),
    Column("error_reason", Text, nullable=False),
    Column("finish_reason", Text, nullable=False),
    Column("attempts_json", Text, nullable=False),
    # The order in which pages are listed; and the filters that narrow most.
    Index("usage_record_by_time", "start_time_us", "record_id"),
    Index("usage_record_by_request", "request_id"),
    Index("usage_record_by_key", "key_id", "start_time_us", "record_id"),
    Index("usage_record_by_model", "model", "start_time_us", "record_id"),
)
