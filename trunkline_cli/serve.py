"""The composition root: which services a process holds, and how they reach each other.

Nothing else knows every service. In one process a call is a function call (LocalChannel); between processes the same
stubs go over sockets. The order is one everywhere: what is called starts before its callers, and ends after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Self

import grpc.aio

from gateway_http.app import create_app
from gateway_http.server import HttpServer
from services.providers import server as providers_server
from services.router import server as router_server
from services.router.config import RouterConfig
from services.runtime.channel import BearerChannel, open_channel
from services.runtime.config import ConfigError, Secret
from services.runtime.drain import Drain
from services.runtime.interceptors import Authorize, Metadata, instrument, require_bearer
from services.runtime.journal import JournalBusyError
from services.runtime.local import LocalChannel, LocalServer
from services.runtime.metrics import Metrics, MetricsPublisher
from services.runtime.serve import GrpcServer, Service
from services.usage import server as usage_server
from trunkline.errors import GatewayError
from trunkline_cli.config import Config, check_exposure, router_config

__all__ = [
    "serve_all",
    "serve_http",
    "serve_providers",
    "serve_router",
    "serve_usage",
    "stop_with_stdin",
    "usage_address",
]

_LOG: Final = logging.getLogger("trunkline")

_BUSY_JOURNAL_SECONDS: Final = 0.2

Announce = Callable[[int, int], None]
"""Told the HTTP and the gRPC port once calls are taken."""


def _authorize_any(*keys: Secret | None) -> Authorize | None:
    """Return what lets a call pass that carries one of the keys; None, which lets all pass, when there is no key."""
    checks = [require_bearer(key.get_secret_value()) for key in keys if key is not None]
    if not checks:
        return None

    def authorize(metadata: Metadata) -> None:
        pairs = tuple(metadata)
        for check in checks[:-1]:
            with contextlib.suppress(GatewayError):
                return check(pairs)
        return checks[-1](pairs)

    return authorize


def _open_peer(address: str, key: Secret | None) -> grpc.aio.Channel:
    channel = open_channel(address)
    return BearerChannel(channel, key.get_secret_value()) if key is not None else channel


def _metrics(config: Config, run_dir: Path | None = None) -> Metrics:
    deployments = [
        entry.name or f"{model}/{number}"
        for model, configured in config.models.items()
        for number, entry in enumerate(configured.deployments)
    ]
    directory = None
    if run_dir is not None:
        directory = run_dir / "metrics"
        directory.mkdir(exist_ok=True)
    return Metrics(models=[*config.models, "demo/echo"], deployments=[*deployments, "demo/echo"], directory=directory)


def usage_address(run_dir: Path) -> str:
    """Return where the process with the ledger listens for the workers of its gateway."""
    return f"unix:{run_dir / 'usage.sock'}"


class _Lives:
    """Services in the order they start; leaving the `async with` closes them in the opposite one, whatever happened."""

    def __init__(self) -> None:
        self._started: list[Service] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        while self._started:
            await self._started.pop().close()

    async def start(self, service: Service) -> None:
        """Start a service and remember to close it."""
        self._started.append(service)
        await service.start()


async def _register_router(
    stop: asyncio.Event,
    server: grpc.aio.Server,
    config: RouterConfig,
    *,
    providers: grpc.aio.Channel,
    usage: grpc.aio.Channel,
    metrics: Metrics,
) -> router_server.RouterService:
    """Register a router, waiting for a process that still drains with this journal, as after a supervisor's death."""
    while True:
        try:
            return await router_server.register(server, config, providers=providers, usage=usage, metrics=metrics)
        except JournalBusyError:
            _LOG.warning("the journal is in use by a process that has not ended yet")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _BUSY_JOURNAL_SECONDS)
        if stop.is_set():
            raise ConfigError("data_dir", "the journal is in use by another process")


