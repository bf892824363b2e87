"""`trunkline providers`: the catalog and the configured providers, what they can do, and which have a key."""

from __future__ import annotations

import sys
from pathlib import Path

from services.providers.server import list_providers
from services.runtime.config import ConfigError, environment
from trunkline_cli.config import load
from trunkline_cli.table import render_table

__all__ = ["print_providers"]


def print_providers(path: Path | None) -> int:
    """Print one line for each provider; return the exit status."""
    environ = environment()
    try:
        known = list_providers(load(path, environ).providers_config(), environment=environ)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"trunkline: {error}\n")
        return 1
    rows = [
        (
            provider.name,
            "yes" if provider.usable else "no: " + " or ".join(provider.credential_environment),
            provider.dialect,
            " ".join(provider.capabilities),
        )
        for provider in known
    ]
    sys.stdout.write(render_table(("PROVIDER", "USABLE", "DIALECT", "CAPABILITIES"), rows))
    return 0
