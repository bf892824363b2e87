"""Which web pages may call this server. The rule: a browser's page of another origin is refused unless it is listed.

A server on a developer's own machine accepts any credential; without this, any page that developer visits could spend
money there by a plain POST, which browsers send without asking first. Such a server answers its own pages under names
of this machine only: a page can make its own name point here (DNS rebinding), and is then of the same origin.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

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


def _is_loopback(host: str) -> bool:
    """Whether a host ("name", "name:port", "[::1]:port") says by itself that it is this machine."""
    try:
        name = urlsplit(f"//{host}" if host.count(":") < 2 or host.startswith("[") else f"//[{host}]").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Origins:
    """The allow-list, as requests meet it."""

    def __init__(self, allowed: tuple[str, ...], *, listens_on: str) -> None:
        self._allowed = frozenset(origin.encode("ascii", "ignore") for origin in allowed)
        self._is_local = _is_loopback(listens_on)

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
        is_own = not self._is_local or _is_loopback(host.decode("ascii", "replace"))
        if host and origin.partition(b"://")[2] == host and is_own:
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
