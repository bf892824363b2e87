"""How a process serves: a gRPC server that drains, and the signals that make it stop.

The one rule: stopping is one sequence. Health says NOT_SERVING, new calls are refused, calls in flight have the grace
period to finish, what is left then ends with a typed status, and only after that the sockets close.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.runtime.channel import MAX_MESSAGE_BYTES
from services.runtime.drain import Drain
from services.runtime.interceptors import Authorize, instrument

__all__ = ["Drain", "GrpcServer", "Service", "run"]

_LOGGER: Final = logging.getLogger(__name__)
_UNWIND_SECONDS: Final = 2.0
"""For handlers that were cut off to clean up."""
_FLUSH_SECONDS: Final = 0.5
"""For statuses that were set to leave. Only watchers of health, which never end, take it all."""
_MAX_METADATA_BYTES: Final = 64 << 10


class Service(Protocol):
    """What has a life between start and stop."""

    async def start(self) -> None:
        """Begin. Raises what makes it impossible."""
        ...

    async def close(self) -> None:
        """End, with everything begun either finished or undone. May be called twice."""
        ...


class GrpcServer:
    """A grpc.aio server with health (`grpc.health.v1`), reflection and drain. Made and used inside a running loop.

    `addresses` are "host:port" (port 0 for any) or "unix:path". With `reuse_port` several processes share a port.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        drain: Drain | None = None,
        credentials: grpc.ServerCredentials | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_seconds: float = 60.0,
        reuse_port: bool = False,
    ) -> None:
        self.drain = drain or Drain()
        self._addresses = addresses
        self._credentials = credentials
        self._health = health.aio.HealthServicer()
        self._services: list[str] = []
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.keepalive_time_ms", round(keepalive_seconds * 1e3)),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                # Callers' keepalive pings are welcome; grpc's own measure is one in five minutes.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            )
        )

    def registrar(self, service: str, authorize: Authorize | None = None) -> grpc.aio.Server:
        """Return what to pass to generated `add_*_to_server` functions; `service` names it in the log."""
        return instrument(self, service=service, drain=self.drain, authorize=authorize)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Register handlers as they are; see `registrar`."""
        self._services.append(service_name)
        self._server.add_registered_method_handlers(service_name, method_handlers)

    async def start(self) -> int:
        """Listen, then report SERVING. Returns the port of the first address that has one, else 0.

        Raises OSError when an address cannot be used.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        ports = [self._bind(address) for address in self._addresses]
        await self._server.start()
        for name in self._services:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return next((port for port in ports if port), 0)

    def _bind(self, address: str) -> int:
        try:
            if self._credentials is not None:
                port = self._server.add_secure_port(address, self._credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        return 0 if address.startswith("unix:") else port

    async def stop(self, grace: float) -> None:
        """Drain for at most `grace` seconds, cut off what is left, close."""
        self.drain.begin()
        await self._health.enter_graceful_shutdown()
        if not await self.drain.idle(grace):
            _LOGGER.warning("calls cut off at the end of the grace period", extra={"count": self.drain.cut()})
            await self.drain.idle(_UNWIND_SECONDS)
        await self._server.stop(_FLUSH_SECONDS)


def run(main: Callable[[asyncio.Event], Awaitable[int | None]]) -> int:
    """Run `main(stop)` on uvloop and return its exit code (None is 0).

    SIGTERM and SIGINT set `stop`, and main is to return. The same signal again ends the process at once.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervise(main))


async def _supervise(main: Callable[[asyncio.Event], Awaitable[int | None]]) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_error)
    stop = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal(number: signal.Signals) -> None:
        _LOGGER.info("stopping", extra={"signal": number.name})
        stop.set()
        for each in signals:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in signals:
        loop.add_signal_handler(each, on_signal, each)
    return await main(stop) or 0


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody awaited. asyncio's own words hold reprs, and with them arguments, so they are left out."""
    error = context.get("exception")
    _LOGGER.error("an error reached the event loop", exc_info=error if isinstance(error, BaseException) else None)
