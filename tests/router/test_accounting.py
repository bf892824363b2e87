"""The record of a request: written once, in every way a request can end, or the gateway refuses to go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.router.accounting import Accounting, RequestAccount
from services.router.attempt import Attempt, Attempts
from services.router.record_metrics import RecordMetrics
from services.router.routes import Deployment, Group, Plan
from services.runtime.journal import Journal
from services.runtime.telemetry import Metrics
from tests.router.scripted import TIMEOUT, TRUNCATED, closing, delta, make_chat, make_usage, opening
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.usage.v1 import usage_service_pb2
from trunkline.usage.v1.usage_service_pb2 import UsageRecord

DEPLOYMENT = Deployment(name="m/0", model="m", provider="p", catalog="c", upstream_model="u", weight=1.0)
GROUP = Group(model="m", deployments=(DEPLOYMENT,), excluded=(), max_attempts=1, first_token_timeout=None)
PLAN = Plan(model="m", matched="m", groups=(GROUP,), timeout=60.0)


def open_account(accounting: Accounting, *, seconds: float = 60.0) -> RequestAccount:
    attempts = Attempts(PLAN, time.monotonic() + seconds, draw=lambda: 0.0)
    return RequestAccount(
        accounting, request_id="r", key_id="k", labels={}, chat=make_chat("m"), streamed=True, attempts=attempts
    )


async def begin(account: RequestAccount) -> None:
    """Have an attempt that is under way."""

    async def ask(attempt: Attempt) -> str:
        return attempt.deployment.name

    await account.attempts.run(ask)


def records(journal: Journal) -> list[UsageRecord]:
    return [UsageRecord.FromString(record) for record in journal.read_batch().records]


def raise_(error: BaseException) -> None:
    raise error


ENDS: dict[str, tuple[Callable[[], None], str, str]] = {
    "well": (lambda: None, "COMPLETED", ""),
    "with an error": (lambda: raise_(GatewayError(TIMEOUT, "")), "FAILED", "UPSTREAM_TIMEOUT"),
    "truncated": (lambda: raise_(GatewayError(TRUNCATED, "")), "TRUNCATED", "STREAM_TRUNCATED"),
    "cancelled": (lambda: raise_(asyncio.CancelledError()), "CLIENT_DISCONNECT", "CALLER_CANCELLED"),
    "closed": (lambda: raise_(GeneratorExit()), "CLIENT_DISCONNECT", "CALLER_CANCELLED"),
    "with a bug": (lambda: raise_(ZeroDivisionError()), "FAILED", "INTERNAL"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_each_end_leaves_one_record(end: tuple[Callable[[], None], str, str], tmp_path: Path) -> None:
    finish, outcome, reason = end
    journal = Journal(tmp_path / "journal")
    account = open_account(Accounting(journal, RecordMetrics(Metrics())))
    await begin(account)
    if reason:
        with pytest.raises(BaseException), account:  # noqa: B017, PT011  # whatever it is passes through
            finish()
    else:
        with account:
            finish()
    with account:
        pass
    (record,) = records(journal)
    assert usage_service_pb2.Outcome.Name(record.outcome) == f"OUTCOME_{outcome}"
    assert record.error_reason == reason
    assert [attempt.error_reason for attempt in record.attempts] == [reason]
    journal.release_directory()


async def test_a_cancellation_at_the_deadline_is_a_timeout(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    account = open_account(Accounting(journal, RecordMetrics(Metrics())), seconds=0.001)
    await begin(account)
    with pytest.raises(asyncio.CancelledError), account:
        raise asyncio.CancelledError
    (record,) = records(journal)
    assert (record.outcome, record.error_reason) == (usage_service_pb2.OUTCOME_FAILED, "UPSTREAM_TIMEOUT")
    journal.release_directory()


CUT = GatewayError(error_reason_pb2.ERROR_REASON_CALLER_CANCELLED, "")
BROKEN = GatewayError(TRUNCATED, "")
FULL = make_usage(100, 5)


@pytest.mark.parametrize(
    ("reported", "content", "error", "expected"),
    [
        (None, 0, None, None),
        (None, 40, None, TokenUsage(input_tokens=10, output_tokens=10, estimated=True)),
        (None, 0, BROKEN, None),
        (None, 40, BROKEN, TokenUsage(input_tokens=10, output_tokens=10, estimated=True)),
        (None, 0, CUT, TokenUsage(input_tokens=10, output_tokens=0, estimated=True)),
        (FULL, 40, None, FULL),
        (FULL, 4, BROKEN, FULL),
        (FULL, 40, BROKEN, TokenUsage(input_tokens=100, output_tokens=10, estimated=True)),
        (FULL, 0, CUT, FULL),
        (
            TokenUsage(input_tokens=100, raw_json="{}"),
            40,
            None,
            TokenUsage(input_tokens=100, output_tokens=10, raw_json="{}", estimated=True),
        ),
        (TokenUsage(output_tokens=7), 40, None, TokenUsage(input_tokens=10, output_tokens=7, estimated=True)),
    ],
    ids=[
        "nothing",
        "complete, not reported",
        "broken before content",
        "broken after content, not reported",
        "left before content",
        "complete, reported",
        "broken, reported more than was forwarded",
        "broken, reported less than was forwarded",
        "left before content, reported",
        "complete, output not reported",
        "complete, input not reported",
    ],
)
async def test_what_is_recorded_as_used(
    reported: TokenUsage | None, content: int, error: GatewayError | None, expected: TokenUsage | None, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    account = open_account(Accounting(journal, RecordMetrics(Metrics())))
    await begin(account)
    account.meter.observe(opening())
    if reported is not None:
        account.meter.observe(closing(reported)[-1:])
    if content:
        account.meter.observe(delta("x" * content))
    try:
        with account:
            if error is CUT:
                raise asyncio.CancelledError
            if error is not None:
                raise error
    except (GatewayError, asyncio.CancelledError):
        pass
    (record,) = records(journal)
    assert (record.usage if record.HasField("usage") else None) == expected
    journal.release_directory()


async def test_the_reported_message_is_not_changed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    account = open_account(Accounting(journal, RecordMetrics(Metrics())))
    await begin(account)
    event = closing(make_usage(100, 1))[-1]
    account.meter.observe([*opening(), *delta("x" * 400), event])
    with pytest.raises(GatewayError), account:
        raise BROKEN
    assert event.usage_reported.usage == make_usage(100, 1)
    journal.release_directory()


async def answer_until_it_fails(accounting: Accounting) -> None:
    for _ in range(10):
        accounting.check()
        account = open_account(accounting)
        await begin(account)
        with account:
            pass


async def test_when_the_journal_is_full_the_request_fails_and_no_other_is_taken_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal", max_total_bytes=600)
    accounting = Accounting(journal, RecordMetrics(Metrics()))
    with pytest.raises(GatewayError) as raised:
        await answer_until_it_fails(accounting)
    assert raised.value.reason == error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE
    assert raised.value.metadata["service"] == "usage"
    assert "could not be written" in caplog.text
    with pytest.raises(GatewayError):
        accounting.check()
    first = journal.read_batch()
    journal.commit(first)
    accounting.check()
    second = journal.read_batch()
    ids = [UsageRecord.FromString(record).record_id for batch in (first, second) for record in batch.records]
    assert len(ids) == len(set(ids)) == len(first.records) + 1
    journal.commit(second)
    journal.release_directory()


async def test_a_full_journal_does_not_hide_the_requests_own_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", max_total_bytes=1)
    account = open_account(Accounting(journal, RecordMetrics(Metrics())))
    with pytest.raises(GatewayError) as raised, account:
        raise BROKEN
    assert raised.value is BROKEN
    journal.release_directory()


async def test_what_could_never_be_written_is_told_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "journal", max_total_bytes=1)
    accounting = Accounting(journal, RecordMetrics(Metrics()))
    with pytest.raises(GatewayError), open_account(accounting):
        pass
    accounting.close()
    assert "usage records are lost" in caplog.text
    journal.release_directory()


def test_record_ids_are_unique_and_sort_by_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    accountings = [Accounting(journal, RecordMetrics(Metrics())), Accounting(journal, RecordMetrics(Metrics()))]
    ids = [one.mint_record_id(number * 1_000_000) for number in range(100) for one in accountings]
    assert len(set(ids)) == 200
    assert [one[:12] for one in ids] == sorted(one[:12] for one in ids)
    assert ids[0::2] == sorted(ids[0::2])
    journal.release_directory()
