"""SIGTERM: what is under way ends as it should, nothing new begins, and the process ends well."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.gateway import KEY, PROVIDER_KEY, chat, ledger
from tests.e2e.gateway_process import GatewayProcess, free_port, running
from tests.providers.openai_upstream import STREAM
from tests.upstream import STALL, ScriptedUpstream, Step, chunked, sse_head
from trunkline.client import connect
from trunkline.errors import GatewayError

HEADERS = {"authorization": f"Bearer {KEY}", "x-request-id": "under-way"}
EVENTS = [chunked(b"data: " + event + b"\n\n") for event in STREAM]


def configured(directory: Path, upstream: ScriptedUpstream, *, drain_seconds: float) -> tuple[GatewayProcess, int]:
    """Return a gateway before the upstream, not started, and its gRPC port."""
    http_port, grpc_port = free_port(), free_port()
    config = {
        "data_dir": str(directory / "data"),
        "drain_seconds": drain_seconds,
        "http": {"port": http_port},
        "grpc": {"port": grpc_port},
        "auth": {"master_key": KEY},
        "providers": {
            "acme": {"catalog": "openai_compatible", "base_url": f"{upstream.url}/v1", "api_key": PROVIDER_KEY}
        },
        "models": {"m": {"deployments": [{"provider": "acme", "model": "m-1"}]}},
    }
    path = directory / "trunkline.yaml"
    path.write_text(json.dumps(config))
    return GatewayProcess("--config", str(path), http_port=http_port, cwd=directory), grpc_port


async def is_refusing(url: str, grpc_port: int) -> bool:
    """Whether a new call finds no taker, over HTTP and over gRPC."""
    where, body = f"{url}/v1/chat/completions", chat("demo/echo")
    try:
        async with aiohttp.ClientSession() as session, session.post(where, json=body, headers=HEADERS) as answer:
            if answer.status != 503:
                return False
    except aiohttp.ClientError:
        pass  # nobody listens any more
    try:
        async with connect(f"127.0.0.1:{grpc_port}", api_key=KEY) as client:
            await client.list_models(timeout=5)
    except GatewayError as error:
        return error.name in {"SERVER_DRAINING", "SERVICE_UNAVAILABLE"}
    return False


async def ended(gateway: GatewayProcess) -> int:
    """Return the status of a gateway that was told to stop; a second signal would end it at once."""
    assert gateway.process is not None
    async with asyncio.timeout(20):
        return await gateway.process.wait()


async def test_a_stream_under_way_finishes_and_new_calls_are_refused(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as upstream:
        upstream.answer(sse_head(), *EVENTS[:2], gate, *EVENTS[2:], chunked())
        gateway, grpc_port = configured(tmp_path, upstream, drain_seconds=20)
        async with running(gateway), aiohttp.ClientSession() as session:
            url = f"{gateway.base_url}/v1/chat/completions"
            async with session.post(url, json=chat(stream=True), headers=HEADERS) as answer:
                assert answer.status == 200
                begun = await answer.content.readuntil(b"Hello, ")
                os.kill(gateway.pid, signal.SIGTERM)
                async with asyncio.timeout(10):
                    while not await is_refusing(gateway.base_url, grpc_port):
                        await asyncio.sleep(0.02)  # a signal has no answer
                gate.set()
                rest = await answer.content.read()
            assert await ended(gateway) == 0
    body = begun + rest
    assert "wörld." in body.decode()
    assert body.endswith(b"data: [DONE]\n\n")
    (row,) = ledger(tmp_path)
    assert (row["request_id"], row["outcome"], row["output_tokens"]) == ("under-way", "completed", 3)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_what_outlasts_the_grace_ends_typed_and_is_recorded(stream: bool, tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        steps: tuple[Step, ...] = (sse_head(), *EVENTS[:2], STALL) if stream else (STALL,)
        upstream.answer(*steps)
        gateway, _ = configured(tmp_path, upstream, drain_seconds=0.3)
        async with running(gateway), aiohttp.ClientSession() as session:
            url = f"{gateway.base_url}/v1/chat/completions"
            asked = asyncio.create_task(session.post(url, json=chat(stream=stream), headers=HEADERS).__aenter__())
            await upstream.request()
            if stream:
                await (await asked).content.readuntil(b"Hello, ")
            os.kill(gateway.pid, signal.SIGTERM)
            answer = await asked
            body = await answer.read()
            assert await ended(gateway) == 0
        async with asyncio.timeout(2):
            await upstream.connections[0].lost.wait()
    assert b"server_draining" in body
    assert b"[DONE]" not in body
    assert answer.status == (200 if stream else 503)
    (row,) = ledger(tmp_path)
    assert row["request_id"] == "under-way"
    assert row["outcome"] != "completed"
