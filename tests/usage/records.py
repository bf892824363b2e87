"""Usage records for tests, and a usage service served over a transport."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.runtime.interceptors import instrument
from services.runtime.local import LocalChannel, LocalServer
from services.usage.config import UsageConfig
from services.usage.server import register
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.usage.v1 import usage_service_pb2 as pb
from trunkline.usage.v1 import usage_service_pb2_grpc as pb_grpc

Stub: TypeAlias = "pb_grpc.UsageServiceAsyncStub"  # known to type checkers only

MIDNIGHT: Final = 1_793_404_800
"""2026-10-31T00:00:00Z, in seconds."""

_numbers = itertools.count(1)


def make_record(**fields: Any) -> pb.UsageRecord:
    """Return a record that the ledger takes, with a fresh id and these fields; None leaves one out."""
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "record_id": f"rec_{number:08d}",
        "request_id": f"req_{number:08d}",
        "key_id": "master",
        "operation": "chat",
        "model": "gpt-4o",
        "deployment": "gpt-4o/0",
        "provider": "openai",
        "catalog": "openai",
        "upstream_model": "gpt-4o",
        "outcome": pb.OUTCOME_COMPLETED,
        "usage": TokenUsage(input_tokens=1000, output_tokens=100),
        "start_time": Timestamp(seconds=MIDNIGHT + number),
    }
    return pb.UsageRecord(**{**defaults, **fields})


@contextlib.asynccontextmanager
async def serving(
    database: Path, *, transport: str = "local", config: UsageConfig | None = None
) -> AsyncIterator[Stub]:
    """Serve a usage service over "local" or "unix" and return a stub for it."""
    config = (config or UsageConfig()).model_copy(update={"database": database})
    if transport == "local":
        local = LocalServer()
        usage = register(instrument(local, service="usage"), config)
        await usage.start()
        async with LocalChannel(local) as channel:
            yield pb_grpc.UsageServiceStub(channel)
        await local.stop(1)
        await usage.close()
        return
    with tempfile.TemporaryDirectory() as directory:
        server = grpc.aio.server()
        usage = register(instrument(server, service="usage"), config)
        await usage.start()
        address = f"unix:{Path(directory) / 'socket'}"
        server.add_insecure_port(address)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield pb_grpc.UsageServiceStub(channel)
        finally:
            await server.stop(None)
            await usage.close()


async def list_all(stub: Stub, *, page_size: int = 1000, **filters: Any) -> list[pb.UsageRecord]:
    """Return the records of every page."""
    records: list[pb.UsageRecord] = []
    token = ""
    while True:
        page = await stub.ListUsage(pb.ListUsageRequest(page_size=page_size, page_token=token, **filters))
        records += page.records
        token = page.next_page_token
        if not token:
            return records
