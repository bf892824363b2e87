"""Runs what `serve` asks for: one process, or a supervisor with its workers. A start that fails is one line, exit 1."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.runtime.config import ConfigError, environment
from services.runtime.journal import JournalError
from services.runtime.serve import run
from services.runtime.telemetry import configure_logging
from trunkline.errors import GatewayError
from trunkline_cli import serve
from trunkline_cli.config import Config, check_exposure
from trunkline_cli.start_options import StartOptions
from trunkline_cli.workers import Child, supervise

__all__ = ["run_service"]

_LOG: Final = logging.getLogger("trunkline")


def run_service(part: str, options: StartOptions) -> int:
    """Run until a signal; return the exit status."""
    environ = environment()
    try:
        config = options.load(environ)
        configure_logging(config.log.level)
        _raise_file_limit()
        if part == "all" and options.workers > 1:
            return run(lambda stop: _supervise(stop, config, options))
        return run(lambda stop: _run_part(stop, part, config, environ, options))
    except (ConfigError, GatewayError, JournalError, ValueError, OSError) as error:
        # What an operator can mend: a line with the place and the reason. Anything else is a bug and shows its trace.
        sys.stderr.write(f"trunkline: {error}\n")
        return 1


async def _run_part(
    stop: asyncio.Event, part: str, config: Config, environ: Mapping[str, str], options: StartOptions
) -> int:
    watched = await serve.stop_with_stdin(stop) if options.supervised else None
    try:
        match part:
            case "router":
                return await serve.serve_router(stop, config, listen=options.listen, slot=options.slot or "router")
            case "providers":
                return await serve.serve_providers(stop, config, environ, listen=options.listen)
            case "usage":
                return await serve.serve_usage(stop, config, listen=options.listen)
            case "http":
                return await serve.serve_http(stop, config, announce=_announcer(config, quiet=True))
            case _:
                return await serve.serve_all(
                    stop,
                    config,
                    environ,
                    slot=options.slot or "0",
                    run_dir=options.run_dir,
                    announce=_announcer(config, quiet=options.supervised),
                )
    finally:
        if watched is not None:
            watched.close()


async def _supervise(stop: asyncio.Event, config: Config, options: StartOptions) -> int:
    check_exposure(config.http.host, config.auth.master_key, where="http.host", needs="auth.master_key")
    if config.http.port == 0 or config.grpc.port == 0:
        raise ConfigError("port", "several workers share a port, so it cannot be chosen by the system")
    # A directory of its own for each start: processes of one that was killed may still be draining, and a socket's path
    # is removed by whoever made it.
    with tempfile.TemporaryDirectory(prefix="trunkline-") as made:
        run_dir = Path(made)
        ledger = Child(name="usage", arguments=options.usage_arguments(serve.usage_address(run_dir)))
        workers = [
            Child(name=f"worker-{slot}", arguments=options.worker_arguments(str(slot), run_dir))
            for slot in range(options.workers)
        ]
        _greet(config, config.http.port, config.grpc.port)
        return await supervise(ledger, workers, stopping=stop, grace_seconds=config.drain_seconds)


def _raise_file_limit() -> None:
    """Allow as many open files as the system does: each stream holds two sockets, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announcer(config: Config, *, quiet: bool) -> serve.Announce:
    def announce(http_port: int, grpc_port: int) -> None:
        # What start-up made lives as long as the process: no collection need look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # the usual 700 took 4 % of a request
        _LOG.info("serving", extra={"port": http_port})
        if not quiet:
            _greet(config, http_port, grpc_port)

    return announce


def _greet(config: Config, http_port: int, grpc_port: int) -> None:
    host = "127.0.0.1" if config.http.host in {"0.0.0.0", "::", "localhost"} else config.http.host  # noqa: S104
    authorization = ""
    lines = [f"Trunkline serves HTTP on {config.http.host}:{http_port} and gRPC on {config.grpc.host}:{grpc_port}."]
    if config.auth.master_key is None:
        lines.append("There is no master key: only this machine is served, and any bearer is accepted.")
    else:
        authorization = "  -H 'authorization: Bearer '\"$TRUNKLINE_MASTER_KEY\" \\\n"
    body = '{"model": "demo/echo", "stream": true, "messages": [{"role": "user", "content": "Hello there"}]}'
    lines += [
        f"Try it (http://{host}:{http_port}/docs shows the rest):",
        "",
        f"curl -sN http://{host}:{http_port}/v1/chat/completions -H 'content-type: application/json' \\",
        f"{authorization}  -d '{body}'",
        "",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