async def serve_all(
    stop: asyncio.Event,
    config: Config,
    environment: Mapping[str, str],
    *,
    slot: str = "0",
    run_dir: Path | None = None,
    announce: Announce,
) -> int:
    """Run router, providers and front in this process, and the ledger too unless it is one worker of several.

    `slot` names this process's journal. Workers share the ports, and `run_dir` with the process that has the ledger.
    """
    check_exposure(config.http.host, config.auth.master_key, where="http.host", needs="auth.master_key")
    check_exposure(config.grpc.host, config.auth.master_key, where="grpc.host", needs="auth.master_key")
    shared = run_dir is not None
    metrics = _metrics(config, run_dir)
    local = LocalServer()
    channel = LocalChannel(local)
    grpc_server = GrpcServer([f"{config.grpc.host}:{config.grpc.port}"], reuse_port=shared)
    drain = Drain()
    http_server = HttpServer(
        create_app(channel, config.http, drain=drain, metrics=metrics), config.http, reuse_port=shared
    )
    async with _usage_channel(channel, run_dir) as usage_channel, _Lives() as lives:
        if run_dir is None:
            usage = usage_server.register(instrument(local, service="usage"), config.usage_config())
            usage.add_to(grpc_server.registrar("usage", _authorize_any(config.auth.master_key)))
            await lives.start(usage)
        else:
            await lives.start(MetricsPublisher(metrics))
        providers = providers_server.register(
            instrument(local, service="providers"), config.providers_config(), environment=environment
        )
        await lives.start(providers)
        router = await _register_router(
            stop,
            instrument(local, service="router"),
            router_config(config, journal_slot=slot),
            providers=channel,
            usage=usage_channel,
            metrics=metrics,
        )
        router.add_to(grpc_server.registrar("router"))
        await lives.start(router)
        http_port, grpc_port = await http_server.start(), await grpc_server.start()
        announce(http_port, grpc_port)
        await stop.wait()
        drain.begin()
        await asyncio.gather(http_server.stop(config.drain_seconds), grpc_server.stop(config.drain_seconds))
    return 0


def _usage_channel(local: grpc.aio.Channel, run_dir: Path | None) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    return contextlib.nullcontext(local) if run_dir is None else open_channel(usage_address(run_dir))


async def _serve_grpc(stop: asyncio.Event, config: Config, server: GrpcServer, address: str) -> int:
    port = await server.start()
    _LOG.info("serving", extra={"address": address, "port": port})
    await stop.wait()
    await server.stop(config.drain_seconds)
    return 0


async def serve_router(stop: asyncio.Event, config: Config, *, listen: str | None, slot: str = "router") -> int:
    """Run a router alone; providers and usage are where `peers` says."""
    address = listen or config.peers.router
    check_exposure(_host(address), config.auth.master_key, where="peers.router", needs="auth.master_key")
    server = GrpcServer([address])
    providers = _open_peer(config.peers.providers, config.auth.internal_key)
    usage = _open_peer(config.peers.usage, config.auth.internal_key)
    async with providers, usage, _Lives() as lives:
        router = await _register_router(
            stop,
            server.registrar("router"),
            router_config(config, journal_slot=slot),
            providers=providers,
            usage=usage,
            metrics=_metrics(config),
        )
        await lives.start(router)
        return await _serve_grpc(stop, config, server, address)


async def serve_providers(
    stop: asyncio.Event, config: Config, environment: Mapping[str, str], *, listen: str | None
) -> int:
    """Run the providers service alone: the only process that needs provider credentials."""
    address = listen or config.peers.providers
    check_exposure(_host(address), config.auth.internal_key, where="peers.providers", needs="auth.internal_key")
    server = GrpcServer([address])
    registrar = server.registrar("providers", _authorize_any(config.auth.internal_key))
    async with _Lives() as lives:
        await lives.start(providers_server.register(registrar, config.providers_config(), environment=environment))
        return await _serve_grpc(stop, config, server, address)


async def serve_usage(stop: asyncio.Event, config: Config, *, listen: str | None) -> int:
    """Run the usage service alone: the only process that writes the ledger."""
    address = listen or config.peers.usage
    check_exposure(_host(address), config.auth.internal_key, where="peers.usage", needs="auth.internal_key")
    server = GrpcServer([address])
    # A socket in a directory of ours is reached by our own processes only; they carry no key.
    keys = () if address.startswith("unix:") else (config.auth.internal_key, config.auth.master_key)
    registrar = server.registrar("usage", _authorize_any(*keys))
    async with _Lives() as lives:
        await lives.start(usage_server.register(registrar, config.usage_config()))
        return await _serve_grpc(stop, config, server, address)


async def serve_http(stop: asyncio.Event, config: Config, *, announce: Announce) -> int:
    """Run the HTTP front alone, before the router at `peers.router`."""
    check_exposure(config.http.host, config.auth.master_key, where="http.host", needs="auth.master_key")
    drain = Drain()
    async with open_channel(config.peers.router) as channel:
        app = create_app(channel, config.http, drain=drain, metrics=_metrics(config))
        server = HttpServer(app, config.http)
        announce(await server.start(), 0)
        await stop.wait()
        drain.begin()
        await server.stop(config.drain_seconds)
    return 0


def _host(address: str) -> str:
    return address if address.startswith("unix:") else address.rpartition(":")[0]


async def stop_with_stdin(stop: asyncio.Event) -> asyncio.ReadTransport:
    """Set `stop` when standard input ends: the supervisor that holds its other end is gone. Returns what to close."""

    class _Watch(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            stop.set()

    transport, _ = await asyncio.get_running_loop().connect_read_pipe(_Watch, sys.stdin)
    return transport
