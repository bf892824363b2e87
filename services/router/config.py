"""What an operator says about models and callers. Everything that can be checked without a provider is checked here.

Each problem names its place in the configuration, such as `models.gpt-4o.fallbacks[1]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from services.router.patterns import WILDCARD, PatternIndex
from services.runtime.config import Secret, StrictModel

__all__ = [
    "AuthConfig",
    "DeploymentEntry",
    "JournalConfig",
    "ModelEntry",
    "RouterConfig",
    "check_models",
    "deployment_name",
]

MIN_MASTER_KEY_LENGTH = 8

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class DeploymentEntry(StrictModel):
    """One place where a model runs."""

    provider: _Name
    """The provider, by its name in the configuration or the catalog."""
    model: _Name
    """The model's name there. In an entry for a wildcard, `*` stands for what the wildcard matched."""
    weight: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 1.0
    """Its share of the calls among the model's deployments. 0: none while another is left."""
    name: _Name | None = None
    """Its name in records, logs and headers. Without one it is "<model>/<number>"."""


class ModelEntry(StrictModel):
    """A name, or a wildcard, that callers may use."""

    deployments: Annotated[list[DeploymentEntry], Field(min_length=1)]
    """Where it runs; at least one."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How many more attempts may follow a failed first one, over all of its deployments."""
    fallbacks: list[_Name] = Field(default_factory=list)
    """Models asked in this order when no deployment of this one could answer; their own fallbacks follow them."""
    timeout: _Seconds | None = None
    """Seconds a request may take over all attempts when the caller set no deadline. Absent: the router's `timeout`."""
    first_token_timeout: _Seconds | None = None
    """Seconds one attempt of a stream may take to its first content. Absent: as long as the request may."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if all(deployment.weight == 0 for deployment in self.deployments):
            msg = "the weights of all deployments are 0, so none would ever be asked"
            raise ValueError(msg)
        return self


class AuthConfig(StrictModel):
    """Who may call."""

    master_key: Secret | None = None
    """The key that may do everything. Absent: anyone who reaches the port may call, so it must be a loopback port."""

    @field_validator("master_key")
    @classmethod
    def _check_length(cls, value: Secret | None) -> Secret | None:
        if value is not None and len(value.get_secret_value()) < MIN_MASTER_KEY_LENGTH:
            msg = f"a master key has at least {MIN_MASTER_KEY_LENGTH} characters"
            raise ValueError(msg)
        return value


class JournalConfig(StrictModel):
    """How usage records are kept until the usage service has them."""

    directory: Path
    """Holds one directory per process that runs a router here."""
    slot: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "0"
    """This process's name among them. It should last over restarts."""
    sync: Literal["none", "interval"] = "interval"
    """Whether a power loss may take what the kernel holds, or only the last moments. A killed process loses nothing."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """How much may wait. Requests are refused once it is full."""


class RouterConfig(StrictModel):
    """All that the router is told."""

    journal: JournalConfig
    auth: AuthConfig = AuthConfig()
    models: dict[_Name, ModelEntry] = Field(default_factory=dict)
    """By name. A name may hold one `*`, which matches one or more characters: `openai/*`, or `*` for any name."""
    timeout: _Seconds = 600.0
    """Seconds a request may take over all attempts when neither the caller nor its model's entry says."""
    start_timeout: _Seconds = 30.0
    """Seconds to wait at start for the providers service."""

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        problems = list(check_models(self.models))
        if problems:
            raise ValueError("; ".join(f"{path}: {problem}" for path, problem in problems))
        return self


def deployment_name(model: str, number: int, entry: DeploymentEntry) -> str:
    """Return the name of a model's deployment, given or made."""
    return entry.name if entry.name is not None else f"{model}/{number}"


def check_models(models: Mapping[str, ModelEntry]) -> Iterator[tuple[str, str]]:
    """Yield (path, problem) for what is wrong between the entries. Empty when all is well."""
    yield from _check_wildcards(models)
    yield from _check_deployment_names(models)
    index = PatternIndex(models)
    successors: dict[str, list[str]] = {}
    for name, entry in models.items():
        successors[name] = []
        for number, fallback in enumerate(entry.fallbacks):
            key = index.find(fallback)
            if key is not None:
                successors[name].append(key)
            elif not _names_a_provider(fallback):
                yield f"models.{name}.fallbacks[{number}]", f"there is no model {fallback!r}"
    yield from _check_cycles(successors)


def _check_wildcards(models: Mapping[str, ModelEntry]) -> Iterator[tuple[str, str]]:
    for name, entry in models.items():
        if name.count(WILDCARD) > 1:
            yield f"models.{name}", "a name holds at most one *"
        if WILDCARD in name:
            continue
        for number, deployment in enumerate(entry.deployments):
            if WILDCARD in deployment.model:
                yield f"models.{name}.deployments[{number}].model", "a * needs one in the model's own name"
        for number, fallback in enumerate(entry.fallbacks):
            if WILDCARD in fallback:
                yield f"models.{name}.fallbacks[{number}]", "a * needs one in the model's own name"


def _check_deployment_names(models: Mapping[str, ModelEntry]) -> Iterator[tuple[str, str]]:
    places = [
        (f"models.{name}.deployments[{number}].name", deployment_name(name, number, deployment))
        for name, entry in models.items()
        for number, deployment in enumerate(entry.deployments)
    ]
    counts = Counter(name for _, name in places)
    seen: set[str] = set()
    for path, name in places:
        if counts[name] > 1 and name in seen:
            yield path, f"another deployment is named {name!r} already"
        seen.add(name)


def _names_a_provider(name: str) -> bool:
    provider, slash, model = name.partition("/")
    return bool(provider and slash and model)


def _check_cycles(successors: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Yield one problem for each entry that closes a circle of fallbacks. Iterative: a chain may be long."""
    done: set[str] = set()
    for start in successors:
        if start in done:
            continue
        path = [start]
        on_path = {start}
        pending = [iter(successors[start])]
        while pending:
            following = next(pending[-1], None)
            if following is None:
                pending.pop()
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
            elif following in on_path:
                circle = [*path[path.index(following) :], following]
                yield f"models.{path[-1]}.fallbacks", "the fallbacks go in a circle: " + " -> ".join(circle)
            elif following not in done:
                path.append(following)
                on_path.add(following)
                pending.append(iter(successors[following]))
