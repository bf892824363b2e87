"""UsageService over a local channel and over a socket: each record once, priced, listed, added up."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.runtime.config import ConfigError
from services.runtime.local import LocalServer
from services.usage.config import PriceEntry, UsageConfig
from services.usage.ledger_queries import PageKey
from services.usage.page_token import decode_page_token, encode_page_token
from services.usage.server import register
from tests.usage.records import MIDNIGHT, Stub, list_all, make_record, serving
from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.usage.v1 import usage_service_pb2 as pb


@pytest.fixture(params=["local", "unix"])
async def stub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stub]:
    async with serving(tmp_path / "ledger.sqlite", transport=request.param) as stub:
        yield stub


async def failure(call: Any) -> GatewayError:
    """Return the error that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


# -- recording --------------------------------------------------------------------------------------------------------


async def test_a_batch_is_applied_once_however_often_it_is_sent(stub: Stub) -> None:
    request = pb.RecordUsageRequest(records=[make_record() for _ in range(10)])
    first = await stub.RecordUsage(request)
    assert (first.applied_count, first.duplicate_count, len(first.rejected_records)) == (10, 0, 0)
    again = await stub.RecordUsage(request)
    assert (again.applied_count, again.duplicate_count) == (0, 10)
    assert len(await list_all(stub)) == 10


async def test_overlapping_batches_at_once_count_each_record_once(stub: Stub) -> None:
    records = [make_record() for _ in range(300)]
    chance = random.Random(3)
    batches = [chance.sample(records, 60) for _ in range(30)] + [records]
    responses = await asyncio.gather(*(stub.RecordUsage(pb.RecordUsageRequest(records=batch)) for batch in batches))
    assert sum(response.applied_count for response in responses) == 300
    assert sum(response.duplicate_count for response in responses) == 30 * 60
    assert sorted(record.record_id for record in await list_all(stub)) == sorted(record.record_id for record in records)


async def test_a_record_that_can_never_be_applied_holds_up_no_other(stub: Stub) -> None:
    records = [make_record(), make_record(record_id=""), make_record(outcome=0), make_record()]
    response = await stub.RecordUsage(pb.RecordUsageRequest(records=records))
    assert (response.applied_count, response.duplicate_count) == (2, 0)
    assert [(rejected.record_id, rejected.message) for rejected in response.rejected_records] == [
        ("", "record_id is empty"),
        (records[2].record_id, "outcome is not given"),
    ]


async def test_an_empty_batch_and_one_that_is_all_wrong_are_no_error(stub: Stub) -> None:
    assert await stub.RecordUsage(pb.RecordUsageRequest()) == pb.RecordUsageResponse()
    response = await stub.RecordUsage(pb.RecordUsageRequest(records=[make_record(record_id="")]))
    assert (response.applied_count, len(response.rejected_records)) == (0, 1)


async def test_a_batch_of_more_than_a_thousand_is_refused(stub: Stub) -> None:
    record = make_record()
    error = await failure(stub.RecordUsage(pb.RecordUsageRequest(records=[record] * 1001)))
    assert (error.reason, error.param) == (reasons.ERROR_REASON_INVALID_REQUEST, "records")
    response = await stub.RecordUsage(pb.RecordUsageRequest(records=[record] * 1000))
    assert (response.applied_count, response.duplicate_count) == (1, 999)


async def test_a_record_is_not_changed_by_being_recorded(stub: Stub) -> None:
    record = make_record()
    before = record.SerializeToString(deterministic=True)
    await stub.RecordUsage(pb.RecordUsageRequest(records=[record]))
    assert record.SerializeToString(deterministic=True) == before


async def test_cost_is_the_ledgers_word_and_unpriced_is_marked(stub: Stub) -> None:
    priced = make_record(unpriced=True, cost_nano_usd=1)
    unknown = make_record(upstream_model="nobody-knows-it", cost_nano_usd=1)
    demo = make_record(provider="demo", catalog="demo", upstream_model="echo")
    nothing_used = make_record(outcome=pb.OUTCOME_FAILED, error_reason="UPSTREAM_TIMEOUT", usage=None)
    await stub.RecordUsage(pb.RecordUsageRequest(records=[priced, unknown, demo, nothing_used]))
    listed = {record.record_id: record for record in await list_all(stub)}
    assert listed[priced.record_id].cost_nano_usd == 1000 * 2_500 + 100 * 10_000
    assert not listed[priced.record_id].unpriced
    assert listed[unknown.record_id].unpriced
    assert not listed[unknown.record_id].HasField("cost_nano_usd")
    for free in (demo, nothing_used):
        assert listed[free.record_id].HasField("cost_nano_usd")
        assert (listed[free.record_id].cost_nano_usd, listed[free.record_id].unpriced) == (0, False)


