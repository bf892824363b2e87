"""The id of a request: the caller's when it is fit to be carried, else a new one. Every answer bears it."""

from __future__ import annotations

from collections.abc import Mapping

from services.runtime.telemetry import new_request_id, valid_request_id

__all__ = ["HEADERS", "choose_request_id"]

HEADERS = (b"x-request-id", b"x-api-request-log-id")
"""Where callers put their id, the first valid one wins."""


def choose_request_id(head: Mapping[bytes, bytes]) -> str:
    """Return the id to use for a request with these headers (names in lower case)."""
    for name in HEADERS:
        value = head.get(name)
        if value is not None:
            text = value.decode("latin-1")
            if valid_request_id(text):
                return text
    return new_request_id()
