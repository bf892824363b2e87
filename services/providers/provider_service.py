"""ProviderService: which providers there are, what they can do, and which models they offer."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

from services.providers.inference_service import deadline_of
from services.providers.pages import page_of
from services.providers.provider import ProviderFacts
from services.providers.registry import Registry
from trunkline.errors import GatewayError
from trunkline.providers.v1 import provider_service_pb2 as pb
from trunkline.providers.v1 import provider_service_pb2_grpc as pb_grpc

__all__ = ["ProviderService", "encode_provider"]

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ProviderService(pb_grpc.ProviderServiceServicer):
    """The servicer; the contract is in provider_service.proto."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def ListProviders(self, request: pb.ListProvidersRequest, context: _Context) -> pb.ListProvidersResponse:
        """List the providers by name."""
        facts = self._registry.facts
        names, token = page_of(list(facts), request.page_size, request.page_token)
        providers = [encode_provider(facts[name]) for name in names]
        return pb.ListProvidersResponse(providers=providers, next_page_token=token)

    async def ListProviderModels(
        self, request: pb.ListProviderModelsRequest, context: _Context
    ) -> pb.ListProviderModelsResponse:
        """Ask a provider for its models. Each page asks anew."""
        provider = self._registry.provider(request.provider)
        try:
            models = await provider.list_models(deadline=deadline_of(context))
        except GatewayError as error:
            error.metadata.setdefault("provider", request.provider)
            raise
        names, token = page_of(sorted(set(models)), request.page_size, request.page_token)
        return pb.ListProviderModelsResponse(models=names, next_page_token=token)


def encode_provider(facts: ProviderFacts) -> pb.Provider:
    """Return what is told about a provider."""
    return pb.Provider(
        name=facts.name,
        catalog=facts.catalog,
        dialect=facts.dialect,
        capabilities=facts.capabilities,
        usable=facts.usable,
        credential_environment=facts.credential_environment,
        documentation_url=facts.documentation_url,
    )
