"""UsageService: records into the ledger, lists and sums out of it. Decode, call the ledger, encode."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.usage.ledger import Ledger, LedgerError
from services.usage.ledger_queries import Dimension, Filters, PageKey, Summary
from services.usage.ledger_row import Row, check_record, decode_record, encode_record, to_microseconds
from services.usage.page_token import decode_page_token, encode_page_token
from services.usage.price_book import PriceBook
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.usage.v1 import usage_service_pb2 as pb
from trunkline.usage.v1.usage_service_pb2_grpc import UsageServiceServicer

__all__ = ["UsageService"]

MAX_BATCH: Final = 1000
_DEFAULT_PAGE_SIZE: Final = 100
_MAX_PAGE_SIZE: Final = 1000
_MAX_SECONDS: Final = 253_402_300_800
_EPOCH: Final = datetime.date(1970, 1, 1)

# Encoding a record costs about 20 us; after so many the event loop gets to serve others, who then wait 0.2 ms at most.
_RECORDS_PER_TURN: Final = 8

_DIMENSIONS: Final[dict[int, Dimension]] = {
    pb.SUMMARY_DIMENSION_UNSPECIFIED: "",
    pb.SUMMARY_DIMENSION_MODEL: "model",
    pb.SUMMARY_DIMENSION_PROVIDER: "provider",
    pb.SUMMARY_DIMENSION_KEY: "key_id",
    pb.SUMMARY_DIMENSION_DAY: "day",
    pb.SUMMARY_DIMENSION_OUTCOME: "outcome",
}


class UsageService(UsageServiceServicer):
    """The servicer, over a ledger that is open and prices that are loaded before the first call."""

    def __init__(self, ledger: Ledger, prices: PriceBook) -> None:
        self._ledger = ledger
        self._prices = prices

    async def RecordUsage(self, request: pb.RecordUsageRequest, context: Any) -> pb.RecordUsageResponse:
        """Apply a batch once."""
        if len(request.records) > MAX_BATCH:
            raise _invalid(f"a batch holds at most {MAX_BATCH} records", "records")
        rows: list[Row] = []
        rejected: list[pb.RejectedRecord] = []
        for number, record in enumerate(request.records, 1):
            problem = check_record(record)
            if problem is None:
                rows.append(encode_record(record, self._prices.cost_nano_usd(record)))
            else:
                rejected.append(pb.RejectedRecord(record_id=record.record_id, message=problem))
            if number % _RECORDS_PER_TURN == 0:
                await asyncio.sleep(0)
        try:
            applied = await self._ledger.apply(rows) if rows else 0
        except LedgerError as error:
            raise _unavailable(error) from error
        return pb.RecordUsageResponse(
            applied_count=applied, duplicate_count=len(rows) - applied, rejected_records=rejected
        )

    async def ListUsage(self, request: pb.ListUsageRequest, context: Any) -> pb.ListUsageResponse:
        """Return a page, newest first."""
        size = _page_size(request.page_size)
        after = _page_key(request.page_token)
        start_us, end_us = _bounds(request)
        filters = Filters(
            start_us=start_us,
            end_us=end_us,
            request_id=request.request_id,
            model=request.model,
            key_id=request.key_id,
        )
        try:
            rows = await self._ledger.list_records(filters, limit=size + 1, after=after)
        except LedgerError as error:
            raise _unavailable(error) from error
        token = ""
        if len(rows) > size:
            last = rows[size - 1]
            token = encode_page_token(PageKey(start_time_us=last["start_time_us"], record_id=last["record_id"]))
        return pb.ListUsageResponse(records=map(decode_record, rows[:size]), next_page_token=token)

    async def SummarizeUsage(self, request: pb.SummarizeUsageRequest, context: Any) -> pb.SummarizeUsageResponse:
        """Return the sums by one dimension."""
        dimension = _DIMENSIONS.get(request.dimension)
        if dimension is None:
            raise _invalid("the dimension is not known", "dimension")
        start_us, end_us = _bounds(request)
        try:
            sums = await self._ledger.summarize(dimension, Filters(start_us=start_us, end_us=end_us))
        except LedgerError as error:
            raise _unavailable(error) from error
        return pb.SummarizeUsageResponse(summaries=[_encode_summary(one) for one in sums])


def _encode_summary(summary: Summary) -> pb.UsageSummary:
    value = summary.value
    if isinstance(value, int):
        value = (_EPOCH + datetime.timedelta(days=value)).isoformat()
    return pb.UsageSummary(
        value=value,
        record_count=summary.record_count,
        failed_count=summary.failed_count,
        input_tokens=summary.input_tokens,
        output_tokens=summary.output_tokens,
        cost_nano_usd=summary.cost_nano_usd,
        unpriced_count=summary.unpriced_count,
        estimated_count=summary.estimated_count,
    )


def _page_size(asked: int) -> int:
    if asked < 0:
        raise _invalid("a page cannot have less than no records", "page_size")
    return min(asked or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)


def _page_key(token: str) -> PageKey | None:
    try:
        return decode_page_token(token) if token else None
    except ValueError as error:
        raise _invalid(f"the page token cannot be used: {error}", "page_token") from error


def _bounds(request: pb.ListUsageRequest | pb.SummarizeUsageRequest) -> tuple[int | None, int | None]:
    start = _time_us(request.start_time, "start_time") if request.HasField("start_time") else None
    end = _time_us(request.end_time, "end_time") if request.HasField("end_time") else None
    return start, end


def _time_us(time: Timestamp, param: str) -> int:
    if not -_MAX_SECONDS < time.seconds < _MAX_SECONDS:
        raise _invalid("the time is out of range", param)
    return to_microseconds(time)


def _invalid(message: str, param: str) -> GatewayError:
    return GatewayError(error_reason_pb2.ERROR_REASON_INVALID_REQUEST, message, param=param)


def _unavailable(error: LedgerError) -> GatewayError:
    reason = error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE
    return GatewayError(reason, str(error), metadata={"service": "usage"})
