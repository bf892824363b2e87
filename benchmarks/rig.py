"""The rig: starts the mock upstream and the gateway on cores of their own, runs wrk, and ends what it started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MASTER_KEY = "sk-bench-0123456789abcdef"
GATEWAY_CORE, LOAD_CORE = "0", "1"

_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %s"
wrk.body = '%s'
function done(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format("RESULT %%d %%f %%f %%f %%d\\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What wrk saw: requests a second, latency in milliseconds, and how many requests failed."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int

    requests: int
    """How many were answered in all."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def body_of(model: str, *, stream: bool = False) -> str:
    """Return a request of about 300 bytes."""
    request: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant that answers briefly and precisely."},
            {"role": "user", "content": "What does the quick brown fox jump over, and why does it do that every day?"},
        ],
        "temperature": 0.7,
        "max_tokens": 256,
    }
    if stream:
        request["stream"] = True
    return json.dumps(request)


@contextlib.contextmanager
def process(command: list[str], core: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command pinned to a core; it is ended on the way out."""
    with tempfile.TemporaryFile() as log:
        pinned = ["taskset", "-c", core, *command]
        child = subprocess.Popen(pinned, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield child
        finally:
            if child.poll() is not None:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            child.kill()
            child.wait()


def wait_until_answers(port: int, path: str, seconds: float = 20.0) -> None:
    """Block until GET path answers 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.01)
    raise TimeoutError(f"nothing answers on port {port}")


def wrk(port: int, body: str, *, connections: int, seconds: float, path: str = "/v1/chat/completions") -> Load:
    """Load one port from the load core and return what wrk saw."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK_SCRIPT % (MASTER_KEY, body))
        script.flush()
        options = ["-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "30s", "-s", script.name]
        command = ["taskset", "-c", LOAD_CORE, "wrk", *options, f"http://127.0.0.1:{port}{path}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"RESULT (\d+) ([\d.]+) ([\d.]+) ([\d.]+) (\d+)", output)
    if not found:
        raise RuntimeError(f"wrk said nothing to count:\n{output}")
    requests, duration, p50, p99, failed = map(float, found.groups())
    return Load(per_second=requests / duration, p50_ms=p50, p99_ms=p99, failed=int(failed), requests=int(requests))


def gateway_config(directory: Path, upstream_port: int, http_port: int, grpc_port: int) -> Path:
    """Write the configuration under test: authentication, routing and durable accounting on."""
    path = directory / "trunkline.yaml"
    path.write_text(
        f"""
data_dir: {directory / "data"}
http: {{host: 127.0.0.1, port: {http_port}}}
grpc: {{host: 127.0.0.1, port: {grpc_port}}}
auth: {{master_key: {MASTER_KEY}}}
log: {{level: warning}}
providers:
  mock: {{catalog: openai_compatible, base_url: "http://127.0.0.1:{upstream_port}/v1", api_key: sk-mock}}
models:
  unary: {{deployments: [{{provider: mock, model: unary}}]}}
  stream: {{deployments: [{{provider: mock, model: stream}}]}}
  hold: {{deployments: [{{provider: mock, model: hold}}]}}
"""
    )
    return path


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used, user and system. Unlike a rate it does not move with other load."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)
