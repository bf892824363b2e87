"""`trunkline usage`: the latest usage records as a table, from a running gateway or from the ledger on this disk."""

from __future__ import annotations

import asyncio
import datetime
import sys
from pathlib import Path

import grpc.aio

from services.runtime.channel import BearerChannel, open_channel
from services.runtime.config import ConfigError, environment
from services.runtime.local import LocalChannel, LocalServer
from services.usage import server as usage_server
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.usage.v1 import usage_service_pb2 as pb
from trunkline.usage.v1.usage_service_pb2_grpc import UsageServiceStub
from trunkline_cli.config import Config, load
from trunkline_cli.table import render_table

__all__ = ["print_usage"]

_HEADER = ("TIME", "MODEL", "DEPLOYMENT", "OUTCOME", "IN", "OUT", "USD", "FIRST", "TOTAL", "REQUEST")
_RIGHT = frozenset({4, 5, 6, 7, 8})


def print_usage(path: Path | None, *, count: int, model: str, address: str | None, key: str) -> int:
    """Print the records, newest first; return the exit status."""
    request = pb.ListUsageRequest(page_size=count, model=model)
    try:
        config = load(path, environment())
        listed = asyncio.run(_from_gateway(address, key, request) if address else _from_disk(config, request))
    except grpc.aio.AioRpcError as error:
        failure = from_rpc_error(error)
        sys.stderr.write(f"{failure.name}: {failure.message}\n")
        return 1
    except (ConfigError, OSError, ValueError) as error:
        sys.stderr.write(f"trunkline: {error}\n")
        return 1
    sys.stdout.write(render_table(_HEADER, [_row(record) for record in listed.records], right=_RIGHT))
    return 0


async def _from_gateway(address: str, key: str, request: pb.ListUsageRequest) -> pb.ListUsageResponse:
    async with BearerChannel(open_channel(address), key) as channel:
        return await UsageServiceStub(channel).ListUsage(request, timeout=30)


async def _from_disk(config: Config, request: pb.ListUsageRequest) -> pb.ListUsageResponse:
    local = LocalServer()
    service = usage_server.register(local, config.usage_config())
    await service.start()
    try:
        return await UsageServiceStub(LocalChannel(local)).ListUsage(request, timeout=30)
    finally:
        await service.close()


def _row(record: pb.UsageRecord) -> tuple[str, ...]:
    used = record.usage
    mark = "~" if used.estimated else ""
    return (
        record.start_time.ToDatetime(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S"),
        record.model,
        record.deployment or "-",
        pb.Outcome.Name(record.outcome).removeprefix("OUTCOME_").lower(),
        f"{mark}{used.input_tokens}" if used.HasField("input_tokens") else "-",
        f"{mark}{used.output_tokens}" if used.HasField("output_tokens") else "-",
        _usd(record),
        _seconds(record.first_token_duration.ToTimedelta()) if record.HasField("first_token_duration") else "-",
        _seconds(record.total_duration.ToTimedelta()),
        record.request_id,
    )


def _usd(record: pb.UsageRecord) -> str:
    if record.unpriced:
        return "unpriced"
    if not record.HasField("cost_nano_usd"):
        return "-"
    whole, nano = divmod(record.cost_nano_usd, 10**9)
    return f"{whole}.{nano:09d}".rstrip("0").rstrip(".") if nano else str(whole)


def _seconds(duration: datetime.timedelta) -> str:
    return f"{duration.total_seconds():.2f}s"