async def test_configured_prices_are_used(tmp_path: Path) -> None:
    price = PriceEntry(input_per_million_usd=Decimal("0.15"), output_per_million_usd=Decimal(1))
    config = UsageConfig(prices={"local/llama": price})
    async with serving(tmp_path / "ledger.sqlite", config=config) as stub:
        record = make_record(provider="local", catalog="openai_compatible", upstream_model="llama")
        await stub.RecordUsage(pb.RecordUsageRequest(records=[record]))
        (listed,) = await list_all(stub)
    assert listed.cost_nano_usd == 1000 * 150 + 100 * 1000


async def test_everything_recorded_is_listed_again(stub: Stub) -> None:
    record = make_record(
        labels={"room_id": "r1", "traceparent": "00-aa-bb-01"},
        streamed=True,
        reply_id="chatcmpl-1",
        service_tier="default",
        finish_reason="stop",
        usage=TokenUsage(
            input_tokens=7,
            output_tokens=0,
            input_cached_tokens=3,
            estimated=True,
            raw_json='{"b":1,"a":1.0}',
            extra_json='{"cost":0.5}',
        ),
        first_token_duration={"nanos": 250_000_000},
        total_duration={"seconds": 1, "nanos": 5_000},
        attempts=[
            pb.UsageAttempt(deployment="a/0", error_reason="UPSTREAM_TIMEOUT", total_duration=Duration(nanos=1000)),
            pb.UsageAttempt(deployment="gpt-4o/0"),
        ],
    )
    await stub.RecordUsage(pb.RecordUsageRequest(records=[record]))
    (listed,) = await list_all(stub)
    record.cost_nano_usd = listed.cost_nano_usd
    assert listed == record


async def test_a_ledger_that_cannot_be_written_fails_the_batch_and_takes_it_later(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    request = pb.RecordUsageRequest(records=[make_record() for _ in range(3)])
    local = LocalServer()
    usage = register(local, UsageConfig(database=path))
    await usage.start()
    with usage._ledger._write_engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(GatewayError) as caught:
        await usage._servicer.RecordUsage(request, None)
    assert caught.value.reason == reasons.ERROR_REASON_SERVICE_UNAVAILABLE
    assert caught.value.metadata == {"service": "usage"}
    assert "readonly" in caught.value.message
    with usage._ledger._write_engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=OFF")
    assert (await usage._servicer.RecordUsage(request, None)).applied_count == 3
    await usage.close()


async def test_the_loop_is_not_held_while_a_large_batch_is_encoded(tmp_path: Path) -> None:
    async with serving(tmp_path / "ledger.sqlite") as stub:
        request = pb.RecordUsageRequest(records=[make_record() for _ in range(1000)])
        turns = 0
        recording = asyncio.create_task(_record(stub, request))
        while not recording.done():
            turns += 1
            await asyncio.sleep(0)
        assert (await recording).applied_count == 1000
    assert turns > 20


async def _record(stub: Stub, request: pb.RecordUsageRequest) -> pb.RecordUsageResponse:
    return await stub.RecordUsage(request)


# -- listing ----------------------------------------------------------------------------------------------------------


async def test_pages_are_newest_first_and_end(stub: Stub) -> None:
    records = [make_record() for _ in range(25)]
    await stub.RecordUsage(pb.RecordUsageRequest(records=records))
    page = await stub.ListUsage(pb.ListUsageRequest(page_size=10))
    assert len(page.records) == 10
    assert page.next_page_token
    listed = [record.record_id for record in await list_all(stub, page_size=10)]
    assert listed == [record.record_id for record in reversed(records)]
    exactly = await stub.ListUsage(pb.ListUsageRequest(page_size=25))
    assert not exactly.next_page_token


@pytest.mark.parametrize(("asked", "given"), [(0, 100), (1, 1), (1000, 1000), (5000, 1000)])
async def test_page_sizes(tmp_path: Path, asked: int, given: int) -> None:
    async with serving(tmp_path / "ledger.sqlite") as stub:
        for _ in range(2):
            await stub.RecordUsage(pb.RecordUsageRequest(records=[make_record() for _ in range(600)]))
        assert len((await stub.ListUsage(pb.ListUsageRequest(page_size=asked))).records) == given


async def test_filters_reach_the_ledger(stub: Stub) -> None:
    wanted = make_record(model="m1", key_id="k1", request_id="q1")
    await stub.RecordUsage(pb.RecordUsageRequest(records=[wanted, make_record()]))
    for filters in (
        {"model": "m1"},
        {"key_id": "k1"},
        {"request_id": "q1"},
        {"start_time": wanted.start_time, "end_time": Timestamp(seconds=wanted.start_time.seconds + 1)},
    ):
        assert [record.record_id for record in await list_all(stub, **filters)] == [wanted.record_id]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"page_token": "rubbish"}, "page_token"),
        ({"page_token": "WzEsMl0"}, "page_token"),
        ({"page_token": "\u00e9"}, "page_token"),
        ({"page_token": "W" * 10_000}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b'[99999999999999999999999,"a"]').decode()}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b'[9999999999999999999,"a"]').decode()}, "page_token"),
        ({"page_size": -1}, "page_size"),
        ({"start_time": Timestamp(seconds=2**62)}, "start_time"),
        ({"end_time": Timestamp(seconds=-(2**62))}, "end_time"),
    ],
)
async def test_what_does_not_parse_is_refused_by_name(stub: Stub, fields: dict[str, Any], param: str) -> None:
    error = await failure(stub.ListUsage(pb.ListUsageRequest(**fields)))
    assert (error.reason, error.param) == (reasons.ERROR_REASON_INVALID_REQUEST, param)


