"""Credentials as headers. A credential is turned into its header once, when the service starts, and never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.providers.catalog import CatalogRow

__all__ = ["Credential", "find_credential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The headers that prove who the gateway is; none for a provider that asks for none."""

    headers: Mapping[str, str] = field(repr=False, default_factory=dict)


def find_credential(row: CatalogRow, api_key: str | None, environment: Mapping[str, str]) -> Credential | None:
    """Return the credential of a provider: the configured key, else the environment's. None when it needs one more.

    Blank counts as not given. White space around a key, as files and shells leave it, is not part of it.
    """
    if row.auth == "none":
        return Credential()
    given = (api_key, *(environment.get(name) for name in row.credential_environment))
    key = next((text for value in given if value and (text := value.strip())), None)
    if key is None:
        return None if row.needs_credential else Credential()
    if row.auth == "x_api_key":
        return Credential(headers={"x-api-key": key})
    return Credential(headers={"authorization": f"Bearer {key}"})
