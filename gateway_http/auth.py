"""What of a request's head goes to the router: the credential and the labels. The router decides; the front carries.

A value that gRPC metadata cannot hold (control characters, beyond ASCII, too long) is left out, so that the router sees
a call without it: no credential is then the router's 401.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["CREDENTIALS", "LABELS", "Metadata", "call_metadata"]

Metadata = tuple[tuple[str, str], ...]

# Proxies and SDKs of other APIs spell the same key differently; `authorization` wins when several are given.
_KEY_ALIASES: Final = (b"api-key", b"x-api-key")
CREDENTIALS: Final = (b"authorization", *_KEY_ALIASES)

LABELS: Final = (
    b"traceparent",
    b"x-livekit-room-id",
    b"x-livekit-job-id",
    b"x-livekit-agent-id",
    b"x-livekit-session-id",
)
_NAMES: Final = {name: name.decode() for name in LABELS}
_LABELS: Final = frozenset(LABELS)

# gRPC refuses metadata over 8 KiB as a whole; a label is at most what a usage record keeps.
_MAX_CREDENTIAL: Final = 6144
_MAX_LABEL: Final = 256


def call_metadata(head: Mapping[bytes, bytes], request_id: str) -> Metadata:
    """Return the metadata of the router call for a request with these headers (names in lower case)."""
    metadata = [("x-request-id", request_id)]
    credential = _credential(head)
    if credential is not None:
        metadata.append(("authorization", credential))
    if _LABELS.isdisjoint(head):  # as most requests have none
        return tuple(metadata)
    for name in LABELS:
        value = head.get(name)
        if value is not None:
            text = _carried(value, _MAX_LABEL)
            if text:
                metadata.append((_NAMES[name], text))
    return tuple(metadata)


def _credential(head: Mapping[bytes, bytes]) -> str | None:
    value = head.get(b"authorization")
    if value is not None:
        return _carried(value, _MAX_CREDENTIAL)
    for name in _KEY_ALIASES:
        value = head.get(name)
        if value is not None:
            key = _carried(value, _MAX_CREDENTIAL)
            return None if key is None else f"Bearer {key}"
    return None


def _carried(value: bytes, longest: int) -> str | None:
    """Return the value as metadata text, or None when metadata cannot hold it."""
    if len(value) > longest or not value.isascii():
        return None
    text = value.decode("ascii")
    return text if text.isprintable() else None
