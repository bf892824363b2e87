"""The whole gateway in this process, as `trunkline serve` composes it, before an upstream that replays recordings.

A route for each recording: its id is the model's name, its provider a row of the catalog at the scripted upstream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio

from tests.providers.recordings import Recording, answer_steps
from tests.upstream import Request, ScriptedUpstream
from trunkline.usage.v1 import usage_service_pb2 as usage_pb
from trunkline.usage.v1.usage_service_pb2_grpc import UsageServiceStub
from trunkline_cli.config import Config
from trunkline_cli.serve import serve_all

__all__ = ["ROWS", "Exchange", "replay_all", "row_of"]

ROWS = ("openai", "groq", "deepseek", "openrouter", "ollama", "vllm", "anthropic", "openai_compatible")
"""The catalog rows that recordings are replayed through; a folder of another name is `openai_compatible`."""

_FIRST_PATHS = {"anthropic": "", "deepseek": ""}
_LAST_REQUEST = "after-all-recordings"
_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What one recording's replay did: the client's answer, what upstreams were sent, what the ledger holds."""

    status: int
    content_type: str
    body: bytes
    requests: tuple[Request, ...]
    records: list[usage_pb.UsageRecord] = field(default_factory=list)


def row_of(recording: Recording) -> str:
    """Return the catalog row whose provider a recording is replayed through."""
    if recording.api == "anthropic.messages":
        return "anthropic"
    return recording.provider if recording.provider in ROWS else "openai_compatible"


async def replay_all(bodies: Mapping[str, tuple[Recording, dict[str, Any]]], folder: Path) -> dict[str, Exchange]:
    """Send the body of each recording through one gateway, and return what became of each by the recording's id."""
    async with ScriptedUpstream() as upstream:
        config = _config(upstream, (recording for recording, _ in bodies.values()), folder)
        async with _running(config) as (http, usage), aiohttp.ClientSession(f"http://127.0.0.1:{http}") as client:
            exchanges = {}
            for recording, body in bodies.values():
                upstream.always(*answer_steps(recording))
                seen = len(upstream.requests)
                answer = await _ask(client, recording.id, {**body, "model": recording.id})
                exchanges[recording.id] = Exchange(
                    status=answer[0],
                    content_type=answer[1],
                    body=answer[2],
                    requests=tuple(upstream.requests[seen:]),
                )
            await _add_records(client, usage, exchanges)
    return exchanges


async def _ask(client: aiohttp.ClientSession, request_id: str, body: Any) -> tuple[int, str, bytes]:
    headers = {"content-type": "application/json", "x-request-id": request_id}
    async with (
        asyncio.timeout(_SECONDS),
        client.post("/v1/chat/completions", data=json.dumps(body).encode(), headers=headers) as response,
    ):
        assert response.headers["x-request-id"] == request_id
        return response.status, response.headers["content-type"], await response.read()


async def _add_records(
    client: aiohttp.ClientSession, usage: grpc.aio.Channel, exchanges: Mapping[str, Exchange]
) -> None:
    """Read each exchange's records, once the ledger has them all: they arrive in the order they were made."""
    stub = UsageServiceStub(usage)
    status, *_ = await _ask(
        client, _LAST_REQUEST, {"model": "demo/echo", "messages": [{"role": "user", "content": "?"}]}
    )
    assert status == 200
    async with asyncio.timeout(_SECONDS):
        while not await _records(stub, _LAST_REQUEST):
            await asyncio.sleep(0.02)  # the ledger announces nothing; records reach it in batches
    for name, exchange in exchanges.items():
        exchange.records.extend(await _records(stub, name))


async def _records(stub: Any, request_id: str) -> list[usage_pb.UsageRecord]:
    answer = await stub.ListUsage(usage_pb.ListUsageRequest(request_id=request_id))
    return list(answer.records)


def _config(upstream: ScriptedUpstream, recordings: Iterable[Recording], folder: Path) -> Config:
    providers = {
        f"at-{row}": {"catalog": row, "base_url": f"{upstream.url}{_FIRST_PATHS.get(row, '/v1')}", "api_key": "sk-test"}
        for row in ROWS
    }
    models = {
        recording.id: {
            "deployments": [{"provider": f"at-{row_of(recording)}", "model": recording.model}],
            "retries": 0,
        }
        for recording in recordings
    }
    listening = {"host": "127.0.0.1", "port": 0}
    return Config.model_validate(
        {"data_dir": folder, "http": listening, "grpc": listening, "providers": providers, "models": models}
    )


@asynccontextmanager
async def _running(config: Config) -> AsyncIterator[tuple[int, grpc.aio.Channel]]:
    """Serve everything; yield the HTTP port and a channel to the usage service."""
    stop = asyncio.Event()
    ports: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_all(stop, config, {}, announce=lambda http, grpc_port: ports.set_result((http, grpc_port)))
    )
    await asyncio.wait((serving, ports), return_when=asyncio.FIRST_COMPLETED)
    try:
        if serving.done():
            serving.result()
        http, grpc_port = ports.result()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            yield http, channel
    finally:
        stop.set()
        await serving
