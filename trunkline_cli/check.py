"""`trunkline check`: everything `serve` would check before it serves, and the routes that result."""

from __future__ import annotations

import sys
from pathlib import Path

from services.providers import server as providers_server
from services.router.provider_directory import provider_facts
from services.router.routes import RouteTable
from services.runtime.config import ConfigError, environment
from trunkline.errors import GatewayError
from trunkline.providers.v1.provider_service_pb2 import Provider
from trunkline_cli.config import Config, check_exposure, load, router_config
from trunkline_cli.table import render_table

__all__ = ["check_config"]


def check_config(path: Path) -> int:
    """Print the routes and return 0, or print what is wrong, with its path, and return 1."""
    environ = environment()
    try:
        config = load(path, environ)
        check_exposure(config.http.host, config.auth.master_key, where="http.host", needs="auth.master_key")
        check_exposure(config.grpc.host, config.auth.master_key, where="grpc.host", needs="auth.master_key")
        known = providers_server.list_providers(config.providers_config(), environment=environ)
        table = _table(config, known)
    except (ConfigError, GatewayError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")  # of the file itself, which then names it already
        sys.stderr.write(f"{path}: {reason}\n")
        return 1
    problems = list(table.problems())
    for place, problem in problems:
        sys.stderr.write(f"{path}: {place}: {problem}\n")
    if problems:
        return 1
    sys.stdout.write(_routes(config, table))
    return 0


def _table(config: Config, known: list[Provider]) -> RouteTable:
    facts = {provider.name: provider_facts(provider) for provider in known}
    return RouteTable(config.models, facts, timeout=router_config(config, journal_slot="check").timeout)


def _routes(config: Config, table: RouteTable) -> str:
    rows: list[tuple[str, str, str, str]] = []
    for name in config.models:
        plan_name = name.replace("*", "any-model")
        for group in table.plan(plan_name).groups:
            label = name if group.model == plan_name else f"  then {group.model}"
            total = sum(deployment.weight for deployment in group.deployments)
            for deployment in group.deployments:
                share = f"{deployment.weight / total:.0%}" if total else "last"
                rows.append((label, deployment.name, f"{deployment.provider} {deployment.upstream_model}", share))
            for excluded in group.excluded:
                target = f"{excluded.deployment.provider} {excluded.deployment.upstream_model}"
                rows.append((label, excluded.deployment.name, target, f"out: {excluded.reason}"))
    rows += [(name, "-", owner, "100%") for name, owner in table.owners() if name not in config.models]
    return render_table(("MODEL", "DEPLOYMENT", "TARGET", "FIRST ATTEMPTS"), rows)
