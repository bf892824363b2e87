"""Holds the routes in force, so that they can be replaced as a whole while calls go on."""

from __future__ import annotations

from services.router.routes import RouteTable
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["RouteSource"]


class RouteSource:
    """The routes in force. A call takes the table once and keeps to it."""

    def __init__(self) -> None:
        self._table: RouteTable | None = None

    @property
    def is_ready(self) -> bool:
        """Whether there are routes."""
        return self._table is not None

    def table(self) -> RouteTable:
        """Return the routes in force. Raises SERVICE_UNAVAILABLE before the first are known."""
        if self._table is None:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE,
                "the router is starting",
                metadata={"service": "router"},
                retry_after=1.0,
            )
        return self._table

    def replace(self, table: RouteTable) -> None:
        """Put other routes in force."""
        self._table = table
