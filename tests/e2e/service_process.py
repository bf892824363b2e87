"""Processes of `trunkline`, for fixtures that outlive a test: no event loop owns them. Ended by their ids."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.config import environment

__all__ = ["ServiceProcess", "clean_environment", "run_trunkline", "serving"]

_SECRET = re.compile(r"(_KEY|_TOKEN|_SECRET)$")


def clean_environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which no key of the developer's own reaches a test."""
    inherited = {name: value for name, value in environment().items() if not _SECRET.search(name)}
    return {**inherited, **(added or {})}


def run_trunkline(
    *arguments: str, cwd: Path, added: Mapping[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "trunkline_cli.main", *arguments],
        cwd=cwd,
        env=clean_environment(added),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class ServiceProcess:
    """`trunkline serve ARGUMENTS`: started, ended, started again. Its output is in `log`."""

    def __init__(self, *arguments: str, log: Path, added: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self.log = log
        self._environment = clean_environment(added)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trunkline_cli.main", "serve", *self.arguments],
                cwd=self.log.parent,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def terminate(self) -> int:
        """Ask it to stop and return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def end(self) -> None:
        """See to it that it is gone."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_for_http(self, port: int, seconds: float = 40.0) -> None:
        """Wait until its front answers ready."""
        self._wait(lambda: _answers_ready(port), seconds)

    def wait_for_grpc(self, address: str, service: str, seconds: float = 40.0) -> None:
        """Wait until its health service says that a service serves."""
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            self._wait(lambda: _serves(stub, service), seconds)

    def _wait(self, is_ready: object, seconds: float) -> None:
        assert callable(is_ready)
        deadline = time.monotonic() + seconds
        while not is_ready():
            assert self._process is not None
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.arguments}: status {status}:\n{self.log.read_text()}")
            time.sleep(0.02)  # nothing tells a process that another one listens


def _answers_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _serves(stub: health_pb2_grpc.HealthStub, service: str) -> bool:
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextlib.contextmanager
def serving(*processes: ServiceProcess) -> Iterator[None]:
    """Start processes, and end them whatever happens, the last first."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in reversed(processes):
            process.end()
