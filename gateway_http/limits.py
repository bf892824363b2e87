"""What is read of a request's body, and when reading stops. A body over a bound is refused before it is kept."""

from __future__ import annotations

from gateway_http.config import HttpConfig
from gateway_http.disconnect import ClientLeft
from gateway_http.errors import HttpError
from gateway_http.exchange import Exchange
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = ["read_body"]


async def read_body(exchange: Exchange, config: HttpConfig) -> bytes:
    """Return the whole body. Its time is bounded by the connection, which costs a request nothing.

    Raises GatewayError REQUEST_TOO_LARGE, HttpError 415, or ClientLeft.
    """
    head = exchange.head
    encoding = head.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise HttpError(
            415,
            "unsupported_content_encoding",
            "Compressed request bodies are not accepted; send the JSON as it is.",
            headers=[(b"accept-encoding", b"identity")],
        )
    limit = config.max_body_bytes
    length = head.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    message = await exchange.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    pieces: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)
        message = await exchange.receive()
    raise ClientLeft


def _too_large(limit: int) -> GatewayError:
    return GatewayError(
        reasons.ERROR_REASON_REQUEST_TOO_LARGE,
        f"The request's body is larger than {limit} bytes, which is the limit.",
        metadata={"limit_bytes": str(limit)},
    )
