"""The whole gateway in this process, put together by the composition root itself, before upstreams that a test scripts.

Its ledger is read from disk after it has stopped, so what is counted is what was kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from services.runtime.config import validate
from tests.upstream import ScriptedUpstream
from trunkline_cli import serve
from trunkline_cli.config import Config

__all__ = ["KEY", "PROVIDER_KEY", "Answer", "Gateway", "Row", "chat", "ledger", "provider", "running_gateway"]

KEY = "sk-master-0123456789abcdef"
PROVIDER_KEY = "sk-provider-0123456789abcdef"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer over HTTP, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body of an answer in one piece."""
        return json.loads(self.body)

    @property
    def frames(self) -> list[str]:
        """The data of each event of a stream."""
        assert self.headers["content-type"].startswith("text/event-stream")
        blocks = self.body.decode().split("\n\n")
        assert blocks[-1] == "", "the last event lacks its end"
        return [block.removeprefix("data: ") for block in blocks[:-1] if not block.startswith(":")]

    @property
    def documents(self) -> list[Any]:
        """The events of a stream as JSON, without the `[DONE]`."""
        return [json.loads(frame) for frame in self.frames if frame != "[DONE]"]

    @property
    def text(self) -> str:
        """What the model said."""
        if self.headers["content-type"].startswith("text/event-stream"):
            deltas = [choice["delta"] for chunk in self.documents for choice in chunk.get("choices", ())]
            return "".join(delta.get("content") or "" for delta in deltas)
        text: str = self.json["choices"][0]["message"]["content"]
        return text


@dataclass(slots=True, kw_only=True)
class Gateway:
    """A gateway that runs."""

    config: Config
    http_port: int
    grpc_port: int
    session: aiohttp.ClientSession
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Where its HTTP front is."""
        return f"http://127.0.0.1:{self.http_port}"

    async def ask(self, document: object, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a chat, or bytes as they are."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return await self.request("POST", "/v1/chat/completions", data=data, headers=headers)

    async def request(
        self, method: str, path: str, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send any request, with the master key."""
        all_headers = {"authorization": f"Bearer {KEY}", **(headers or {})}
        async with self.session.request(method, self.url + path, data=data, headers=all_headers) as answer:
            lower = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(status=answer.status, headers=lower, body=await answer.read())


def chat(model: str = "m", text: str = "Hello", **members: object) -> dict[str, object]:
    """Return a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **members}


def provider(upstream: ScriptedUpstream | str, **members: object) -> dict[str, object]:
    """Return the entry of a provider that speaks OpenAI's format, with time limits that a test can wait for."""
    url = upstream if isinstance(upstream, str) else upstream.url
    limits = {"connect_timeout": 2.0, "first_byte_timeout": 0.4, "idle_timeout": 0.4}
    return {"catalog": "openai_compatible", "base_url": f"{url}/v1", "api_key": PROVIDER_KEY, **limits, **members}


@contextlib.asynccontextmanager
async def running_gateway(
    directory: Path, document: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Gateway]:
    """Serve the configuration on free loopback ports, its data below the directory."""
    defaults = {
        "data_dir": str(directory / "data"),
        "http": {"port": 0},
        "grpc": {"port": 0},
        "auth": {"master_key": KEY},
        "drain_seconds": 5,
    }
    config = validate(Config, {**defaults, **document})
    stop = asyncio.Event()
    ports: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve.serve_all(stop, config, environment or {}, announce=lambda http, grpc: ports.set_result((http, grpc)))
    )
    try:
        either: tuple[asyncio.Future[Any], ...] = (task, ports)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        http_port, grpc_port = ports.result()
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
            yield Gateway(config=config, http_port=http_port, grpc_port=grpc_port, session=session, stop=stop)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


def ledger(directory: Path) -> list[Row]:
    """Return the records of a gateway that has stopped, oldest first."""
    with contextlib.closing(sqlite3.connect(directory / "data" / "ledger.sqlite")) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM usage_record ORDER BY start_time_us, record_id")
        found = [dict(row) for row in rows]
    for row in found:
        row["labels"] = json.loads(row.pop("labels_json"))
        row["attempts"] = json.loads(row.pop("attempts_json"))
    return found
