"""One HTTP/1.1 connection: uvicorn's, with the bounds it lacks and errors in the shape our clients read.

The rule: a connection holds a bounded amount of memory for a bounded time, whatever arrives on it. uvicorn's httptools
connection bounds neither the size nor the time of a request's head, nor an answer nobody reads.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any, ClassVar, Final

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway_http.config import HttpConfig
from gateway_http.errors import Headers, HttpError, error_answer
from gateway_http.exchange import WHOLE_ANSWER
from gateway_http.request_id import choose_request_id

__all__ = ["BoundedConnection", "bounded_by"]

# Slower than this, after the time every body gets, is a client that holds a connection rather than one that sends.
_MIN_BYTES_PER_SECOND: Final = 16 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = (b"connection", b"close")
# Clients that prefer HTTP/2 (Java's own among them) offer it on every first request. The parser would take the body
# for the other protocol, so the offer is made invisible to it: the name becomes another one of the same length.
_OFFER: Final = re.compile(rb"\r\nupgrade(:[ \t]*h2c)", re.IGNORECASE)
_IGNORED: Final = rb"\r\nignored\1"
# What uvicorn lets no header hold.
_UNFIT: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class BoundedConnection(HttpToolsProtocol):
    """A connection with bounds. `check` is called about once a second by the server."""

    # Both are set by the subclass that `bounded_by` makes, as uvicorn constructs connections itself.
    limits: ClassVar[HttpConfig]
    ended: ClassVar[asyncio.Event]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._own_app = self.app
        self._in_head = False
        self._in_body = False
        self._read = 0  # bytes read since the message began: at least the size of its head
        self._chunk = 0
        self._receiving_since: float | None = self.loop.time()  # None between messages
        self._unread_since: float | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End; the server may be waiting for it."""
        super().connection_lost(exc)
        self.ended.set()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; end the connection when a head grows without end."""
        self._chunk = len(data)
        self._read += self._chunk
        if not self._in_body and b"h2c" in data:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(_IGNORED, head) + end + rest
        super().data_received(data)
        if self._in_head and self._read > self.limits.max_header_bytes:
            self._refuse(_head_too_large(self.limits))

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head = True
        self._read = self._chunk
        self._receiving_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Hand the request to the application, or to a refusal."""
        self._in_head = False
        self._in_body = True
        limits = self.limits
        if len(self.headers) > limits.max_headers or (
            self._read > limits.max_header_bytes and self._head_size() > limits.max_header_bytes
        ):
            self.app = _Refusal(_head_too_large(limits))
        else:
            self.app = self._own_app
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # whose answer has no body to go with
            self.cycle.transport = _HeadWithBody(self.transport)
            self.scope["state"][WHOLE_ANSWER] = partial(_send_whole, self.cycle, self.transport)

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self._in_body = False
        self._receiving_since = None

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        super().pause_writing()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._unread_since = None

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: what a stranger offers is not worth a line, and uvicorn's would name a package to install."""

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP. uvicorn calls it."""
        self._refuse(HttpError(400, "malformed_request", msg))

    def check(self, now: float) -> None:
        """End the connection when the client is too slow."""
        limits = self.limits
        if self._unread_since is not None and now - self._unread_since > limits.write_timeout_seconds:
            self.transport.abort()
        elif self._receiving_since is not None:
            waited = now - self._receiving_since
            if self._in_body:
                self._check_body(waited)
            elif waited > limits.header_timeout_seconds:
                if self._in_head:
                    self._refuse(HttpError(408, "request_timeout", "The request's headers did not arrive in time."))
                else:
                    self.transport.close()  # connected and said nothing: nothing to answer

    def _check_body(self, waited: float) -> None:
        if self.pipeline or waited <= self.limits.body_timeout_seconds + self._read / _MIN_BYTES_PER_SECOND:
            return
        if self.cycle.response_started:
            self.transport.close()  # answered long ago, and the rest of its body still does not come
        else:
            self._refuse(HttpError(408, "request_timeout", "The request's body did not arrive in time."))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, error: HttpError) -> None:
        """Answer in the application's stead, and end the connection. Only when no answer has begun."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn says it is never None, and sets it to None at first
        if cycle is None or cycle.response_complete or (self._in_body and not cycle.response_started):
            status, headers, body = error_answer(error)
            request_id = choose_request_id(dict(self.headers or ()))
            lines = [*_refusal_headers(body, request_id), *headers, *self.server_state.default_headers]
            head = b"".join([b"%b: %b\r\n" % line for line in lines])
            self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
        self.transport.close()


def bounded_by(limits: HttpConfig, ended: asyncio.Event) -> type[BoundedConnection]:
    """Return the connection class for these limits; `ended` is set whenever a connection has ended."""
    return type("BoundedConnection", (BoundedConnection,), {"limits": limits, "ended": ended})


def _send_whole(
    cycle: RequestResponseCycle, transport: asyncio.Transport, status: int, headers: Headers, body: bytes
) -> bool:
    """Send an answer that is whole in one write, and end its cycle as uvicorn's `send` does after two messages.

    That looks for bad characters in every name and every value apart, some 45 calls more for each answer. Answers after
    which the connection closes, and those that wait for a slow client, go uvicorn's way; so do headers that are unfit,
    which it reports.
    """
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused or not cycle.keep_alive:
        return False
    if _UNFIT.search(b"".join([value for _, value in headers])):
        return False
    head = b"".join([b"%b: %b\r\n" % line for line in (*cycle.default_headers, *headers)])
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
    cycle.message_event.set()
    cycle.on_response()
    return True


class _HeadWithBody(asyncio.Transport):
    """The connection as one answer sees it: the head leaves in one write with the first of the body.

    uvicorn writes it alone, which costs each answer a system call and its client a wake-up more.
    """

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: bytes | None = None  # b"" once the head has left

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, or hold the head until there is more."""
        if self._held:
            self._transport.write(b"".join((self._held, data)))
            self._held = b""
        elif self._held is None and data != _CONTINUE:
            self._held = bytes(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close, when what is held has left."""
        if self._held:
            self._transport.write(self._held)
            self._held = b""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closing."""
        return self._transport.is_closing()


class _Refusal:
    """An application that refuses one request and closes its connection."""

    def __init__(self, error: HttpError) -> None:
        self._error = error

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        status, headers, body = error_answer(self._error)
        lines = [*_refusal_headers(body, choose_request_id(dict(scope["headers"]))), *headers]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": body})


def _refusal_headers(body: bytes, request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("ascii")),
        _CLOSE,
    ]


def _head_too_large(limits: HttpConfig) -> HttpError:
    return HttpError(
        431,
        "request_headers_too_large",
        f"The request's head is over {limits.max_header_bytes} bytes or {limits.max_headers} headers, the limits.",
    )
