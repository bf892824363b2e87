"""Streams opened by hand, for what wrk cannot see: the time to the first token, and the memory of open streams."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Final

from benchmarks.rig import MASTER_KEY

_FIRST_CONTENT: Final = b'"content":" token"'


def _request(body: str) -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {MASTER_KEY}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def _first_token_ms(port: int, body: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = time.perf_counter()
    writer.write(_request(body))
    seen = b""
    while _FIRST_CONTENT not in seen:
        piece = await reader.read(65536)
        if not piece:
            raise ConnectionError(f"the stream ended before its first token: {seen[:200]!r}")
        seen += piece
    elapsed = time.perf_counter() - start
    writer.close()
    await writer.wait_closed()
    return elapsed * 1e3


async def first_token_median_ms(port: int, body: str, rounds: int = 200) -> float:
    """Return the median time from request to first token, one stream after the other."""
    return statistics.median([await _first_token_ms(port, body) for _ in range(rounds)])


async def open_streams(port: int, body: str, count: int) -> list[asyncio.StreamWriter]:
    """Open streams that stay open, and return their writers once each has its first token."""

    async def one() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request(body))
        seen = b""
        while _FIRST_CONTENT not in seen:
            piece = await reader.read(65536)
            if not piece:
                raise ConnectionError(f"a stream ended early: {seen[:200]!r}")
            seen += piece
        return writer

    writers: list[asyncio.StreamWriter] = []
    for _ in range(0, count, 50):
        writers += await asyncio.gather(*(one() for _ in range(50)))
    return writers
