"""One HTTP request and its answer. The rule: the head of an answer is sent once, and always bears the request id.

Not Starlette's Request and Response: on the hot routes those cost more than the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from starlette.types import Message, Receive, Scope, Send

from gateway_http.auth import Metadata
from gateway_http.errors import Headers, HttpError, error_answer
from trunkline.errors import GatewayError

__all__ = ["JSON", "WHOLE_ANSWER", "Exchange", "SendWhole"]

JSON: Final = (b"content-type", b"application/json")

WHOLE_ANSWER: Final = "trunkline.whole_answer"
"""Where in `scope["state"]` a server puts a SendWhole, when it has one."""

SendWhole: TypeAlias = Callable[[int, Headers, bytes], bool]
"""Sends status, headers and body at once. False when nothing was sent and the two messages of ASGI are to be."""

_NO_STATE: Final[Mapping[str, Any]] = {}


class Exchange:
    """What a route works on.

    `head` holds the request headers the front reads, by lower-case name, the first of each. `metadata` is what the
    router is told. `headers` go with whatever is answered; `is_routed` says that those of the router are among them.
    `status` is 0 until the head of the answer was sent.
    """

    __slots__ = (
        "head",
        "headers",
        "is_event_stream",
        "is_routed",
        "metadata",
        "receive",
        "request_id",
        "scope",
        "send",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        head: Mapping[bytes, bytes],
        request_id: str,
        metadata: Metadata,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.head = head
        self.request_id = request_id
        self.metadata = metadata
        self.headers: Headers = [(b"x-request-id", request_id.encode("ascii"))]
        self.status = 0
        self.is_event_stream = False
        self.is_routed = False

    async def answer(self, status: int, body: bytes, *, headers: Headers | None = None) -> None:
        """Send a whole JSON answer."""
        lines = [JSON, (b"content-length", b"%d" % len(body)), *self.headers]
        if headers:
            lines += headers
        else:
            send_whole: SendWhole | None = self.scope.get("state", _NO_STATE).get(WHOLE_ANSWER)
            if send_whole is not None and send_whole(status, lines, body):
                self.status = status
                return
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": lines})
        await self.send({"type": "http.response.body", "body": body})

    async def answer_empty(self, headers: Headers) -> None:
        """Send a 204."""
        self.status = 204
        await self.send({"type": "http.response.start", "status": 204, "headers": [*self.headers, *headers]})
        await self.send({"type": "http.response.body"})

    async def open_event_stream(self) -> None:
        """Send the head of a stream of events."""
        self.status = 200
        self.is_event_stream = True
        await self.send({"type": "http.response.start", "status": 200, "headers": [*_EVENT_STREAM, *self.headers]})

    async def fail(self, error: GatewayError | HttpError) -> None:
        """Answer an error: with its true status, or as the last frame of a stream that has begun."""
        status, headers, body = error_answer(error)
        if self.status == 0:
            await self.answer(status, body, headers=headers)
        elif self.is_event_stream:
            await self.send({"type": "http.response.body", "body": b"data: %b\n\n" % body})
        # Else a body of another kind broke off: the server cuts the connection, which is all a client can be told.

    async def send_for_route(self, message: Message) -> None:
        """Send what a Starlette response sends, with the headers of this exchange."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self.headers]
        await self.send(message)


_EVENT_STREAM: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
