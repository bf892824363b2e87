"""Which providers there are, as the providers service tells. Read once at start; routes are compiled against it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import grpc.aio

from trunkline.errors import GatewayError
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.errors.v1 import error_reason_pb2
from trunkline.providers.v1 import provider_service_pb2, provider_service_pb2_grpc

__all__ = ["ProviderFacts", "load_providers", "provider_facts"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_CALL_TIMEOUT: Final = 5.0

# What a call ends with while the other side is not there yet; anything else will not get better by waiting.
_NOT_YET: Final = frozenset(
    {
        error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE,
        error_reason_pb2.ERROR_REASON_SERVER_DRAINING,
        error_reason_pb2.ERROR_REASON_UPSTREAM_TIMEOUT,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """What routing and accounting need to know of a provider."""

    name: str
    catalog: str
    usable: bool
    capabilities: frozenset[str] = frozenset()


def provider_facts(provider: provider_service_pb2.Provider) -> ProviderFacts:
    """Return what a provider's own description says."""
    return ProviderFacts(
        name=provider.name,
        catalog=provider.catalog or provider.name,
        usable=provider.usable,
        capabilities=frozenset(provider.capabilities),
    )


async def load_providers(
    stub: provider_service_pb2_grpc.ProviderServiceAsyncStub, *, timeout_seconds: float
) -> Mapping[str, ProviderFacts]:
    """Return the providers by name, waiting up to `timeout_seconds` for the service.

    Raises SERVICE_UNAVAILABLE when it was not there in time, and whatever else it answers at once.
    """
    end = time.monotonic() + timeout_seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            return await _read_all(stub)
        except grpc.aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error)
        if error.reason not in _NOT_YET:
            raise error
        if time.monotonic() + pause >= end:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE,
                f"the providers service did not answer within {timeout_seconds:g} s: {error.message}",
                metadata={"service": "providers"},
            )
        _LOG.info("waiting for the providers service", extra={"reason": error.name})
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _read_all(stub: provider_service_pb2_grpc.ProviderServiceAsyncStub) -> Mapping[str, ProviderFacts]:
    providers: dict[str, ProviderFacts] = {}
    token = ""
    while True:
        request = provider_service_pb2.ListProvidersRequest(page_token=token)
        page = await stub.ListProviders(request, timeout=_CALL_TIMEOUT)
        for provider in page.providers:
            providers[provider.name] = provider_facts(provider)
        token = page.next_page_token
        if not token:
            return MappingProxyType(providers)
