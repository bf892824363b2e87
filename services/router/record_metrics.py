"""What the router counts of its requests, for /metrics: read off the usage record, so that both always agree."""

from __future__ import annotations

from typing import Final

from services.runtime.telemetry import Metrics
from trunkline.usage.v1.usage_service_pb2 import (
    OUTCOME_CLIENT_DISCONNECT,
    OUTCOME_COMPLETED,
    OUTCOME_FAILED,
    OUTCOME_TRUNCATED,
    UsageRecord,
)

__all__ = ["RecordMetrics"]

_ANSWERED: Final = "OK"

_OUTCOME_NAMES: Final = {
    OUTCOME_COMPLETED: "completed",
    OUTCOME_FAILED: "failed",
    OUTCOME_CLIENT_DISCONNECT: "client_disconnect",
    OUTCOME_TRUNCATED: "truncated",
}


class RecordMetrics:
    """Counts requests as they begin and, by their records, as they end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def begin(self, operation: str, model: str) -> None:
        """A request was admitted."""
        self._metrics.request(operation, model).begin()

    def end(self, record: UsageRecord, total_seconds: float, first_token_seconds: float | None) -> None:
        """Its record was made."""
        numbers = self._metrics.request(record.operation, record.model)
        numbers.end(_OUTCOME_NAMES[record.outcome], total_seconds, first_token_seconds)
        if record.HasField("usage"):
            used = record.usage
            numbers.add_tokens(
                used.input_tokens, used.output_tokens, used.input_cached_tokens, used.output_reasoning_tokens
            )
        for attempt in record.attempts:
            self._metrics.attempt(attempt.deployment, attempt.error_reason or _ANSWERED)
