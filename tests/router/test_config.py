"""What the router's configuration refuses, and where it says the fault is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.router.config import RouterConfig


def load(models: dict[str, Any], **rest: Any) -> RouterConfig:
    return RouterConfig.model_validate({"journal": {"directory": Path("journal")}, "models": models, **rest})


def entry(*providers: str, **rest: Any) -> dict[str, Any]:
    return {"deployments": [{"provider": name, "model": "m"} for name in providers or ("openai",)], **rest}


def test_the_documented_shape_is_read() -> None:
    config = load(
        {
            "gpt-4o": {
                "deployments": [
                    {"provider": "openai", "model": "gpt-4o", "weight": 2},
                    {"provider": "local", "model": "gpt-4o"},
                ],
                "retries": 2,
                "fallbacks": ["claude"],
            },
            "claude": {"deployments": [{"provider": "anthropic", "model": "claude-sonnet-4-5"}]},
        }
    )
    assert [deployment.weight for deployment in config.models["gpt-4o"].deployments] == [2.0, 1.0]
    assert config.models["claude"].retries == 2


@pytest.mark.parametrize(
    ("models", "path", "problem"),
    [
        ({"a": {"deployments": []}}, "models.a.deployments", "at least 1 item"),
        ({"a": entry(fallbacks=["b"])}, "models.a.fallbacks[0]", "there is no model 'b'"),
        ({"a": entry(fallbacks=["a"])}, "models.a.fallbacks", "a -> a"),
        (
            {"a": entry(fallbacks=["b"]), "b": entry(fallbacks=["c"]), "c": entry(fallbacks=["a"])},
            "models.c.fallbacks",
            "a -> b -> c -> a",
        ),
        ({"x/*": entry(fallbacks=["x/small"])}, "models.x/*.fallbacks", "x/* -> x/*"),
        ({"a*b*": entry()}, "models.a*b*", "at most one *"),
        ({"a": entry(fallbacks=["b/*"])}, "models.a.fallbacks[0]", "a * needs one"),
        (
            {"a": {"deployments": [{"provider": "p", "model": "*"}]}},
            "models.a.deployments[0].model",
            "a * needs one",
        ),
        ({"a": {"deployments": [{"provider": "p", "model": "m", "weight": 0}]}}, "models.a", "weights"),
        ({"a": {"deployments": [{"provider": "p", "model": "m", "weight": -1}]}}, "models.a.deployments.0.weight", ""),
        (
            {"a": {"deployments": [{"provider": "p", "model": "m", "weight": float("nan")}]}},
            "models.a.deployments.0.weight",
            "",
        ),
        (
            {"a": {"deployments": [{"provider": "p", "model": "m", "weight": float("inf")}]}},
            "models.a.deployments.0.weight",
            "",
        ),
        ({"a": entry(retries=11)}, "models.a.retries", ""),
        ({"a": entry(retries=-1)}, "models.a.retries", ""),
        ({"a": entry(timeout=0)}, "models.a.timeout", ""),
        ({"a": entry(unknown=1)}, "models.a.unknown", ""),
        (
            {"a": {"deployments": [{"provider": "p", "model": "m", "name": "x"}] * 2}},
            "models.a.deployments[1].name",
            "'x'",
        ),
        (
            {"a": entry(), "b": {"deployments": [{"provider": "p", "model": "m", "name": "a/0"}]}},
            "models.b.deployments[0].name",
            "'a/0'",
        ),
    ],
)
def test_faults_are_refused_with_their_place(models: dict[str, Any], path: str, problem: str) -> None:
    with pytest.raises(ValidationError) as raised:
        load(models)
    told = "\n".join(".".join(map(str, error["loc"])) + " " + error["msg"] for error in raised.value.errors())
    assert path in told
    assert problem in told


@pytest.mark.parametrize(
    "models",
    [
        {"a": entry(fallbacks=["b", "c"]), "b": entry(fallbacks=["d"]), "c": entry(fallbacks=["d"]), "d": entry()},
        {"a": entry(fallbacks=["openrouter/meta-llama/llama-3"])},
        {"a": entry(fallbacks=["x/large"]), "x/*": entry()},
        {"x/*": entry(fallbacks=["y/*"]), "y/*": entry()},
    ],
    ids=["diamond", "provider/model", "covered by a wildcard", "wildcard to wildcard"],
)
def test_fallbacks_that_lead_somewhere_are_taken(models: dict[str, Any]) -> None:
    assert load(models).models


def test_a_short_master_key_is_refused_without_being_shown() -> None:
    with pytest.raises(ValidationError) as raised:
        load({}, auth={"master_key": "geheim"})
    assert "at least 8 characters" in str(raised.value)


def test_a_master_key_is_not_in_the_repr() -> None:
    assert "sk-very-secret" not in repr(load({}, auth={"master_key": "sk-very-secret"}))


def test_a_chain_of_a_thousand_fallbacks_is_checked() -> None:
    models = {f"m{number}": entry(fallbacks=[f"m{number + 1}"]) for number in range(1000)} | {"m1000": entry()}
    assert len(load(models).models) == 1001
