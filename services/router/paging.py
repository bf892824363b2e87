"""Pages of a list sorted by name. Pure. A token holds the last name of a page: the list may change in between."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from services.router.validation import invalid

__all__ = ["take_page"]

MAX_PAGE_SIZE: Final = 1000
_TOKEN_PREFIX: Final = b"after:"

_T = TypeVar("_T")


def take_page(
    items: Sequence[_T], *, name: Callable[[_T], str], page_size: int, page_token: str
) -> tuple[Sequence[_T], str]:
    """Return a page of items that are sorted by their unique names, and the token of the next; "" after the last.

    Raises INVALID_REQUEST for a negative size and for a token that is not one of ours.
    """
    if page_size < 0:
        raise invalid("must not be negative", "page_size")
    size = min(page_size or MAX_PAGE_SIZE, MAX_PAGE_SIZE)
    start = bisect_right(items, _decode(page_token), key=name) if page_token else 0
    page = items[start : start + size]
    has_more = start + size < len(items)
    return page, _encode(name(page[-1])) if has_more else ""


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(_TOKEN_PREFIX + name.encode()).decode()


def _decode(token: str) -> str:
    try:
        decoded = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        if decoded.startswith(_TOKEN_PREFIX):
            return decoded.removeprefix(_TOKEN_PREFIX).decode()
    except (binascii.Error, UnicodeError):
        pass
    raise invalid("is not a token of this list", "page_token")
