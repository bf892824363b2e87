"""Page tokens: where a list goes on, in a form that clients pass back and do not read."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from services.usage.ledger_queries import PageKey

__all__ = ["decode_page_token", "encode_page_token"]

_MAX_TIME_US: Final = 2**63 - 1
_REASON: Final = "it is not one that a list returned"


def encode_page_token(key: PageKey) -> str:
    """Return the token of the place behind a record."""
    return base64.urlsafe_b64encode(msgspec.json.encode([key.start_time_us, key.record_id])).decode().rstrip("=")


def decode_page_token(token: str) -> PageKey:
    """Return the place of a token. Raises ValueError for what encode_page_token did not make."""
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        start_time_us, record_id = msgspec.json.decode(data, type=tuple[int, str])
    except (binascii.Error, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise ValueError(_REASON) from error
    if abs(start_time_us) > _MAX_TIME_US:
        raise ValueError(_REASON)
    return PageKey(start_time_us=start_time_us, record_id=record_id)
