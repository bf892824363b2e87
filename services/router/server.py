"""The router as a service: what it is made of, and how it starts and ends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc.aio

from services.router.accounting import Accounting
from services.router.admission import Admission
from services.router.chat_service import ChatService
from services.router.config import RouterConfig
from services.router.deployment_service import DeploymentService
from services.router.model_service import ModelService
from services.router.offered_models import OfferedModels
from services.router.provider_directory import load_providers
from services.router.record_metrics import RecordMetrics
from services.router.route_source import RouteSource
from services.router.routes import RouteTable
from services.router.shipping import RecordShipping
from services.router.usage_sender import UsageSender
from services.runtime.config import ConfigError
from services.runtime.journal import open_journal
from services.runtime.telemetry import Metrics
from trunkline.providers.v1 import inference_service_pb2_grpc, provider_service_pb2_grpc
from trunkline.router.v1 import chat_service_pb2_grpc, deployment_service_pb2_grpc, model_service_pb2_grpc
from trunkline.usage.v1 import usage_service_pb2_grpc

__all__ = ["RouterService", "register"]


class RouterService:
    """A router. `start` it before it is called and `close` it after the servers it was added to have stopped."""

    def __init__(
        self,
        config: RouterConfig,
        *,
        providers: grpc.aio.Channel,
        usage: grpc.aio.Channel,
        metrics: Metrics,
        draw: Callable[[], float],
    ) -> None:
        self._config = config
        self._provider_stub = provider_service_pb2_grpc.ProviderServiceStub(providers)
        self._routes = RouteSource()
        kept = config.journal
        journal = open_journal(kept.directory, kept.slot, sync=kept.sync, max_total_bytes=kept.max_bytes)
        sender = UsageSender(usage_service_pb2_grpc.UsageServiceStub(usage))
        self._shipping = RecordShipping(journal, sender, kept.directory)
        self._accounting = Accounting(journal, RecordMetrics(metrics))
        metrics.gauge("journal_records", "Usage records the ledger does not have yet.", lambda: journal.pending_records)
        metrics.gauge("journal_bytes", "Disk space of the journal.", lambda: journal.stats().pending_bytes)
        self._offered = OfferedModels(self._provider_stub)
        admission = Admission(config.auth)
        self._chat_service = ChatService(
            routes=self._routes,
            admission=admission,
            accounting=self._accounting,
            inference=inference_service_pb2_grpc.InferenceServiceStub(providers),
            draw=draw,
        )
        self._model_service = ModelService(
            routes=self._routes, admission=admission, offered=self._offered, created_seconds=int(time.time())
        )
        self._deployment_service = DeploymentService(routes=self._routes, admission=admission)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the router's services on one more server."""
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(self._chat_service, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self._model_service, server)
        deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server(self._deployment_service, server)

    @property
    def is_ready(self) -> bool:
        """Whether calls can be answered: routes are known and records can be written."""
        return self._routes.is_ready and self._accounting.is_able

    async def start(self) -> None:
        """Learn who provides, compile the routes, begin to ship records.

        Raises SERVICE_UNAVAILABLE when the providers service is not reached in time, and ConfigError when the
        configuration names providers that do not exist.
        """
        self._shipping.start()
        providers = await load_providers(self._provider_stub, timeout_seconds=self._config.start_timeout)
        table = RouteTable(self._config.models, providers, timeout=self._config.timeout)
        problems = [f"{path}: {problem}" for path, problem in table.problems()]
        if problems:
            raise ConfigError("", "; ".join(problems))
        self._routes.replace(table)

    async def close(self) -> None:
        """Send what the journal holds, for a while, and let go of everything."""
        await self._offered.close()
        await self._shipping.drain()
        # Shipping made room in a journal that was full.
        self._accounting.close()
        await self._shipping.close()


async def register(
    server: grpc.aio.Server,
    config: RouterConfig,
    *,
    providers: grpc.aio.Channel,
    usage: grpc.aio.Channel,
    metrics: Metrics | None = None,
    draw: Callable[[], float] = random.random,
) -> RouterService:
    """Make a router of a configuration and register it on a server. Raises JournalError when it cannot keep records.

    `providers` and `usage` lead to those services. `metrics` is told of every request and attempt. `draw` gives random
    numbers in [0, 1).
    """
    metrics = metrics or Metrics(models=config.models, deployments=())
    router = RouterService(config, providers=providers, usage=usage, metrics=metrics, draw=draw)
    router.add_to(server)
    return router
