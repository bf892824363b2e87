"""What providers say they offer, for listing models. The one rule: a listing never waits long for a provider.

Providers are asked through the providers service when a listing first needs to know, and again once that is old. Who
has not answered in time, or cannot, is listed by its wildcard only; a late answer is there for the next listing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

import grpc.aio

from trunkline.errors.gateway_error import from_rpc_error
from trunkline.providers.v1 import provider_service_pb2, provider_service_pb2_grpc

__all__ = ["OfferedModels"]

_LOG = logging.getLogger(__name__)

_PATIENCE: Final = 1.0
_CALL_TIMEOUT: Final = 10.0
_FRESH: Final = 300.0
_MAX_MODELS: Final = 5_000


class OfferedModels:
    """The models of each provider, as last told. Owns the tasks that ask; close it."""

    def __init__(self, stub: provider_service_pb2_grpc.ProviderServiceAsyncStub) -> None:
        self._stub = stub
        self._models: dict[str, tuple[str, ...]] = {}
        self._asked: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def of(self, providers: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the models of these providers, as far as they are known or become known within a second."""
        now = time.monotonic()
        for provider in providers:
            if now - self._asked.get(provider, -_FRESH) >= _FRESH and provider not in self._tasks:
                self._asked[provider] = now
                task = asyncio.create_task(self._ask(provider), name=f"models of {provider}")
                self._tasks[provider] = task
                task.add_done_callback(partial(self._forget, provider))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_PATIENCE)
        return self._models

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _forget(self, provider: str, _task: asyncio.Task[None]) -> None:
        del self._tasks[provider]

    async def _ask(self, provider: str) -> None:
        models: list[str] = []
        token = ""
        try:
            while len(models) < _MAX_MODELS:
                request = provider_service_pb2.ListProviderModelsRequest(provider=provider, page_token=token)
                page = await self._stub.ListProviderModels(request, timeout=_CALL_TIMEOUT)
                models.extend(page.models)
                token = page.next_page_token
                if not token:
                    break
        except grpc.aio.AioRpcError as rpc_error:
            reason = from_rpc_error(rpc_error).name
            _LOG.info("a provider's models are not known", extra={"provider": provider, "reason": reason})
            return
        self._models[provider] = tuple(models)
