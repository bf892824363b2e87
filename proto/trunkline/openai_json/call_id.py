"""Ids of tool calls, for upstreams that give none.

The one rule: an id follows from where the call stands, so that the same bytes always give the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

__all__ = ["MintCallId", "is_call_id", "mint_call_id"]

MintCallId = Callable[[str, int, int], str]
"""Makes an id from the reply's id, the number of the choice and the number of the call within it."""


def mint_call_id(reply_id: str, choice: int, position: int) -> str:
    """Return an id as unique as the reply's own, of characters that every wire format takes."""
    digest = hashlib.sha256(f"{reply_id}/{choice}/{position}".encode()).hexdigest()
    return f"call_{digest[:24]}"


def is_call_id(value: Any) -> bool:
    """Whether an upstream gave an id; some say "" and Mistral once said "null"."""
    return type(value) is str and value not in ("", "null")
