"""A front on a loopback socket before a scripted router, and a raw HTTP client that shows each byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec

from gateway_http.app import Front, create_app
from gateway_http.config import HttpConfig
from gateway_http.server import HttpServer
from services.runtime.drain import Drain
from services.runtime.local import LocalChannel, LocalServer
from services.runtime.metrics import Metrics
from tests.http.scripted_router import KEY, Observed, ScriptedDeployments, ScriptedModels, ScriptedRouter
from trunkline.router.v1 import chat_service_pb2_grpc, deployment_service_pb2_grpc, model_service_pb2_grpc


@dataclass(frozen=True)
class Gateway:
    """A running front."""

    port: int
    observed: Observed
    drain: Drain
    server: HttpServer
    app: Front

    @property
    def base_url(self) -> str:
        """The address a client is given."""
        return f"http://127.0.0.1:{self.port}/v1"


@contextlib.asynccontextmanager
async def running_router(transport: str, observed: Observed, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """Serve a scripted router: "local" in this process, "unix" over a socket."""
    server: Any = LocalServer() if transport == "local" else grpc.aio.server()
    chat_service_pb2_grpc.add_ChatServiceServicer_to_server(ScriptedRouter(observed), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ScriptedModels(), server)
    deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server(ScriptedDeployments(), server)
    if transport == "local":
        channel: Any = LocalChannel(server)
        yield channel
        return
    address = f"unix:{folder}/router.sock"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel
    await server.stop(0)


@contextlib.asynccontextmanager
async def running_gateway(channel: grpc.aio.Channel, observed: Observed, **settings: Any) -> AsyncIterator[Gateway]:
    """Serve a front on a free loopback port."""
    config = HttpConfig(port=0, **settings)
    drain, metrics = Drain(), Metrics()
    app = create_app(channel, config, drain=drain, metrics=metrics, version="1.2.3")
    server = HttpServer(app, config)
    port = await server.start()
    try:
        yield Gateway(port=port, observed=observed, drain=drain, server=server, app=app)
    finally:
        await server.stop(grace=0.2)


@dataclass
class RawAnswer:
    """An answer as it was on the wire, chunked coding removed."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return msgspec.json.decode(self.body)


class RawClient:
    """One connection to a server, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator[RawClient]:
        """Open a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, document: object, *, path: str = "/v1/chat/completions", headers: str = "") -> None:
        """Send a chat request with the test key."""
        body = document if isinstance(document, bytes) else msgspec.json.encode(document)
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n{headers}"
        await self.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a response's head."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), headers

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body; b"" is the last."""
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(self) -> RawAnswer:
        """Read a whole answer."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while piece := await self.chunk():
                body += piece
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return RawAnswer(status, headers, body)


def chat(model: str = "demo/echo", text: str = "Hello there my friend", **members: object) -> dict[str, object]:
    """Return a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **members}
