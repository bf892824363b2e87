"""The `trunkline` command. Each command parses its options, calls one function and exits with its status."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trunkline_cli.running import run_service
from trunkline_cli.start_options import StartOptions

__all__ = ["app", "main"]

app = typer.Typer(
    name="trunkline",
    help="An LLM gateway: OpenAI-compatible HTTP and typed gRPC in front of every provider.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Part(StrEnum):
    """What `serve` runs."""

    all = "all"
    router = "router"
    providers = "providers"
    usage = "usage"
    http = "http"


ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file (YAML).")]
KeyOption = Annotated[str, typer.Option("--key", envvar="TRUNKLINE_API_KEY", help="The caller's key.")]


@app.command()
def serve(
    part: Annotated[Part, typer.Argument(help="The whole gateway, or one of its services.")] = Part.all,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, for HTTP and gRPC.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port (4000).")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port (4001).")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that answer requests on one port.")] = 1,
    model: Annotated[list[str] | None, typer.Option(help="provider/model to offer; may be repeated.")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port or unix:path for one service alone.")] = None,
    slot: Annotated[str | None, typer.Option(hidden=True, help="This process's journal.")] = None,
    run_dir: Annotated[Path | None, typer.Option(hidden=True, help="What this gateway's processes share.")] = None,
    supervised: Annotated[bool, typer.Option(hidden=True, help="End when standard input ends.")] = False,
) -> None:
    """Start the gateway, or one service of it."""
    options = StartOptions(
        config=config,
        host=host,
        port=port,
        grpc_port=grpc_port,
        models=tuple(model or ()),
        workers=workers,
        listen=listen,
        slot=slot,
        run_dir=run_dir,
        supervised=supervised,
    )
    raise typer.Exit(run_service(part.value, options))


@app.command()
def check(config: Annotated[Path, typer.Argument(help="Configuration file (YAML).")]) -> None:
    """Validate a configuration and print the resolved routes; exit 1 with path and reason when it cannot be used."""
    from trunkline_cli.check import check_config  # noqa: PLC0415  # each command imports its own, for a quick start

    raise typer.Exit(check_config(config))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="The model, such as demo/echo.")],
    prompt: Annotated[str | None, typer.Argument(help="What to say; read from standard input when left out.")] = None,
    address: Annotated[str, typer.Option(help="gRPC address of the gateway.")] = "127.0.0.1:4001",
    key: KeyOption = "anonymous",
    system: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for the whole answer.")] = 600.0,
) -> None:
    """Stream an answer to the terminal."""
    from trunkline_cli.chat import stream_chat  # noqa: PLC0415

    text = prompt if prompt is not None else sys.stdin.read()
    raise typer.Exit(stream_chat(model, text, address=address, key=key, system=system, timeout=timeout))


@app.command()
def providers(config: ConfigOption = None) -> None:
    """List the providers: what they can do, and which have a key."""
    from trunkline_cli.providers import print_providers  # noqa: PLC0415

    raise typer.Exit(print_providers(config))


@app.command()
def usage(
    config: ConfigOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many records.")] = 20,
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    address: Annotated[str | None, typer.Option(help="gRPC address of a gateway. Else: this disk.")] = None,
    key: KeyOption = "anonymous",
) -> None:
    """Show the latest usage records."""
    from trunkline_cli.usage import print_usage  # noqa: PLC0415

    raise typer.Exit(print_usage(config, count=count, model=model, address=address, key=key))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
