"""A gateway as users run it: `trunkline serve` in processes of its own, ended by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[2]
MASTER_KEY = "sk-test-0123456789abcdef"


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GatewayProcess:
    """`trunkline serve ARGS`, started, killed and started again on the same port and data directory."""

    def __init__(self, *args: str, http_port: int, cwd: Path, environment: dict[str, str] | None = None) -> None:
        self.args = args
        self.http_port = http_port
        self.cwd = cwd
        self.log = cwd / f"gateway-{http_port}.log"
        # No key of the developer's own environment reaches a test.
        secret = re.compile(r"(_KEY|_TOKEN|_SECRET)$")
        inherited = {name: value for name, value in os.environ.items() if not secret.search(name)}
        self.environment = {**inherited, **(environment or {})}
        self.process: asyncio.subprocess.Process | None = None

    @property
    def base_url(self) -> str:
        """The address of the HTTP front."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process is not None
        return self.process.pid

    async def start(self, *, until_ready: bool = True) -> None:
        """Start it, and wait until it answers ready."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "trunkline_cli.main",
                "serve",
                *self.args,
                cwd=self.cwd,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if until_ready:
            await self.ready()

    async def ready(self, seconds: float = 30.0) -> None:
        """Wait until /health/ready answers 200; fail with the log when the process ends first."""
        async with asyncio.timeout(seconds), aiohttp.ClientSession() as session:
            while True:
                if self.process is not None and self.process.returncode is not None:
                    raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log.read_text()}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.base_url}/health/ready") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.02)  # there is no event to wait for across processes before the port is open

    def children(self) -> list[int]:
        """Return the ids of its child processes."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in found]

    async def kill(self) -> None:
        """kill -9 the process."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Ask it to stop, as an orchestrator does, and return its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(40):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def running(gateway: GatewayProcess) -> AsyncIterator[GatewayProcess]:
    """Start the gateway; stop it on the way out, whatever happened."""
    try:
        await gateway.start()
        yield gateway
    finally:
        if gateway.process is not None and gateway.process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await gateway.stop()
            await gateway.kill()
