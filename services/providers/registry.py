"""Every provider there is, built and checked once when the service starts.

The one rule: a mistake in the catalog, the configuration or the environment stops the start, with its path; afterwards
a look-up by name is all that is left to do.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from services.providers.answers import Limits
from services.providers.auth import find_credential
from services.providers.base_url import normalise_base_url
from services.providers.catalog import CatalogRow
from services.providers.concealment import Concealment
from services.providers.config import ProviderEntry, ProvidersConfig
from services.providers.custom import demo
from services.providers.custom_provider import ComputedProvider, PureProvider
from services.providers.dialect_provider import DialectProvider
from services.providers.dialects import anthropic_messages, openai_chat
from services.providers.dialects.base import ChatDialect
from services.providers.endpoint import Endpoint
from services.providers.provider import Provider, ProviderFacts
from services.providers.transport import HttpPool, tls_context
from services.runtime.config import ConfigError
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["Registry"]

# Adding a dialect or a provider of code is adding a line here.
_DIALECTS: Final[tuple[ChatDialect, ...]] = (openai_chat.DIALECT, anthropic_messages.DIALECT)
_CUSTOM: Final[tuple[tuple[str, PureProvider], ...]] = (("demo", demo.PROVIDER),)


class Registry:
    """The providers by name: those of the configuration, and those of the catalog that no entry names."""

    def __init__(
        self, catalog: Mapping[str, CatalogRow], config: ProvidersConfig, environment: Mapping[str, str]
    ) -> None:
        """Build every provider. Raises ConfigError."""
        self._environment = environment
        self._providers: dict[str, Provider] = {}
        self._pools: list[HttpPool] = []
        self._facts: dict[str, ProviderFacts] = {}
        self._tls: ssl.SSLContext | None = None
        self._check_catalog(catalog)
        for name, entry in config.providers.items():
            row_name = entry.catalog or name
            row = catalog.get(row_name)
            if row is None:
                rows = ", ".join(sorted(catalog))
                raise ConfigError(f"providers.{name}.catalog", f"{row_name!r} is no row of the catalog ({rows})")
            self._add(name, row_name, row, entry, configured=True)
        for name, row in catalog.items():
            if name not in config.providers:
                self._add(name, name, row, ProviderEntry(), configured=False)
        self.facts: Mapping[str, ProviderFacts] = MappingProxyType(dict(sorted(self._facts.items())))

    def provider(self, name: str) -> Provider:
        """Return a usable provider. Raises RESOURCE_NOT_FOUND."""
        provider = self._providers.get(name)
        if provider is None:
            raise self._not_found(name)
        return provider

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools:
            await pool.close()

    def _not_found(self, name: str) -> GatewayError:
        facts = self._facts.get(name)
        if facts is None:
            message = f"There is no provider {name!r}."
        elif facts.credential_environment:
            names = " or ".join(facts.credential_environment)
            message = f"The provider {name} has no credential; set {names}, or providers.{name}.api_key."
        else:
            message = f"The provider {name} needs an entry with a base_url under providers."
        metadata = {"resource": f"providers/{name}", "provider": name}
        return GatewayError(error_reason_pb2.ERROR_REASON_RESOURCE_NOT_FOUND, message, metadata=metadata)

    def _check_catalog(self, catalog: Mapping[str, CatalogRow]) -> None:
        dialects = {dialect.name for dialect in _DIALECTS}
        custom = {name for name, _ in _CUSTOM}
        for name, row in catalog.items():
            if row.dialect and row.dialect not in dialects:
                raise ConfigError(f"catalog.toml: {name}.dialect", f"there is no dialect {row.dialect!r}")
            if row.custom and row.custom not in custom:
                raise ConfigError(f"catalog.toml: {name}.custom", f"there is no custom provider {row.custom!r}")

    def _add(self, name: str, row_name: str, row: CatalogRow, entry: ProviderEntry, *, configured: bool) -> None:
        """Add one provider; one of the catalog alone that lacks its credential or address is known but not usable."""
        provider: Provider | None = None
        if row.custom:
            provider = ComputedProvider(name, row.capabilities, dict(_CUSTOM)[row.custom])
        else:
            try:
                provider = self._reach(name, row_name, row, entry)
            except _MissingError as missing:
                if configured:
                    raise ConfigError(f"providers.{name}.{missing.member}", missing.reason) from None
        if provider is not None:
            self._providers[name] = provider
        self._facts[name] = ProviderFacts(
            name=name,
            catalog=row_name,
            dialect=row.dialect or row.custom,
            capabilities=tuple(sorted(row.capabilities)),
            usable=provider is not None,
            credential_environment=row.credential_environment,
            documentation_url=row.documentation_url,
            prices=row.prices,
        )

    def _reach(self, name: str, row_name: str, row: CatalogRow, entry: ProviderEntry) -> Provider:
        base_url = self._base_url(name, row, entry)
        api_key = entry.api_key.get_secret_value() if entry.api_key is not None else None
        credential = find_credential(row, api_key, self._environment)
        if credential is None:
            names = " or ".join(row.credential_environment)
            raise _MissingError("api_key", f"needed, here or as {names} in the environment")
        endpoint = Endpoint(
            name=name,
            catalog=row_name,
            dialect=row.dialect,
            base_url=base_url,
            capabilities=row.capabilities,
            renames=row.renames,
            drops=row.drops,
            headers=row.headers,
            options=row.options,
        )
        limits = Limits(
            connect_timeout=entry.connect_timeout,
            first_byte_timeout=entry.first_byte_timeout,
            idle_timeout=entry.idle_timeout,
            max_connections=entry.max_connections,
        )
        headers = {"user-agent": "trunkline", **row.headers, **self._environment_headers(row), **credential.headers}
        own_headers = {header: value.get_secret_value().strip() for header, value in entry.headers.items()}
        headers |= own_headers
        if base_url.startswith("https:") and self._tls is None:
            self._tls = tls_context()
        pool = HttpPool(name, base_url, headers, limits, self._tls)
        self._pools.append(pool)
        dialect = next(dialect for dialect in _DIALECTS if dialect.name == row.dialect)
        secrets = [*credential.headers.values(), *own_headers.values()]
        concealment = Concealment(secret.removeprefix("Bearer ") for secret in secrets)
        return DialectProvider(endpoint, dialect, pool, concealment)

    def _base_url(self, name: str, row: CatalogRow, entry: ProviderEntry) -> str:
        path = f"providers.{name}.base_url"
        given = entry.base_url or ""
        for variable in row.base_url_environment:
            if not given.strip():
                given, path = self._environment.get(variable, ""), f"environment {variable}"
        if not given.strip():
            if not row.base_url:
                raise _MissingError("base_url", "needed")
            return row.base_url
        try:
            return normalise_base_url(given, row.base_url)
        except ValueError as error:
            raise ConfigError(path, str(error)) from None

    def _environment_headers(self, row: CatalogRow) -> dict[str, str]:
        found = {header: self._environment.get(variable, "") for header, variable in row.header_environment.items()}
        return {header: value.strip() for header, value in found.items() if value.strip()}


class _MissingError(Exception):
    """A provider lacks its credential or its address."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(member)
        self.member = member
        self.reason = reason
