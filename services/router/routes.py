"""From a model's name to the plan of a call: which deployments may be asked, in which groups. Pure.

A name is looked up among the exact names, then the wildcards, then as `provider/model` (split at the first slash) of a
provider that can be asked. The table is compiled once; looking up an exact name is one dictionary access.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.router.config import DeploymentEntry, ModelEntry, deployment_name
from services.router.patterns import WILDCARD, PatternIndex, matched_text, substitute
from services.router.provider_directory import ProviderFacts
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["PROVIDER_MODEL", "Deployment", "Excluded", "Group", "Plan", "RouteTable"]

PROVIDER_MODEL = "provider/model"
"""What matched a name that needs no configuration."""

_DEFAULT_RETRIES = 2
_MAX_OTHER_PLANS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One place where a model runs. `catalog` is "" when the provider is not known."""

    name: str
    model: str
    provider: str
    catalog: str
    upstream_model: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A deployment that cannot be asked, and why."""

    deployment: Deployment
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The deployments of one model: those that can be asked, and the others."""

    model: str
    deployments: tuple[Deployment, ...]
    excluded: tuple[Excluded, ...]
    max_attempts: int
    """How many attempts may go to this group."""
    first_token_timeout: float | None
    """Seconds, as in the model's entry."""
    strategy: str = "weighted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a call for a model may do: ask the groups in their order."""

    model: str
    """As the caller named it."""
    matched: str
    """The configured name that covers it, or "provider/model"."""
    groups: tuple[Group, ...]
    """The model's own, then those of its fallbacks."""
    timeout: float
    """Seconds for the whole call when the caller set no deadline."""

    @property
    def max_attempts(self) -> int:
        """How many attempts a call may make over all groups."""
        return sum(group.max_attempts for group in self.groups if group.deployments)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """The entry that covers a name. `text` is what its wildcard stands for."""

    pattern: str
    entry: ModelEntry
    text: str