@pytest.mark.parametrize("record_id", ["a", "\u00e9'; --", "x" * 256])
def test_a_page_token_is_read_back(record_id: str) -> None:
    key = PageKey(start_time_us=17, record_id=record_id)
    assert decode_page_token(encode_page_token(key)) == key


# -- adding up --------------------------------------------------------------------------------------------------------


async def test_sums_by_every_dimension(stub: Stub) -> None:
    await stub.RecordUsage(
        pb.RecordUsageRequest(
            records=[
                make_record(),
                make_record(upstream_model="nobody-knows-it"),
                make_record(outcome=pb.OUTCOME_CLIENT_DISCONNECT, usage=TokenUsage(input_tokens=1, estimated=True)),
            ]
        )
    )
    cost = 1000 * 2_500 + 100 * 10_000 + 2_500
    values = {
        pb.SUMMARY_DIMENSION_UNSPECIFIED: [""],
        pb.SUMMARY_DIMENSION_MODEL: ["gpt-4o"],
        pb.SUMMARY_DIMENSION_PROVIDER: ["openai"],
        pb.SUMMARY_DIMENSION_KEY: ["master"],
        pb.SUMMARY_DIMENSION_DAY: ["2026-10-31"],
        pb.SUMMARY_DIMENSION_OUTCOME: ["client_disconnect", "completed"],
    }
    assert set(values) == set(pb.SummaryDimension.values())
    for dimension, expected in values.items():
        response = await stub.SummarizeUsage(pb.SummarizeUsageRequest(dimension=dimension))
        assert [summary.value for summary in response.summaries] == expected
        assert sum(summary.record_count for summary in response.summaries) == 3
        assert sum(summary.failed_count for summary in response.summaries) == 1
        assert sum(summary.input_tokens for summary in response.summaries) == 2001
        assert sum(summary.output_tokens for summary in response.summaries) == 200
        assert sum(summary.cost_nano_usd for summary in response.summaries) == cost
        assert sum(summary.unpriced_count for summary in response.summaries) == 1
        assert sum(summary.estimated_count for summary in response.summaries) == 1


async def test_an_unknown_dimension_and_a_bad_time_are_refused_by_name(stub: Stub) -> None:
    unknown: Any = 99
    request = pb.SummarizeUsageRequest(dimension=unknown)
    assert (await failure(stub.SummarizeUsage(request))).param == "dimension"
    request = pb.SummarizeUsageRequest(start_time=Timestamp(seconds=2**62))
    assert (await failure(stub.SummarizeUsage(request))).param == "start_time"


async def test_sums_over_a_range(stub: Stub) -> None:
    early = make_record(start_time=Timestamp(seconds=MIDNIGHT - 1))
    await stub.RecordUsage(pb.RecordUsageRequest(records=[early, make_record()]))
    request = pb.SummarizeUsageRequest(dimension=pb.SUMMARY_DIMENSION_DAY, end_time=Timestamp(seconds=MIDNIGHT))
    response = await stub.SummarizeUsage(request)
    assert [(summary.value, summary.record_count) for summary in response.summaries] == [("2026-10-30", 1)]


# -- starting ---------------------------------------------------------------------------------------------------------


async def test_a_ledger_that_cannot_be_opened_stops_the_start_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 1000)
    usage = register(LocalServer(), UsageConfig(database=path))
    with pytest.raises(ConfigError, match=r"usage\.database: the ledger .*ledger\.sqlite cannot be opened"):
        await usage.start()
    await usage.close()
    await usage.close()


async def test_the_service_can_be_served_twice(tmp_path: Path) -> None:
    first, second = LocalServer(), LocalServer()
    usage = register(first, UsageConfig(database=tmp_path / "ledger.sqlite"))
    usage.add_to(second)
    await usage.start()
    path = "/trunkline.usage.v1.UsageService/ListUsage"
    assert first.unary_handler(path) is not None
    assert second.unary_handler(path) is not None
    await usage.close()
