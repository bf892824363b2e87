"""The HTTP front as one ASGI application: it names each request, finds its route, and answers every failure.

The rule: here is the one place that catches whatever was not foreseen; a client is told of it by request id only.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Final, Protocol

import grpc.aio
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from gateway_http import auth, request_id
from gateway_http.config import HttpConfig
from gateway_http.disconnect import ClientLeft
from gateway_http.errors import HttpError, internal_error
from gateway_http.exchange import Exchange
from gateway_http.origins import Origins
from gateway_http.routes.chat import ChatRoute
from gateway_http.routes.docs import docs_routes
from gateway_http.routes.health import HealthRoutes
from gateway_http.routes.metrics import MetricsRoute
from gateway_http.routes.models import ModelRoutes
from services.runtime.drain import Drain
from services.runtime.metrics import Metrics
from services.runtime.telemetry import REQUEST_ID
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = ["Front", "create_app"]

_LOGGER: Final = logging.getLogger(__name__)

_READ: Final = frozenset(
    {
        *auth.CREDENTIALS,
        *auth.LABELS,
        *request_id.HEADERS,
        b"content-encoding",
        b"content-length",
        b"host",
        b"origin",
        b"access-control-request-method",
        b"access-control-request-headers",
        b"access-control-request-private-network",
    }
)
_SLASHES: Final = re.compile("//+")


class HotRoute(Protocol):
    """A route that is reached without a router, and speaks ASGI itself."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods it takes."""
        ...

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Answer one request."""
        ...


def create_app(
    channel: grpc.aio.Channel, config: HttpConfig, *, drain: Drain, metrics: Metrics, version: str = "0"
) -> Front:
    """Return the front for a router on `channel`.

    `drain` says when the server takes no new requests; `metrics` is what /metrics shows; `version` goes into the
    OpenAPI document.
    """
    metrics.gauge("http_requests_in_flight", "HTTP requests in work.", lambda: drain.in_flight)
    models = ModelRoutes(channel)
    health = HealthRoutes(channel, drain)
    routes: list[BaseRoute] = [
        Route("/v1/models", models.list_models),
        Route("/v1/models/{model_id:path}", models.get_model),
        Route("/health/live", health.live),
        Route("/health/ready", health.ready),
        Route("/metrics", MetricsRoute(channel, metrics, needs_credential=config.metrics_auth).show),
    ]
    if config.docs:
        routes += docs_routes(version)
    return Front(
        {"/v1/chat/completions": ChatRoute(channel, config)},
        Router(routes, redirect_slashes=False),
        config,
        drain,
    )


class Front:
    """The application. `hot` routes are found by path alone; everything else by the Starlette router."""

    def __init__(self, hot: Mapping[str, HotRoute], router: Router, config: HttpConfig, drain: Drain) -> None:
        self._hot = {**hot, **{path.removeprefix("/v1"): route for path, route in hot.items()}}
        self._router = router
        self._origins = Origins(config.cors_origins, listens_on=config.host)
        self._drain = drain
        self._most = config.max_concurrent_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        head = _read_head(scope["headers"])
        name = request_id.choose_request_id(head)
        REQUEST_ID.set(name)
        exchange = Exchange(scope, receive, send, head, name, auth.call_metadata(head, name))
        try:
            await self._dispatch(exchange)
        except (GatewayError, HttpError) as error:
            await exchange.fail(error)
        except ClientLeft:
            pass
        except HTTPException as error:
            await exchange.fail(_of_starlette(error, scope))
        except asyncio.CancelledError:
            # The server ends what is left after its grace and only waits for this task to be over.
            await exchange.fail(_draining())
        except Exception as error:
            # The formatter writes type and frames only: a message may hold a prompt.
            _LOGGER.error("request failed", exc_info=error)
            await exchange.fail(internal_error(name))

    async def _dispatch(self, exchange: Exchange) -> None:
        scope, head = exchange.scope, exchange.head
        origin = head.get(b"origin")
        if origin is not None:
            exchange.headers += self._origins.admit(origin, head)
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in head:
                await exchange.answer_empty(self._origins.preflight(head))
                return
        path: str = scope["path"]
        route = self._hot.get(path)
        if route is None:
            path = _canonical(path)
            route = self._hot.get(path)
            if route is None:
                within = {**scope, "path": path, "app": self, "exchange": exchange}
                await self._router(within, exchange.receive, exchange.send_for_route)
                return
        if scope["method"] not in route.methods:
            raise _method_not_allowed(scope["method"], route.methods)
        task = self._admit(exchange)
        try:
            await route(exchange)
        finally:
            self._drain.leave(task)

    def _admit(self, exchange: Exchange) -> asyncio.Task[Any]:
        if self._drain.in_flight >= self._most:
            raise GatewayError(
                reasons.ERROR_REASON_SERVICE_UNAVAILABLE, "Too many requests are in work.", retry_after=1.0
            )
        try:
            return self._drain.enter()
        except GatewayError:
            exchange.headers.append((b"connection", b"close"))  # the next connection reaches another process
            raise


def _read_head(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the first of each header that the front reads."""
    head: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _READ and name not in head:
            head[name] = value
    return head


def _canonical(path: str) -> str:
    """Return the path as the routes have it: single slashes, none at the end, `/v1` in front of the API."""
    path = _SLASHES.sub("/", path)
    if len(path) > 1:
        path = path.removesuffix("/")
    return f"/v1{path}" if path.startswith(("/chat/", "/models")) else path


def _draining() -> GatewayError:
    return GatewayError(reasons.ERROR_REASON_SERVER_DRAINING, "This server is about to stop.")


def _method_not_allowed(method: str, allowed: Iterable[str]) -> HttpError:
    listed = ", ".join(sorted(allowed))
    return HttpError(
        405,
        "method_not_allowed",
        f"This path does not take {method}; it takes {listed}.",
        headers=[(b"allow", listed.encode("ascii"))],
    )


def _of_starlette(error: HTTPException, scope: Scope) -> GatewayError | HttpError:
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _method_not_allowed(scope["method"], [method for method in allowed.split(", ") if method])
    if error.status_code == 404:
        return GatewayError(
            reasons.ERROR_REASON_RESOURCE_NOT_FOUND, f"There is no {scope['method']} {scope['path'][:200]} here."
        )
    return HttpError(error.status_code, "invalid_request", error.detail)
