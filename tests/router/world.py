"""A whole router between scripted neighbours, over a LocalServer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from services.router.config import RouterConfig
from services.router.server import RouterService, register
from services.runtime.interceptors import instrument
from services.runtime.local import LocalChannel, LocalServer
from tests.router.scripted import ScriptedInference, ScriptedProviders, ScriptedUsage, answer, provider
from trunkline.providers.v1 import inference_service_pb2_grpc, provider_service_pb2, provider_service_pb2_grpc
from trunkline.router.v1 import chat_service_pb2_grpc, deployment_service_pb2_grpc, model_service_pb2_grpc
from trunkline.usage.v1 import usage_service_pb2_grpc
from trunkline.usage.v1.usage_service_pb2 import UsageRecord

KEY = "sk-master-key"

TWO_DEPLOYMENTS: dict[str, Any] = {
    "gpt-4o": {
        "deployments": [{"provider": "first", "model": "one"}, {"provider": "second", "model": "two", "weight": 0}],
        "fallbacks": ["other"],
    },
    "other": {"deployments": [{"provider": "third", "model": "three"}]},
}
"""The first deployment is always asked first, then the second, then the fallback's."""

PROVIDERS: tuple[provider_service_pb2.Provider, ...] = (
    provider("first", catalog="openai"),
    provider("second", catalog="anthropic"),
    provider("third"),
    provider("locked", usable=False),
)


@dataclass
class World:
    """The router, its neighbours, and stubs to call it."""

    channel: grpc.aio.Channel
    router: RouterService
    inference: ScriptedInference
    providers: ScriptedProviders
    usage: ScriptedUsage
    chats: chat_service_pb2_grpc.ChatServiceAsyncStub
    models: model_service_pb2_grpc.ModelServiceAsyncStub
    deployments: deployment_service_pb2_grpc.DeploymentServiceAsyncStub

    async def records(self) -> list[UsageRecord]:
        """Stop the router and return every record the ledger has."""
        await self.router.close()
        return [self.usage.records[record_id] for record_id in sorted(self.usage.records)]

    async def record(self) -> UsageRecord:
        """Stop the router and return the one record there must be."""
        (record,) = await self.records()
        return record


@asynccontextmanager
async def make_world(
    directory: Path,
    *,
    models: dict[str, Any] = TWO_DEPLOYMENTS,
    providers: Sequence[provider_service_pb2.Provider] = PROVIDERS,
    draw: Callable[[], float] = lambda: 0.0,
    socket: str = "",
    **config: Any,
) -> AsyncIterator[World]:
    """Start a router whose upstreams all answer, until told otherwise.

    With a `socket`, the address of one, the router reaches its neighbours over that; its callers are local in any case.
    """
    local = LocalServer()
    channel = LocalChannel(local)
    server: grpc.aio.Server = grpc.aio.server() if socket else local
    inference, usage = ScriptedInference(), ScriptedUsage()
    directory_of_providers = ScriptedProviders(providers=list(providers))
    for one in providers:
        inference.play(one.name, answer())
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
    provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(directory_of_providers, server)
    usage_service_pb2_grpc.add_UsageServiceServicer_to_server(usage, server)
    neighbours: grpc.aio.Channel = channel
    if socket:
        server.add_insecure_port(socket)
        await server.start()
        neighbours = grpc.aio.insecure_channel(socket)
    settings = RouterConfig.model_validate({"journal": {"directory": directory}, "models": models, **config})
    router = await register(
        instrument(local, service="router"), settings, providers=neighbours, usage=neighbours, draw=draw
    )
    await router.start()
    try:
        yield World(
            channel=channel,
            router=router,
            inference=inference,
            providers=directory_of_providers,
            usage=usage,
            chats=chat_service_pb2_grpc.ChatServiceStub(channel),
            models=model_service_pb2_grpc.ModelServiceStub(channel),
            deployments=deployment_service_pb2_grpc.DeploymentServiceStub(channel),
        )
    finally:
        await router.close()
        if socket:
            await neighbours.close()
            await server.stop(None)
