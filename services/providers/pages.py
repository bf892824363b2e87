"""Pages of a sorted list of names. A token is the last name of the page before, so it stays valid as the list grows."""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["page_of"]

_LARGEST: Final = 1000
_PREFIX: Final = b"after:"


def page_of(names: Sequence[str], page_size: int, page_token: str) -> tuple[Sequence[str], str]:
    """Return a page of sorted names and the token of the next, "" after the last. Raises INVALID_REQUEST."""
    if page_size < 0:
        raise _invalid("page_size", "The page size is negative.")
    start = bisect_right(names, _decode(page_token)) if page_token else 0
    stop = start + (min(page_size, _LARGEST) or _LARGEST)
    page = names[start:stop]
    token = base64.urlsafe_b64encode(_PREFIX + page[-1].encode()).decode() if stop < len(names) else ""
    return page, token


def _decode(token: str) -> str:
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True)
        if text.startswith(_PREFIX):
            return text.removeprefix(_PREFIX).decode()
    except ValueError:  # binascii.Error and UnicodeDecodeError are both
        pass
    raise _invalid("page_token", "The page token is not one of this service.")


def _invalid(param: str, message: str) -> GatewayError:
    return GatewayError(error_reason_pb2.ERROR_REASON_INVALID_REQUEST, message, param=param)
