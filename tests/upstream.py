"""A scripted upstream for tests: a real loopback socket that answers exactly the bytes a test wrote down.

Each request takes the next script (or the standing one). A script is a sequence of steps: bytes are written, an
`asyncio.Event` is waited for, `CUT` ends the connection after what was written, `RESET` kills it (RST), `STALL` stays
silent for ever.

    async with ScriptedUpstream() as upstream:
        gate = asyncio.Event()
        upstream.answer(sse_head(), chunked(b"data: 1\\n\\n"), gate, CUT)
        ... ask f"{upstream.url}/v1/chat/completions" ...
        request = await upstream.request()      # the first request, as soon as it is there
        await upstream.connections[0].lost.wait()   # the client closed it
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self

__all__ = [
    "CUT",
    "RESET",
    "STALL",
    "Connection",
    "Request",
    "ScriptedUpstream",
    "Step",
    "chunked",
    "json_answer",
    "sse_answer",
    "sse_head",
    "whole_answer",
]


class _Action(Enum):
    CUT = "cut"
    RESET = "reset"
    STALL = "stall"


CUT, RESET, STALL = _Action.CUT, _Action.RESET, _Action.STALL
Step = bytes | asyncio.Event | _Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came over the wire; header names in lower case, a repeated header keeps its last value."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: Connection

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True, eq=False)
class Connection:
    """One accepted connection."""

    transport: asyncio.Transport
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the connection ended, whoever ended it."""

    def reset(self) -> None:
        """End it with RST, as a crashing peer does."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class ScriptedUpstream:
    """The server; see the module. `requests` and `connections` are in order of arrival."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self._tls = tls
        self._scripts: deque[tuple[Step, ...]] = deque()
        self._standing: tuple[Step, ...] = (json_answer({"error": {"message": "nothing scripted"}}, status=404),)
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Address without a path, "http://127.0.0.1:12345"."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def answer(self, *steps: Step) -> None:
        """Script the answer to the next request that has none yet."""
        self._scripts.append(steps)

    def always(self, *steps: Step) -> None:
        """Script the answer to every request for which `answer` has none."""
        self._standing = steps

    async def request(self, index: int = 0) -> Request:
        """Wait for a request by its number, from 0."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) > index)
        return self.requests[index]

    @property
    def open_connections(self) -> int:
        """How many connections live now."""
        return sum(not connection.lost.is_set() for connection in self.connections)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Protocol(self), "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            connection.transport.abort()
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def _next_script(self) -> tuple[Step, ...]:
        return self._scripts.popleft() if self._scripts else self._standing

    def received(self, request: Request) -> None:
        """Record a request and begin its answer. Called by the protocol."""
        self.requests.append(request)
        task = asyncio.get_running_loop().create_task(self._perform(request, self._next_script()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, request: Request, script: tuple[Step, ...]) -> None:
        async with self._arrived:
            self._arrived.notify_all()
        connection = request.connection
        for step in script:
            if isinstance(step, bytes):
                connection.transport.write(step)
                await asyncio.sleep(0)  # Each step is a write of its own on the wire.
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step is CUT:
                connection.transport.close()
            elif step is RESET:
                connection.reset()
            else:
                await connection.lost.wait()


class _Protocol(asyncio.Protocol):
    """Parses requests with a content-length or without a body, which is all that clients under test send."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw: Any = transport
        with contextlib.suppress(AttributeError):
            raw.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = Connection(raw)
        self._upstream.connections.append(self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._connection is not None
        self._connection.lost.set()

    def data_received(self, data: bytes) -> None:
        assert self._connection is not None
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            stop = end + 4 + int(headers.get("content-length", "0"))
            if len(self._buffer) < stop:
                return
            body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
            self._upstream.received(
                Request(method=method, target=target, headers=headers, body=body, connection=self._connection)
            )


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode("latin-1")


def whole_answer(
    body: bytes, *, status: int = 200, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole response with its length; `headers` add to and replace the usual two."""
    usual = {"content-type": content_type, "content-length": str(len(body))}
    return _head(status, {**usual, **(headers or {})}) + body


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a whole response with a JSON body."""
    return whole_answer(json.dumps(value).encode(), status=status, headers=headers)


def sse_head(*, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the head of an event stream in chunked transfer encoding; write the rest with `chunked`."""
    usual = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
    return _head(status, {**usual, **(headers or {})})


def chunked(data: bytes = b"") -> bytes:
    """Return one chunk; without data the last one, which ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def sse_answer(events: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the steps of an event stream that ends as it should: each event's payload in a write of its own."""
    return (sse_head(), *(chunked(b"data: " + event + b"\n\n") for event in events), chunked())
