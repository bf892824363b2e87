"""What `serve` was asked, and how it is passed on to the processes a supervisor starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trunkline_cli.config import Config, load

__all__ = ["StartOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """The command line of `serve`. Absent options leave the configuration as it is."""

    config: Path | None
    host: str | None
    port: int | None
    grpc_port: int | None
    models: tuple[str, ...]
    workers: int
    listen: str | None
    slot: str | None
    run_dir: Path | None
    supervised: bool

    def load(self, environ: Mapping[str, str]) -> Config:
        """Return the configuration with these options over it. Raises ConfigError."""
        config = load(self.config, environ, models=self.models)
        http = {"host": self.host, "port": self.port}
        grpc = {"host": self.host, "port": self.grpc_port}
        return config.model_copy(
            update={
                "http": config.http.model_copy(update=_given(http)),
                "grpc": config.grpc.model_copy(update=_given(grpc)),
            }
        )

    def worker_arguments(self, slot: str, run_dir: Path) -> list[str]:
        """Return the arguments that make `serve` one worker of these options."""
        arguments = ["serve", "all", "--slot", slot, "--run-dir", str(run_dir), "--supervised", *self._shared()]
        for name, value in (("--host", self.host), ("--port", self.port), ("--grpc-port", self.grpc_port)):
            if value is not None:
                arguments += [name, str(value)]
        return arguments

    def usage_arguments(self, listen: str) -> list[str]:
        """Return the arguments that make `serve` the usage process of these options."""
        return ["serve", "usage", "--listen", listen, "--supervised", *self._shared()]

    def _shared(self) -> list[str]:
        arguments = ["--config", str(self.config)] if self.config is not None else []
        for model in self.models:
            arguments += ["--model", model]
        return arguments


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
