"""What a caller's metadata says beside its credential: labels for the usage record. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from services.router.validation import MAX_LABEL_VALUE_LENGTH, check_labels, invalid

__all__ = ["Metadata", "read_labels"]

Metadata = Mapping[str, str | bytes]

_LABEL_OF_KEY: Final = {
    "x-livekit-room-id": "room_id",
    "x-livekit-job-id": "job_id",
    "x-livekit-agent-id": "agent_id",
    "x-livekit-session-id": "session_id",
}

_LABEL_KEYS: Final = frozenset({*_LABEL_OF_KEY, "traceparent"})

# https://www.w3.org/TR/trace-context/#traceparent-header; what does not follow it is ignored, as that says.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]{0,180})?")


def read_labels(metadata: Metadata, given: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a request: those given with it, and over them those of its metadata.

    Raises INVALID_REQUEST for labels beyond the contract's limits.
    """
    labels: dict[str, str] = {}
    if given:
        check_labels(given)
        labels.update(given)
    if _LABEL_KEYS.isdisjoint(metadata):  # as most requests have none
        return labels
    for key, label in _LABEL_OF_KEY.items():
        value = metadata.get(key)
        if not value:
            continue
        if not isinstance(value, str) or len(value) > MAX_LABEL_VALUE_LENGTH or not value.isprintable():
            raise invalid(f"{key} has at most {MAX_LABEL_VALUE_LENGTH} printable characters", key)
        labels[label] = value
    trace = metadata.get("traceparent")
    if isinstance(trace, str) and _TRACEPARENT.fullmatch(trace):
        labels["traceparent"] = trace
    return labels