class RouteTable:
    """All routes, as the configuration and the providers have them at one moment. Does not change."""

    def __init__(
        self, models: Mapping[str, ModelEntry], providers: Mapping[str, ProviderFacts], *, timeout: float
    ) -> None:
        self._models = models
        self._providers = providers
        self._timeout = timeout
        self._index = PatternIndex(models)
        self._compiled: dict[str, Group] = {}
        """The groups of exact names, shared by all plans that hold them."""
        self._plans = {name: self._make_plan(name) for name in models if WILDCARD not in name}
        self._other_plans: dict[str, Plan] = {}
        """Plans of names that only a wildcard or a provider covers, as they were asked for."""

    def plan(self, name: str) -> Plan:
        """Return the plan for a model's name. Raises MODEL_NOT_FOUND."""
        plan = self._plans.get(name) or self._other_plans.get(name)
        if plan is None:
            plan = self._make_plan(name)
            # Callers make these names up, so what is kept of them is bounded.
            if len(self._other_plans) >= _MAX_OTHER_PLANS:
                self._other_plans.clear()
            self._other_plans[name] = plan
        return plan

    def covers(self, name: str) -> bool:
        """Whether a caller may use this name, or the names it stands for."""
        return self._match(name) is not None

    def owner(self, name: str) -> str:
        """Return the provider of the first deployment of a name that is covered, or of a configured wildcard."""
        match = self._match(name)
        return match.entry.deployments[0].provider if match is not None else ""

    def owners(self) -> Iterator[tuple[str, str]]:
        """Yield (name, owner) for every configured name, and `provider/*` for each usable provider no name covers."""
        for name, entry in self._models.items():
            yield name, entry.deployments[0].provider
        for name, facts in self._providers.items():
            wildcard = f"{name}/{WILDCARD}"
            if facts.usable and self._index.find(wildcard) is None:
                yield wildcard, name

    def can_list_models(self, provider: str) -> bool:
        """Whether a provider can be asked which models it offers."""
        facts = self._providers.get(provider)
        return facts is not None and facts.usable and "list_models" in facts.capabilities

    def configured(self) -> Iterator[tuple[str, tuple[Deployment, ...]]]:
        """Yield each configured name, wildcards too, with all its deployments, in the configuration's order."""
        for name, entry in self._models.items():
            yield name, tuple(deployment for deployment, _ in self._deployments(name, name, "", entry))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (path, problem) for what the configuration says of providers and is not so."""
        for name, entry in self._models.items():
            for number, deployment in enumerate(entry.deployments):
                if deployment.provider not in self._providers:
                    path = f"models.{name}.deployments[{number}].provider"
                    yield path, f"there is no provider {deployment.provider!r}"
            for number, fallback in enumerate(entry.fallbacks):
                provider = fallback.partition("/")[0]
                if self._index.find(fallback) is None and provider not in self._providers:
                    yield f"models.{name}.fallbacks[{number}]", f"there is no provider {provider!r}"

    def _match(self, name: str) -> _Match | None:
        pattern = self._index.find(name)
        if pattern is not None:
            return _Match(pattern=pattern, entry=self._models[pattern], text=matched_text(pattern, name))
        provider, _, model = name.partition("/")
        facts = self._providers.get(provider)
        if not model or facts is None or not facts.usable:
            return None
        entry = ModelEntry.model_construct(
            deployments=[DeploymentEntry.model_construct(provider=provider, model=model, weight=1.0, name=None)],
            retries=_DEFAULT_RETRIES,
            fallbacks=[],
            timeout=None,
            first_token_timeout=None,
        )
        return _Match(pattern=PROVIDER_MODEL, entry=entry, text="")

    def _make_plan(self, name: str) -> Plan:
        # A wildcard is no name: nobody should learn what an upstream makes of a literal asterisk.
        match = self._match(name) if WILDCARD not in name else None
        if match is None:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_MODEL_NOT_FOUND,
                f"there is no model {name!r}{self._hint(name)}",
                metadata={"model": name},
            )
        groups = tuple(self._groups(name, match))
        timeout = match.entry.timeout
        return Plan(
            model=name,
            matched=match.pattern,
            groups=groups,
            timeout=self._timeout if timeout is None else timeout,
        )

    def _groups(self, name: str, match: _Match) -> Iterator[Group]:
        """Yield the name's group and, depth first, those of its fallbacks; each model once."""
        seen: set[str] = set()
        pending: list[tuple[str, _Match | None]] = [(name, match)]
        while pending:
            name, found = pending.pop()
            if found is None or name in seen:
                continue
            seen.add(name)
            yield self._group(name, found)
            fallbacks = [substitute(fallback, found.text) for fallback in found.entry.fallbacks]
            pending.extend((fallback, self._match(fallback)) for fallback in reversed(fallbacks))

    def _group(self, name: str, match: _Match) -> Group:
        group = self._compiled.get(name)
        if group is not None:
            return group
        entry = match.entry
        considered = list(self._deployments(name, match.pattern, match.text, entry))
        group = Group(
            model=name,
            deployments=tuple(deployment for deployment, reason in considered if not reason),
            excluded=tuple(Excluded(deployment=one, reason=reason) for one, reason in considered if reason),
            max_attempts=entry.retries + 1,
            first_token_timeout=entry.first_token_timeout,
        )
        if match.pattern == name:
            self._compiled[name] = group
        return group

    def _deployments(self, name: str, pattern: str, text: str, entry: ModelEntry) -> Iterator[tuple[Deployment, str]]:
        """Yield the entry's deployments, each with why it cannot be asked, "" when it can."""
        for number, deployment in enumerate(entry.deployments):
            facts = self._providers.get(deployment.provider)
            upstream_model = deployment.model if pattern == name else substitute(deployment.model, text)
            made = Deployment(
                name=deployment_name(name, number, deployment),
                model=name,
                provider=deployment.provider,
                catalog=facts.catalog if facts is not None else "",
                upstream_model=upstream_model,
                weight=deployment.weight,
            )
            if facts is None:
                yield made, f"there is no provider {deployment.provider!r}"
            elif not facts.usable:
                yield made, f"provider {deployment.provider!r} has no credentials"
            else:
                yield made, ""

    def _hint(self, name: str) -> str:
        provider = name.partition("/")[0]
        facts = self._providers.get(provider)
        return f": provider {provider!r} has no credentials" if facts is not None and not facts.usable else ""
