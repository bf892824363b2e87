"""What a provider answered, whole or still arriving, and the time limits that end a body that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from services.providers.network_errors import Phase, malformed_error, network_error, timeout_error

__all__ = ["Answer", "Limits", "Lingering", "PromptResponse", "StreamedAnswer"]

# How long the rest of a stream may take after its terminal event before the connection is given up instead of reused.
_LINGER_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one provider's connections may cost. Times in seconds."""

    connect_timeout: float = 5.0
    """For a free place in the pool, name resolution, TCP and TLS together."""
    first_byte_timeout: float = 300.0
    """From the call to the answer's head; a unary answer is written before its head comes."""
    idle_timeout: float = 60.0
    """Between two reads of an answer's body."""
    max_connections: int = 10_000
    max_body_bytes: int = 64 * 1024 * 1024
    """Of an answer that is read whole, after decompression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer. Header names are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _OutOfTimeError(Exception):
    """Put into a body's reader by the timer."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(phase)
        self.phase = phase


class PromptResponse(aiohttp.ClientResponse):
    """A response that is given up at once: aiohttp's own waits until what it still has to send was sent."""

    def close(self) -> None:
        connection = self.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        super().close()


class Lingering:
    """Responses whose content is complete and whose body has not ended. They end by themselves, or are ended here.

    aiohttp returns a connection to its pool when the end of the body arrives, also when nobody reads; this bounds how
    long that may take.
    """

    def __init__(self) -> None:
        self._responses: dict[aiohttp.ClientResponse, asyncio.TimerHandle] = {}

    def add(self, response: aiohttp.ClientResponse) -> None:
        """Close the response unless its body ends within a moment."""
        loop = asyncio.get_running_loop()
        self._responses[response] = loop.call_later(_LINGER_SECONDS, self._give_up, response)
        response.content.on_eof(lambda: self._drop(response))

    def close(self) -> None:
        """Close all of them."""
        for response in list(self._responses):
            self._give_up(response)

    def _give_up(self, response: aiohttp.ClientResponse) -> None:
        self._drop(response)
        response.close()

    def _drop(self, response: aiohttp.ClientResponse) -> None:
        handle = self._responses.pop(response, None)
        if handle is not None:
            handle.cancel()


class StreamedAnswer:
    """An answer whose body is read as it arrives."""

    __slots__ = (
        "_connection_lost",
        "_content",
        "_deadline",
        "_failure",
        "_finished",
        "_limits",
        "_lingering",
        "_loop",
        "_provider",
        "_response",
        "_taken",
        "_timer",
        "_waiting_since",
        "headers",
        "status",
    )

    def __init__(
        self,
        provider: str,
        response: aiohttp.ClientResponse,
        limits: Limits,
        deadline: float | None,
        lingering: Lingering | None,
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._provider = provider
        self._response = response
        self._content = response.content
        self._limits = limits
        self._deadline = deadline
        self._lingering = lingering
        self._loop = asyncio.get_running_loop()
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since: float | None = None
        self._connection_lost: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._finished = False

    async def read(self) -> bytes:
        """Return what arrived since the last read, waiting for at least one byte; b"" at the body's end.

        Raises STREAM_TRUNCATED (in a unary answer UPSTREAM_UNREACHABLE) when the connection was cut, UPSTREAM_TIMEOUT.
        """
        content = self._content
        try:
            if self._failure is not None:
                raise self._failure
            if content.total_bytes == self._taken and not content.is_eof():
                self._waiting_since = self._loop.time()
                if self._timer is None:
                    self._start_watching(self._waiting_since)
                data = await content.readany()
                self._waiting_since = None
            else:
                data = content.read_nowait()
        except _OutOfTimeError as error:
            raise timeout_error(self._provider, error.phase) from None
        except (aiohttp.ClientError, OSError) as error:
            data = self._arrived_before(error)
        self._taken += len(data)
        return data

    async def read_all(self) -> bytes:
        """Return the whole body. Raises UPSTREAM_MALFORMED_REPLY over the limit, and as `read`."""
        limit = self._limits.max_body_bytes
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
            if self._taken > limit:
                raise malformed_error(self._provider, f"sent an answer of more than {limit} bytes", self.status)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> None:
        """Say that the rest of the body does not matter. The connection is reused if the body ends within a moment."""
        self._finished = True
        if self._lingering is not None and not self._content.is_eof():
            self._lingering.add(self._response)

    def close(self) -> None:
        """Close the connection at once, unless the body was read to its end or `finish` was called."""
        if self._timer is not None:
            self._timer.cancel()
        if self._connection_lost is not None:
            self._connection_lost.remove_done_callback(self._on_connection_lost)
        if not self._finished and not self._content.is_eof():
            self._response.close()

    def _arrived_before(self, error: Exception) -> bytes:
        """Return what arrived before a failure and was not read yet; then the failure itself."""
        if self._failure is None and self._content.total_bytes > self._taken:
            self._failure = error
            # aiohttp hides received bytes once the connection failed; the contract says that they stand.
            return self._content._read_nowait(-1)  # noqa: SLF001
        assert isinstance(error, (aiohttp.ClientError, OSError))
        raise network_error(self._provider, error, in_stream=self._lingering is not None) from None

    def _start_watching(self, now: float) -> None:
        self._start_timer(now)
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            self._connection_lost = lost = connection.protocol.closed
            if lost is not None:
                lost.add_done_callback(self._on_connection_lost)
                # The connection may be lost when it is back in the pool; once per connection somebody must look.
                lost.remove_done_callback(_look_at)
                lost.add_done_callback(_look_at)

    def _on_connection_lost(self, _: asyncio.Future[None]) -> None:
        """End a wait that aiohttp forgets: after broken chunking, or when the pool is closed."""
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError())

    def _start_timer(self, now: float) -> None:
        due = now + self._limits.idle_timeout
        if self._deadline is not None and self._deadline < due:
            due = self._deadline
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        """End a wait that lasts too long. The timer is not moved with each read; it looks, and sleeps again."""
        now = self._loop.time()
        if self._deadline is not None and now >= self._deadline:
            self._content.set_exception(_OutOfTimeError("deadline"))
        elif self._waiting_since is not None and now >= self._waiting_since + self._limits.idle_timeout:
            self._content.set_exception(_OutOfTimeError("idle"))
        else:
            self._start_timer(self._waiting_since or now)


def _look_at(lost: asyncio.Future[None]) -> None:
    """Take note of a connection's end, or asyncio reports an error that nobody retrieved."""
    if not lost.cancelled():
        lost.exception()
