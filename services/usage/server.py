"""Puts the usage service together: the ledger, the prices, the servicer. Nothing is opened before `start`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import grpc

from services.runtime.config import ConfigError
from services.usage.config import UsageConfig, declared_rates
from services.usage.ledger import Ledger, LedgerError
from services.usage.price_book import PackagedPrices, PriceBook
from services.usage.usage_service import UsageService
from trunkline.usage.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server

__all__ = ["UsageServer", "register"]

_DEFAULT_DATABASE: Final = Path("data") / "ledger.sqlite"


class UsageServer:
    """The service as its process sees it: `start` it before its first call, `close` it after the last."""

    def __init__(self, config: UsageConfig) -> None:
        self._ledger = Ledger(config.database or _DEFAULT_DATABASE)
        self._packaged = PackagedPrices()
        self._servicer = UsageService(self._ledger, PriceBook(declared_rates(config), self._packaged))

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on one more server."""
        add_UsageServiceServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Open the ledger and load the prices. Raises ConfigError, which names the file, when that is not possible."""
        loading = asyncio.to_thread(self._packaged.load)
        opened, loaded = await asyncio.gather(self._ledger.open(), loading, return_exceptions=True)
        if isinstance(opened, LedgerError):
            raise ConfigError("usage.database", str(opened)) from opened
        for result in (opened, loaded):
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        """Finish what is being applied, and close the ledger. Idempotent."""
        await self._ledger.close()


def register(server: grpc.aio.Server, config: UsageConfig) -> UsageServer:
    """Build the service and add its servicer to the server."""
    usage = UsageServer(config)
    usage.add_to(server)
    return usage
