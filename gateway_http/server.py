"""Runs the front on uvicorn, inside a loop that is already running and owns the signals.

The rule: `stop` loses no answer within its grace: the listener closes first, idle connections next, busy ones last.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from gateway_http.config import HttpConfig
from gateway_http.protocol import BoundedConnection, bounded_by

__all__ = ["HttpServer"]

_LOGGER: Final = logging.getLogger(__name__)

# For what a cut client is told to reach its socket.
_FLUSH_SECONDS: Final = 0.5


class HttpServer:
    """The HTTP server of one process.

    With `reuse_port` several processes listen on one port and the kernel spreads connections over them.
    """

    def __init__(self, app: ASGIApp, config: HttpConfig, *, reuse_port: bool = False) -> None:
        self._config = config
        self._reuse_port = reuse_port
        self._connection_ended = asyncio.Event()
        self._server = _Server(
            uvicorn.Config(
                app,
                http=bounded_by(config, self._connection_ended),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=config.backlog,
                timeout_keep_alive=config.keep_alive_seconds,
            )
        )
        self._socket: socket.socket | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._server.server_state.connections)

    async def start(self) -> int:
        """Listen, and return the port. Raises OSError when the address cannot be had."""
        self._socket = await self._bind()
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[self._socket])
        await self._server.on_tick(0)  # sets the date header, which the first answer needs
        self._ticking = asyncio.get_running_loop().create_task(self._server.main_loop())
        port: int = self._socket.getsockname()[1]
        return port

    async def stop(self, grace: float) -> None:
        """Stop listening, give requests in work `grace` seconds, then cut what is left."""
        for listener in getattr(self._server, "servers", ()):
            listener.close()
        state = self._server.server_state
        for connection in list(state.connections):
            connection.shutdown()  # closes an idle one; a busy one closes after its answer
        if not await self._over_within(grace):
            _LOGGER.warning("requests cut at shutdown", extra={"count": len(state.tasks), "grace_seconds": grace})
            for task in list(state.tasks):
                task.cancel()  # the application tells each client and ends its answer
            if not await self._over_within(_FLUSH_SECONDS):
                for connection in list(state.connections):
                    connection.transport.abort()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait((self._ticking,))
        if self._socket is not None:
            self._socket.close()

    async def _over_within(self, seconds: float) -> bool:
        """Wait until no connection and no request is left. Returns whether that came in time."""
        state = self._server.server_state
        try:
            async with asyncio.timeout(seconds):
                while state.connections or state.tasks:
                    if state.tasks:  # a request outlives its connection while the router records what it cost
                        await asyncio.wait(set(state.tasks))
                    else:
                        self._connection_ended.clear()
                        await self._connection_ended.wait()
        except TimeoutError:
            return False
        return True

    async def _bind(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(
            self._config.host, self._config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _name, address = addresses[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
            listener.bind(address)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            where = f"{self._config.host}:{self._config.port}"
            raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from error
        return listener


class _Server(uvicorn.Server):
    """uvicorn's server, whose tick also looks after slow connections."""

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedConnection):
                    connection.check(now)
        return await super().on_tick(counter)
