"""What is known about a provider's address: the facts that dialects render by. Data only, no credentials, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Endpoint"]


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One configured provider, seen by its dialect.

    `name` is the provider's name in the configuration, `catalog` its row. `capabilities` are names such as "tools".
    `renames` maps OpenAI's member names to the provider's; `drops` are members it would refuse, left out with a
    warning. `options` are further facts a dialect declares and documents (such as "reasoning_member").
    """

    name: str
    catalog: str
    dialect: str
    base_url: str
    capabilities: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=_nothing)
    drops: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=_nothing)
    options: Mapping[str, str] = field(default_factory=_nothing)

    def supports(self, capability: str) -> bool:
        """Whether the provider has a capability."""
        return capability in self.capabilities
