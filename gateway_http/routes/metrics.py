"""GET /metrics: the process's counters in Prometheus' text format.

The rule: open by default, because scrapers come without a key and the server listens on loopback unless told otherwise;
with `metrics_auth` the router decides, by the same credential that lists deployments.
"""

from __future__ import annotations

import asyncio

import grpc.aio
from starlette.requests import Request
from starlette.responses import Response

from gateway_http.errors import router_error
from gateway_http.exchange import Exchange
from services.runtime.metrics import Metrics
from trunkline.router.v1 import deployment_service_pb2, deployment_service_pb2_grpc

__all__ = ["MetricsRoute"]

_DEADLINE_SECONDS = 5.0


class MetricsRoute:
    """Shows `metrics`."""

    def __init__(self, channel: grpc.aio.Channel, metrics: Metrics, *, needs_credential: bool) -> None:
        self._operators = deployment_service_pb2_grpc.DeploymentServiceStub(channel)
        self._metrics = metrics
        self._needs_credential = needs_credential

    async def show(self, request: Request) -> Response:
        """Answer the counters."""
        if self._needs_credential:
            await self._ask_router(request.scope["exchange"])
        # Off the loop: adding up many processes' numbers takes tens of milliseconds.
        text = await asyncio.to_thread(self._metrics.render)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _ask_router(self, exchange: Exchange) -> None:
        try:
            await self._operators.ListDeployments(
                deployment_service_pb2.ListDeploymentsRequest(page_size=1),
                metadata=exchange.metadata,
                timeout=_DEADLINE_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            raise router_error(error) from None
