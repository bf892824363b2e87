"""The catalog's rows, read from `catalog.toml` and checked when the service starts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final, Literal, Self

from pydantic import ValidationError, field_validator, model_validator

from services.runtime.config import ConfigError, StrictModel

__all__ = ["CAPABILITIES", "CatalogRow", "load_catalog", "parse_catalog"]

CAPABILITIES: Final = frozenset(
    {
        "completion",
        "streaming",
        "tools",
        "json_schema",
        "vision",
        "audio_input",
        "audio_output",
        "file_input",
        "reasoning",
        "count_tokens",
        "list_models",
    }
)
"""What a provider can be able to do. A request that needs one the provider lacks is refused before it is sent."""

Auth = Literal["bearer", "x_api_key", "none", "optional_bearer"]


class CatalogRow(StrictModel):
    """What is known about one provider. Either `dialect` or `custom` is set."""

    dialect: str = ""
    """The wire format it speaks, one of the registry's dialects."""
    custom: str = ""
    """The provider made of code, one of the registry's custom providers."""
    base_url: str = ""
    """Where it is. Empty when the configuration must say."""
    auth: Auth
    """How the credential is sent. With "optional_bearer" it may be missing, with "none" there is none."""
    credential_environment: tuple[str, ...] = ()
    """Environment names of the credential, the first that is set counts."""
    base_url_environment: tuple[str, ...] = ()
    """Environment names of another base URL, the first that is set counts."""
    header_environment: Mapping[str, str] = {}
    """Headers that are sent when the environment name they stand for is set."""
    headers: Mapping[str, str] = {}
    """Headers that are always sent."""
    capabilities: frozenset[str]
    """What it can do, of CAPABILITIES."""
    renames: Mapping[str, str] = {}
    """Members it knows under another name."""
    drops: frozenset[str] = frozenset()
    """Members it would refuse or silently ignore: left out, with a warning."""
    options: Mapping[str, str] = {}
    """Further facts that its dialect declares."""
    prices: str = ""
    """Its name in the price data. Empty when it has none there."""
    documentation_url: str = ""
    """Where its reference is."""

    @property
    def needs_credential(self) -> bool:
        """Whether nothing works without a credential."""
        return self.auth in ("bearer", "x_api_key")

    @field_validator("capabilities")
    @classmethod
    def _known(cls, value: frozenset[str]) -> frozenset[str]:
        if unknown := value - CAPABILITIES:
            raise ValueError(f"unknown capability {sorted(unknown)}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.dialect) == bool(self.custom):
            raise ValueError("exactly one of dialect and custom is needed")
        if self.needs_credential and not self.credential_environment:
            raise ValueError("credential_environment is needed")
        return self


def parse_catalog(text: str) -> dict[str, CatalogRow]:
    """Return the rows by name, in the file's order. Raises ConfigError with the row and the key."""
    rows: dict[str, CatalogRow] = {}
    for name, row in tomllib.loads(text).items():
        try:
            rows[name] = CatalogRow.model_validate(row)
        except ValidationError as error:
            problem = error.errors()[0]
            path = ".".join(map(str, (name, *problem["loc"])))
            raise ConfigError(f"catalog.toml: {path}", problem["msg"]) from None
    return rows


def load_catalog() -> dict[str, CatalogRow]:
    """Return the rows of the catalog that comes with this package."""
    return parse_catalog(files("services.providers").joinpath("catalog.toml").read_text(encoding="utf-8"))
