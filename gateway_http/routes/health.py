"""GET /health/live and /health/ready, for orchestrators and load balancers.

The rule: live says only that the process serves; ready says that a request sent now would be taken on.
"""

from __future__ import annotations

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.runtime.drain import Drain

__all__ = ["HealthRoutes"]

_DEADLINE_SECONDS = 2.0


class HealthRoutes:
    """Answers for this process and, by its health service, for the router on `channel`."""

    def __init__(self, channel: grpc.aio.Channel, drain: Drain) -> None:
        self._health = health_pb2_grpc.HealthStub(channel)
        self._drain = drain

    async def live(self, _request: Request) -> Response:
        """Answer 200 as long as the process serves."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Answer 200 when the router serves and no drain has begun, else 503."""
        if self._drain.is_draining:
            return JSONResponse({"status": "draining"}, 503)
        if not await self._router_serves():
            return JSONResponse({"status": "unavailable"}, 503)
        return JSONResponse({"status": "ok"})

    async def _router_serves(self) -> bool:
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            # A router without a health service is one inside this process: it serves as long as we do.
            return error.code() is grpc.StatusCode.UNIMPLEMENTED
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
