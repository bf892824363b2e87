"""Puts the providers service together: `register` adds its servicers to any server, real or local."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from services.providers.catalog import load_catalog
from services.providers.config import ProvidersConfig
from services.providers.inference_service import InferenceService
from services.providers.provider_service import ProviderService, encode_provider
from services.providers.registry import Registry
from trunkline.providers.v1 import inference_service_pb2_grpc, provider_service_pb2, provider_service_pb2_grpc

__all__ = ["ProvidersServer", "list_providers", "register"]


class ProvidersServer:
    """The service as its process sees it: `start` it before its first call, `close` it after the last."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._inference = InferenceService(registry)
        self._provider = ProviderService(registry)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on one more server."""
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(self._inference, server)
        provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(self._provider, server)

    async def start(self) -> None:
        """Do nothing: connections are opened as they are needed."""

    async def close(self) -> None:
        """Close every connection to a provider, those in use too. Idempotent."""
        await self._registry.close()


def register(server: grpc.aio.Server, config: ProvidersConfig, *, environment: Mapping[str, str]) -> ProvidersServer:
    """Build every provider and add both servicers to the server.

    `environment` is where credentials and addresses that the configuration leaves out are looked up. Raises
    ConfigError with the path of what is wrong.
    """
    providers = ProvidersServer(Registry(load_catalog(), config, environment))
    providers.add_to(server)
    return providers


def list_providers(config: ProvidersConfig, *, environment: Mapping[str, str]) -> list[provider_service_pb2.Provider]:
    """Return every provider by name, without a server. Raises ConfigError."""
    registry = Registry(load_catalog(), config, environment)
    return [encode_provider(facts) for facts in registry.facts.values()]
