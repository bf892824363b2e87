"""One usage record for each request, written to the journal before the caller sees the end of its answer.

What leaves a record: every request of an authenticated caller that is valid and names a model there is, however it
ends. What leaves none: a request that was refused before that, for nothing was used and nobody was asked.
A record is written once, by leaving the request's `with` block; that writes without awaiting, so cancelling a request
or closing its stream cannot skip it. When the journal cannot be written, requests are refused, not given away.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from types import TracebackType
from typing import Final, Protocol, Self

from google.protobuf.duration_pb2 import Duration

from services.router.attempt import Attempts
from services.router.meter import AnswerMeter, settle_usage
from services.router.record_metrics import RecordMetrics
from services.router.routes import Deployment
from services.runtime.journal import JournalError
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1.chat_pb2 import Chat
from trunkline.usage.v1 import usage_service_pb2
from trunkline.usage.v1.usage_service_pb2 import UsageRecord

__all__ = ["Accounting", "RecordJournal", "RequestAccount"]

_LOG = logging.getLogger(__name__)

_NANOS: Final = 1_000_000_000

_OPERATION: Final = "chat"

_NOBODY: Final = Deployment(name="", model="", provider="", catalog="", upstream_model="", weight=0.0)

# Seconds by which an event loop's clock, which ends calls whose deadline has come, may be ahead of time.monotonic.
_CLOCK_GRAIN: Final = 0.005

_OUTCOME_OF_REASON: Final = {
    error_reason_pb2.ERROR_REASON_CALLER_CANCELLED: usage_service_pb2.OUTCOME_CLIENT_DISCONNECT,
    error_reason_pb2.ERROR_REASON_STREAM_TRUNCATED: usage_service_pb2.OUTCOME_TRUNCATED,
}


class RecordJournal(Protocol):
    """The part of a journal that accounting needs."""

    def append(self, record: bytes) -> int:
        """Write a record. Raises JournalError when it cannot be kept."""
        ...


class Accounting:
    """Writes the records of requests to the journal."""

    def __init__(self, journal: RecordJournal, metrics: RecordMetrics) -> None:
        self._journal = journal
        self.metrics = metrics
        self._unwritten: list[bytes] = []
        self._counter = itertools.count()
        # Tells processes apart that share a millisecond and a count.
        self._process = secrets.token_hex(6)

    @property
    def is_able(self) -> bool:
        """Whether records can be written, as far as is known."""
        return not self._unwritten

    def check(self) -> None:
        """Raise SERVICE_UNAVAILABLE when records cannot be written at present. Called before a request is admitted."""
        if self._unwritten:
            self._write_late()

    def mint_record_id(self, time_ns: int) -> str:
        """Return a new id, 32 hexadecimal digits: milliseconds since 1970, a count, the process. They sort by time."""
        return f"{time_ns // 1_000_000:012x}{next(self._counter) & 0xFFFFFFFF:08x}{self._process}"

    def write(self, record: UsageRecord) -> None:
        """Append a record to the journal. Raises SERVICE_UNAVAILABLE when that is not possible now.

        Such a record is kept and written as soon as it can be; until then `check` refuses new requests, so that no more
        of them wait than were under way.
        """
        data = record.SerializeToString()
        try:
            self._journal.append(data)
        except JournalError as error:
            self._unwritten.append(data)
            _LOG.critical(
                "a usage record of %d and %d tokens could not be written: %s",
                record.usage.input_tokens,
                record.usage.output_tokens,
                error,
                extra={"record_id": record.record_id, "deployment": record.deployment},
            )
            raise _cannot_record() from error

    def close(self) -> None:
        """Try once more to write what could not be written, before the journal is closed."""
        if self._unwritten:
            try:
                self._write_late()
            except GatewayError:
                _LOG.critical("usage records are lost", extra={"count": len(self._unwritten)})
                self._unwritten.clear()

    def _write_late(self) -> None:
        while self._unwritten:
            try:
                self._journal.append(self._unwritten[0])
            except JournalError as error:
                raise _cannot_record() from error
            del self._unwritten[0]
        _LOG.warning("usage records can be written again")


def _cannot_record() -> GatewayError:
    return GatewayError(
        error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE,
        "the gateway cannot record what is used",
        metadata={"service": "usage"},
    )


class RequestAccount:
    """What is known of one request until its record is written. Use it as `with account:` around the answering."""

    __slots__ = (
        "_accounting",
        "_chat",
        "_closed",
        "_first_content",
        "_key_id",
        "_labels",
        "_start",
        "_start_ns",
        "_streamed",
        "attempts",
        "meter",
        "request_id",
    )

    def __init__(
        self,
        accounting: Accounting,
        *,
        request_id: str,
        key_id: str,
        labels: dict[str, str],
        chat: Chat,
        streamed: bool,
        attempts: Attempts,
    ) -> None:
        self._accounting = accounting
        self.request_id = request_id
        self._key_id = key_id
        self._labels = labels
        self._chat = chat
        self._streamed = streamed
        self.attempts = attempts
        self.meter = AnswerMeter()
        """Of the attempt that runs."""
        self._start_ns = time.time_ns()
        self._start = time.monotonic()
        self._first_content: float | None = None
        self._closed = False

    def note_content(self) -> None:
        """The first content has come."""
        self._first_content = time.monotonic()

    def __enter__(self) -> Self:
        self._accounting.metrics.begin(_OPERATION, self._chat.model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write the record. Raises SERVICE_UNAVAILABLE, unless there is another error to raise already."""
        if error is None:
            self._close(None)
            return
        try:
            self._close(self._reason_of(error))
        except GatewayError:
            # Logged where it arose; the error under way says more to the caller.
            return

    def _reason_of(self, error: BaseException) -> GatewayError:
        if isinstance(error, GatewayError):
            return error
        if not isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            return GatewayError(error_reason_pb2.ERROR_REASON_INTERNAL, "internal error")
        if time.monotonic() >= self.attempts.deadline - _CLOCK_GRAIN:
            # The server cancels the handler of a call whose deadline passed, as it does for a caller that left.
            return GatewayError(error_reason_pb2.ERROR_REASON_UPSTREAM_TIMEOUT, "the deadline passed")
        return GatewayError(error_reason_pb2.ERROR_REASON_CALLER_CANCELLED, "the caller went away")

    def _close(self, error: GatewayError | None) -> None:
        if self._closed:
            return
        self._closed = True
        log = self.attempts.log
        was_under_way = bool(log) and log[-1].end is None
        self.attempts.finish(error)
        now = time.monotonic()
        outcome = usage_service_pb2.OUTCOME_COMPLETED
        if error is not None:
            outcome = _OUTCOME_OF_REASON.get(error.reason, usage_service_pb2.OUTCOME_FAILED)
        meter = self.meter
        record = self._begin_record(log[-1].deployment if log else _NOBODY)
        record.outcome = outcome
        if error is not None:
            record.error_reason = error.name
        was_cut_by_caller = was_under_way and outcome == usage_service_pb2.OUTCOME_CLIENT_DISCONNECT
        usage = settle_usage(self._chat, meter, completed=error is None, was_cut_by_caller=was_cut_by_caller)
        if usage is not None:
            record.usage.CopyFrom(usage)
        self._set_times(record, now)
        first = None if self._first_content is None else self._first_content - self._start
        self._accounting.metrics.end(record, now - self._start, first)
        self._accounting.write(record)

    def _begin_record(self, last: Deployment) -> UsageRecord:
        """Return a record of all but how the request ended. `last` was asked last."""
        # Set in place: 1.0 us, where the constructor with the same as keywords takes 1.7.
        record = UsageRecord()
        record.record_id = self._accounting.mint_record_id(self._start_ns)
        record.request_id = self.request_id
        record.key_id = self._key_id
        if self._labels:
            record.labels.update(self._labels)
        record.operation = _OPERATION
        record.streamed = self._streamed
        record.model = self._chat.model
        record.deployment = last.name
        record.provider = last.provider
        record.catalog = last.catalog
        record.upstream_model = last.upstream_model
        meter = self.meter
        record.reply_id = meter.reply_id
        record.service_tier = meter.service_tier
        record.finish_reason = meter.finish_reason
        return record

    def _set_times(self, record: UsageRecord, now: float) -> None:
        # Set in place: 4.3 us for the whole record, where passing new messages to its constructor costs 7.4.
        start = record.start_time
        start.seconds, start.nanos = divmod(self._start_ns, _NANOS)
        if self._first_content is not None:
            _set_duration(record.first_token_duration, self._first_content - self._start)
        _set_duration(record.total_duration, now - self._start)
        for attempt in self.attempts.log:
            added = record.attempts.add(deployment=attempt.deployment.name)
            if attempt.error is not None:
                added.error_reason = attempt.error.name
            _set_duration(added.total_duration, (attempt.end or now) - attempt.start)


def _set_duration(duration: Duration, seconds: float) -> None:
    if seconds > 0:
        duration.seconds, duration.nanos = divmod(int(seconds * _NANOS), _NANOS)
    else:
        duration.SetInParent()  # present, and 0
