"""kill -9 at any moment loses nothing that was answered and counts nothing twice.

Clients load a gateway while its processes are killed at random moments and started again. What the clients saw answered
is then compared with the ledger, row by row.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import signal
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from benchmarks.mock_upstream import MockUpstream
from tests.e2e.gateway_process import MASTER_KEY, GatewayProcess, free_port, running

CLIENTS = 12


@dataclass
class Truth:
    """What the clients know: every request sent, and those whose answer they saw to its end."""

    sent: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)


async def _one_request(session: aiohttp.ClientSession, url: str, request_id: str, *, stream: bool) -> bool:
    body = {"model": "stream" if stream else "unary", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    headers = {"authorization": f"Bearer {MASTER_KEY}", "x-request-id": request_id}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        content = await answer.read()
        if answer.status != 200:
            return False
        return content.endswith(b"data: [DONE]\n\n") if stream else content.endswith(b"}")


async def _client(number: int, url: str, truth: Truth, stop: asyncio.Event) -> None:
    # Every request takes a new connection: after a restart no old one is of any use.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
        count = 0
        while not stop.is_set():
            count += 1
            request_id = f"kill-{number}-{count}"
            truth.sent.add(request_id)
            try:
                if await _one_request(session, url, request_id, stream=count % 2 == 0):
                    truth.answered.add(request_id)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.02)  # the gateway is down; do not spin


def _config(directory: Path, upstream_port: int, http_port: int) -> Path:
    path = directory / "trunkline.yaml"
    path.write_text(
        f"""
data_dir: {directory / "data"}
http: {{port: {http_port}}}
grpc: {{port: {free_port()}}}
auth: {{master_key: {MASTER_KEY}}}
log: {{level: warning}}
providers:
  mock: {{catalog: openai_compatible, base_url: "http://127.0.0.1:{upstream_port}/v1", api_key: sk-mock}}
models:
  unary: {{deployments: [{{provider: mock, model: unary}}]}}
  stream: {{deployments: [{{provider: mock, model: stream}}]}}
"""
    )
    return path


async def _kill_something(gateway: GatewayProcess, dice: random.Random, *, workers: bool) -> None:
    """Kill the gateway, or with workers as often one of its children, which the gateway must start again itself."""
    children = gateway.children() if workers else []
    if children and dice.random() < 0.7:
        os.kill(dice.choice(children), signal.SIGKILL)
    else:
        await gateway.kill()
        await gateway.start(until_ready=False)


def _ledger(directory: Path) -> list[tuple[str, int, int]]:
    with contextlib.closing(sqlite3.connect(directory / "data" / "ledger.sqlite")) as ledger:
        query = "SELECT request_id, input_tokens, output_tokens FROM usage_record WHERE outcome = 'completed'"
        return list(ledger.execute(query))


async def _run(directory: Path, *, kills: int, workers: int, seed: int) -> None:
    dice = random.Random(seed)
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(MockUpstream, "127.0.0.1", 0)
    http_port = free_port()
    config = _config(directory, upstream.sockets[0].getsockname()[1], http_port)
    extra = ("--workers", str(workers)) if workers > 1 else ()
    gateway = GatewayProcess("--config", str(config), *extra, http_port=http_port, cwd=directory)
    truth, stop = Truth(), asyncio.Event()
    async with upstream, running(gateway):
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(_client(number, gateway.base_url, truth, stop))
            for _ in range(kills):
                answered = len(truth.answered)
                async with asyncio.timeout(60):
                    while len(truth.answered) < answered + 5:  # the load is on again before the next kill
                        await asyncio.sleep(0.01)
                await asyncio.sleep(dice.uniform(0.0, 0.3))  # the random moment
                await _kill_something(gateway, dice, workers=workers > 1)
            await gateway.ready(60)
            stop.set()
        async with asyncio.timeout(30):
            while truth.answered - {request_id for request_id, _, _ in _ledger(directory)}:
                await asyncio.sleep(0.1)  # journals of killed processes are adopted within seconds
        assert await gateway.stop() == 0
    rows = _ledger(directory)
    counts = collections.Counter(request_id for request_id, _, _ in rows)
    assert len(truth.answered) >= kills * 5
    assert not truth.answered - counts.keys(), "answered, and not in the ledger"
    assert [request_id for request_id, count in counts.items() if count > 1] == [], "counted twice"
    assert not counts.keys() - truth.sent, "in the ledger, and never sent"
    assert {(input_tokens, output_tokens) for _, input_tokens, output_tokens in rows} == {(24, 100)}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(300)
async def test_kill_9_under_load_loses_nothing_answered_and_counts_nothing_twice(tmp_path: Path, workers: int) -> None:
    await _run(tmp_path, kills=5, workers=workers, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(1800)
async def test_twenty_five_kills_under_load_lose_nothing_answered(tmp_path: Path, workers: int) -> None:
    await _run(tmp_path, kills=25, workers=workers, seed=2)
