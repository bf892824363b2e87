"""Connection pools for tests, and the error of a call that is checked for what must never be in one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.providers.answers import Limits
from services.providers.dialects.base import HttpCall
from services.providers.transport import HttpPool
from tests.upstream import (
    chunked,
    sse_head,
)
from trunkline.errors import GatewayError

__all__ = ["CALL", "CUT_STREAM", "SECRET", "cancel", "failure_of", "pool_of", "read_stream", "soon"]

CALL = HttpCall(path="/chat/completions", body=b'{"secret-prompt":1}')


SECRET = "sk-very-secret"


CUT_STREAM = sse_head() + chunked(b"data: 1\n\n")


@asynccontextmanager
async def pool_of(url: str, tls: ssl.SSLContext | None = None, /, **changes: Any) -> AsyncIterator[HttpPool]:
    settings = Limits(**changes)
    pool = HttpPool("acme", f"{url}/v1", {"authorization": f"Bearer {SECRET}"}, settings, tls)
    try:
        yield pool
    finally:
        await pool.close()


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def read_stream(pool: HttpPool, deadline: float | None = None) -> bytes:
    """Return the whole body of a stream."""
    pieces = []
    async with pool.stream(CALL, deadline=deadline) as answer:
        while piece := await answer.read():
            pieces.append(piece)
    return b"".join(pieces)


async def failure_of(pool: HttpPool, *, stream: bool = False, deadline: float | None = None) -> GatewayError:
    """Return the error of a call, checked for what must never be in one."""
    with pytest.raises(GatewayError) as caught:
        await (read_stream(pool, deadline) if stream else pool.request(CALL, deadline=deadline))
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    shown = f"{error} {error.metadata}"
    assert "acme" in error.message
    assert error.metadata["provider"] == "acme"
    for hidden in (SECRET, "secret-prompt", "127.0.0.1", "http:"):
        assert hidden not in shown
    return error


async def cancel(task: asyncio.Task[GatewayError]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
