"""The gateway as real processes, in one and in four, from one configuration file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.gateway_process import free_port
from tests.e2e.service_process import ServiceProcess, serving

__all__ = ["INTERNAL_KEY", "MASTER_KEY", "Topology", "running_topology"]

MASTER_KEY = "sk-test-0123456789abcdef"
INTERNAL_KEY = "ik-test-0123456789abcdef"


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Where the services are, and their processes by name ("all", or each service's)."""

    http_port: int
    router: str
    providers: str
    usage: str
    processes: dict[str, ServiceProcess]


@contextlib.contextmanager
def running_topology(directory: Path, *, separate: bool, log_level: str = "info") -> Iterator[Topology]:
    """Start the gateway, in one process or in four, and wait until it is ready."""
    http_port, router_port, providers_port, usage_port = (free_port() for _ in range(4))
    config = directory / "trunkline.yaml"
    config.write_text(
        f"""
data_dir: {directory / "data"}
http: {{port: {http_port}}}
grpc: {{port: {router_port}}}
auth: {{master_key: {MASTER_KEY}, internal_key: {INTERNAL_KEY}}}
log: {{level: {log_level}}}
peers: {{router: "127.0.0.1:{router_port}", providers: "127.0.0.1:{providers_port}", usage: "127.0.0.1:{usage_port}"}}
models:
  echo: {{deployments: [{{provider: demo, model: echo}}], retries: 0}}
"""
    )
    names = ("usage", "providers", "router", "http") if separate else ("all",)
    processes = {name: ServiceProcess(name, "--config", str(config), log=directory / f"{name}.log") for name in names}
    with serving(*processes.values()):
        if separate:
            # The front is ready as soon as the router is; the others are called directly too.
            processes["usage"].wait_for_grpc(f"127.0.0.1:{usage_port}", "trunkline.usage.v1.UsageService")
            processes["providers"].wait_for_grpc(
                f"127.0.0.1:{providers_port}", "trunkline.providers.v1.InferenceService"
            )
        processes[names[-1]].wait_for_http(http_port)
        yield Topology(
            http_port=http_port,
            router=f"127.0.0.1:{router_port}",
            providers=f"127.0.0.1:{providers_port}",
            usage=f"127.0.0.1:{usage_port if separate else router_port}",
            processes=processes,
        )
