"""The configuration of the providers service: the entries under `providers` in the gateway's file."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr, StringConstraints

from services.runtime.config import Secret, StrictModel

__all__ = ["ProviderEntry", "ProvidersConfig"]

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# What the connection itself decides; a value of ours would break it.
_CONNECTION_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


def _header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if any(ord(character) < 0x20 or ord(character) > 0xFF or ord(character) == 0x7F for character in text.strip()):
        raise ValueError("must be printable, because it is sent in a header")
    return value


def _header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("is not a header's name")
    if name.lower() in _CONNECTION_HEADERS:
        raise ValueError("is set by the connection itself")
    return name.lower()


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
_HeaderName = Annotated[str, AfterValidator(_header_name)]
_HeaderValue = Annotated[Secret, AfterValidator(_header_value)]


class ProviderEntry(StrictModel):
    """One provider. Everything left out comes from its catalog row and the environment."""

    catalog: str | None = None
    """The catalog row it is made from. Absent: the row of the entry's own name."""
    api_key: _HeaderValue | None = None
    """The credential. Absent or empty: from the environment name that the catalog gives."""
    base_url: str | None = None
    """Where it is. Absent or empty: from the environment, else from the catalog."""
    headers: dict[_HeaderName, _HeaderValue] = Field(default_factory=dict)
    """Headers sent with each request; they replace the gateway's own of the same name."""
    connect_timeout: PositiveFloat = 5.0
    """Seconds for a free connection, name resolution, TCP and TLS together."""
    first_byte_timeout: PositiveFloat = 300.0
    """Seconds until the answer's head. An answer in one piece is written before its head comes."""
    idle_timeout: PositiveFloat = 60.0
    """Seconds of silence in the middle of an answer."""
    max_connections: PositiveInt = 10_000
    """Connections at once; a request that finds none free waits for connect_timeout."""


class ProvidersConfig(StrictModel):
    """The providers by name. Those of the catalog whose credential is in the environment need no entry."""

    providers: dict[_Name, ProviderEntry] = Field(default_factory=dict)
