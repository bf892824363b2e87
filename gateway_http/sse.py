"""Server-sent events as OpenAI's clients read them: `data:` lines and comments, never `id:` or `event:`.

The rule: the head is sent with the first byte and not before, so that a failure until then keeps its true status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from gateway_http.exchange import Exchange

__all__ = ["DONE", "EventStream", "frame"]

DONE: Final = b"data: [DONE]\n\n"
_PING: Final = b": ping\n\n"


def frame(documents: Sequence[bytes]) -> bytes:
    """Return JSON documents (without newlines) as events, to be written at once."""
    if len(documents) == 1:
        return b"data: %b\n\n" % documents[0]
    return b"".join([b"data: %b\n\n" % document for document in documents])


class EventStream:
    """The answer of a streaming route; a Heart for its Watch."""

    __slots__ = ("_exchange", "_interval", "_last_write", "_send", "_time")

    def __init__(self, exchange: Exchange, heartbeat_seconds: float) -> None:
        self._exchange = exchange
        self._send = exchange.send
        self._interval = heartbeat_seconds
        self._time = asyncio.get_running_loop().time
        self._last_write = self._time()

    async def write(self, data: bytes) -> None:
        """Send framed events; back-pressure of the client is felt here."""
        if self._exchange.status == 0:
            await self._exchange.open_event_stream()
        # Taken before the send: a client that does not read is not silent on our side, and gets no ping on top.
        self._last_write = self._time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes) -> None:
        """Send the last framed events and that the answer is complete, and end it."""
        if self._exchange.status == 0:
            await self._exchange.open_event_stream()
        await self._send({"type": "http.response.body", "body": data + DONE})

    def next_beat(self) -> float:
        """Return when the stream has been silent for too long, in the loop's time."""
        return self._last_write + self._interval

    async def beat(self) -> None:
        """Send a comment, unless something was sent meanwhile."""
        if self.next_beat() <= self._time():
            await self.write(_PING)
