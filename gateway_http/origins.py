"""Which web pages may call this server. The rule: a browser's page of another origin is refused unless it is listed.

A server on a developer's own machine accepts any credential; without this, any page that developer visits could spend
money there by a plain POST, which browsers send without asking first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway_http.errors import Headers
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = ["Origins"]

_EXPOSED: Final = (
    b"x-request-id, x-trunkline-deployment, x-trunkline-provider, x-trunkline-attempts, "
    b"retry-after, retry-after-ms, x-should-retry"
)
_METHODS: Final = b"GET, POST, OPTIONS"
_PREFLIGHT_SECONDS: Final = b"600"


class Origins:
    """The allow-list, as requests meet it."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(origin.encode("ascii", "ignore") for origin in allowed)

    def admit(self, origin: bytes, head: Mapping[bytes, bytes]) -> Headers:
        """Return the headers to answer a request of this origin with. Raises CALLER_FORBIDDEN."""
        origin = origin.lower()
        if origin in self._allowed:
            return [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _EXPOSED),
                (b"vary", b"Origin"),
            ]
        host = head.get(b"host", b"").lower()
        # Without the scheme: behind a proxy that ends TLS a page of our own says https where this server sees http.
        if host and origin.partition(b"://")[2] == host:
            return []
        raise GatewayError(
            reasons.ERROR_REASON_CALLER_FORBIDDEN,
            "Pages of this origin may not call the gateway. Its operator can list the origin under http.cors_origins.",
        )

    def preflight(self, head: Mapping[bytes, bytes]) -> Headers:
        """Return the headers that answer a preflight request of an admitted origin."""
        headers = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _PREFLIGHT_SECONDS)]
        wanted = head.get(b"access-control-request-headers")
        if wanted is not None:
            headers.append((b"access-control-allow-headers", wanted))
        if head.get(b"access-control-request-private-network") == b"true":
            headers.append((b"access-control-allow-private-network", b"true"))
        return headers
