"""How the HTTP front listens and what it refuses. The one rule: every limit has a default that holds."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from services.runtime.config import StrictModel

__all__ = ["HttpConfig"]

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class HttpConfig(StrictModel):
    """The `http` section of the configuration."""

    host: str = "127.0.0.1"
    """Address to listen on: a name, an IPv4 or an IPv6 address."""
    port: Annotated[int, Field(ge=0, le=65535)] = 4000
    """TCP port; 0 lets the system choose one."""
    backlog: Annotated[int, Field(gt=0)] = 2048
    """Connections the kernel keeps waiting before it refuses more."""

    max_body_bytes: Annotated[int, Field(gt=0)] = 32 * 1024 * 1024
    """The largest request body; more is a 413."""
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    """The largest request line and headers together; more is a 431."""
    max_headers: Annotated[int, Field(ge=16)] = 128
    """How many request headers at most; more is a 431."""
    max_concurrent_requests: Annotated[int, Field(gt=0)] = 10_000
    """Requests in work in this process at one time; more are a 503."""

    header_timeout_seconds: _Seconds = 20.0
    """Time for a request's headers, from the connection or from their first byte; then the connection ends."""
    body_timeout_seconds: _Seconds = 30.0
    """Time for a request's body to arrive. Large bodies get more: one second for each 16 KiB that did arrive."""
    write_timeout_seconds: _Seconds = 60.0
    """How long a client may leave an answer unread once the buffers are full; then the connection is cut."""
    keep_alive_seconds: Annotated[int, Field(gt=0)] = 75
    """How long an idle connection stays open; longer than the 60 s after which common load balancers drop one."""
    request_timeout_seconds: _Seconds = 600.0
    """Deadline of a call that is answered in one piece, over all attempts."""
    stream_timeout_seconds: _Seconds = 3600.0
    """Deadline of a streamed call, from its start to its end."""
    heartbeat_seconds: _Seconds = 5.0
    """A stream silent for this long gets a comment line, the first one with the response's head."""

    cors_origins: tuple[str, ...] = ()
    """Browser origins (`https://chat.example.org`) whose pages may call this server. None by default."""
    metrics_auth: bool = False
    """Whether `/metrics` asks for the operator's credential. Off by default, as scrapers expect it."""
    docs: bool = True
    """Whether `/docs` and `/openapi.json` are served."""

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if not parts.scheme or not parts.netloc or parts.path or parts.query or parts.fragment or "*" in origin:
                raise ValueError(f"{origin!r} is not an origin: write scheme://host or scheme://host:port, no wildcard")
        return tuple(origin.lower() for origin in origins)
