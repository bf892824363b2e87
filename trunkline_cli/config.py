"""The configuration file as a whole, and each service's share of it. Everything is checked before anything starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from gateway_http.config import HttpConfig
from services.providers.config import ProviderEntry, ProvidersConfig
from services.router.config import AuthConfig as RouterAuthConfig
from services.router.config import ModelEntry, RouterConfig
from services.runtime.config import ConfigError, Secret, StrictModel, load_yaml, validate
from services.usage.config import UsageConfig

__all__ = ["AuthConfig", "Config", "GrpcConfig", "LogConfig", "PeersConfig", "check_exposure", "load", "router_config"]


class GrpcConfig(StrictModel):
    """Where the gRPC services listen."""

    host: str = "127.0.0.1"
    port: int = Field(default=4001, ge=0, le=65535)


class AuthConfig(RouterAuthConfig):
    """Who may call. Without a master key the gateway serves this machine only and accepts any bearer."""

    internal_key: Secret | None = None
    """What the router presents to the other services when they are separate processes."""


class PeersConfig(StrictModel):
    """Addresses ("host:port" or "unix:path") of services that run as processes of their own."""

    router: str = "127.0.0.1:4001"
    providers: str = "127.0.0.1:4002"
    usage: str = "127.0.0.1:4003"


class LogConfig(StrictModel):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(StrictModel):
    """The file."""

    data_dir: Path = Path("data")
    drain_seconds: float = Field(default=30.0, ge=0, le=3600)
    """How long calls in flight may go on after SIGTERM."""
    http: HttpConfig = HttpConfig()
    grpc: GrpcConfig = GrpcConfig()
    auth: AuthConfig = AuthConfig()
    peers: PeersConfig = PeersConfig()
    log: LogConfig = LogConfig()
    providers: dict[str, ProviderEntry] = Field(default_factory=dict)
    models: dict[str, ModelEntry] = Field(default_factory=dict)
    usage: UsageConfig = UsageConfig()

    def providers_config(self) -> ProvidersConfig:
        """Return what the providers service needs."""
        return ProvidersConfig(providers=self.providers)

    def usage_config(self) -> UsageConfig:
        """Return what the usage service needs; its ledger is in the data directory unless the file says otherwise."""
        if self.usage.database is not None:
            return self.usage
        return self.usage.model_copy(update={"database": self.data_dir / "ledger.sqlite"})


def load(path: Path | None, environ: Mapping[str, str], *, models: tuple[str, ...] = ()) -> Config:
    """Read and check the file; without one every default holds. `models` adds "provider/model" names.

    Raises ConfigError with the path of the member at fault.
    """
    data = load_yaml(path, environ) if path is not None else {}
    config = validate(Config, data, str(path or ""))
    added: dict[str, ModelEntry] = {}
    for name in models:
        provider, slash, upstream_model = name.partition("/")
        if not (provider and slash and upstream_model):
            raise ConfigError("--model", f"{name!r} is not of the form provider/model")
        entry = validate(ModelEntry, {"deployments": [{"provider": provider, "model": upstream_model}]}, "--model")
        added[name] = entry
        added.setdefault(upstream_model, entry)
    return config.model_copy(update={"models": {**added, **config.models}})


def router_config(config: Config, *, journal_slot: str) -> RouterConfig:
    """Return what the router needs; each router process has a journal slot of its own."""
    journal = {"directory": config.data_dir / "journal", "slot": journal_slot}
    auth = {"master_key": config.auth.master_key}
    return validate(RouterConfig, {"journal": journal, "auth": auth, "models": config.models})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on the host."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, key: Secret | None, *, where: str, needs: str) -> None:
    """Refuse to listen beyond this machine without the key that guards the listener. Raises ConfigError."""
    if key is None and not is_loopback(host):
        raise ConfigError(where, f"{host} is reachable from other machines; set {needs} or listen on 127.0.0.1")
