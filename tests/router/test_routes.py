"""From a model's name to the plan of a call."""

from __future__ import annotations

import time
from typing import Any

import pytest

from services.router.config import ModelEntry
from services.router.provider_directory import ProviderFacts
from services.router.routes import Plan, RouteTable
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

PROVIDERS = {
    name: ProviderFacts(name=name, catalog=catalog, usable=usable)
    for name, catalog, usable in [
        ("openai", "openai", True),
        ("local", "openai_compatible", True),
        ("openrouter", "openrouter", True),
        ("anthropic", "anthropic", False),
    ]
}


def table(models: dict[str, Any]) -> RouteTable:
    entries = {name: ModelEntry.model_validate(entry) for name, entry in models.items()}
    return RouteTable(entries, PROVIDERS, timeout=600.0)


def on(provider: str, model: str, **rest: Any) -> dict[str, Any]:
    return {"deployments": [{"provider": provider, "model": model}], **rest}


def targets(plan: Plan) -> list[list[tuple[str, str, str]]]:
    return [[(one.name, one.provider, one.upstream_model) for one in group.deployments] for group in plan.groups]


ROUTES = {
    "gpt-4o": on("openai", "gpt-4o-2024"),
    "openai/*": on("openai", "*"),
    "openai/gpt-5*": on("local", "five*"),
    "openai/exact": on("local", "exact"),
    "*-mini": on("local", "small"),
}


@pytest.mark.parametrize(
    ("name", "matched", "target"),
    [
        ("gpt-4o", "gpt-4o", ("gpt-4o/0", "openai", "gpt-4o-2024")),
        ("openai/exact", "openai/exact", ("openai/exact/0", "local", "exact")),
        ("openai/o3", "openai/*", ("openai/o3/0", "openai", "o3")),
        ("openai/gpt-5-pro", "openai/gpt-5*", ("openai/gpt-5-pro/0", "local", "five-pro")),
        ("openai/gpt-5-mini", "openai/gpt-5*", ("openai/gpt-5-mini/0", "local", "five-mini")),
        ("anything-mini", "*-mini", ("anything-mini/0", "local", "small")),
        ("local/llama", "provider/model", ("local/llama/0", "local", "llama")),
        ("openrouter/meta-llama/llama-3", "provider/model", ("openrouter/meta-llama/llama-3/0", "openrouter",
                                                             "meta-llama/llama-3")),
    ],
)  # fmt: skip
def test_a_name_is_found_exactly_then_by_its_longest_wildcard_then_as_provider_and_model(
    name: str, matched: str, target: tuple[str, str, str]
) -> None:
    plan = table(ROUTES).plan(name)
    assert plan.matched == matched
    assert targets(plan) == [[target]]
    assert plan.max_attempts == 3


@pytest.mark.parametrize("name", ["gpt-4", "openai", "openai/", "/gpt-4o", "acme/x", "anthropic/claude", "openai/*"])
def test_any_other_name_is_not_found(name: str) -> None:
    routes = table({"gpt-4o": on("openai", "gpt-4o")})
    with pytest.raises(GatewayError) as raised:
        routes.plan(name)
    assert raised.value.reason == error_reason_pb2.ERROR_REASON_MODEL_NOT_FOUND
    assert raised.value.metadata == {"model": name}
    assert ("no credentials" in raised.value.message) == name.startswith("anthropic")


def test_a_star_alone_covers_everything_that_has_no_name_of_its_own() -> None:
    routes = table({"*": on("openrouter", "*"), "a": on("local", "a")})
    assert targets(routes.plan("x/y")) == [[("x/y/0", "openrouter", "x/y")]]
    assert routes.plan("a").matched == "a"


def test_fallbacks_follow_depth_first_each_model_once() -> None:
    routes = table(
        {
            "a": on("openai", "a", fallbacks=["b", "d"], retries=0),
            "b": on("openai", "b", fallbacks=["c"], retries=1),
            "c": on("local", "c", fallbacks=["d"]),
            "d": on("local", "d"),
        }
    )
    plan = routes.plan("a")
    assert [group.model for group in plan.groups] == ["a", "b", "c", "d"]
    assert plan.max_attempts == 1 + 2 + 3 + 3


def test_a_wildcard_stands_for_the_same_text_in_its_fallbacks() -> None:
    plan = table({"openai/*": on("openai", "*", fallbacks=["openrouter/openai/*"])}).plan("openai/o3")
    assert targets(plan) == [
        [("openai/o3/0", "openai", "o3")],
        [("openrouter/openai/o3/0", "openrouter", "openai/o3")],
    ]


def test_deployments_that_cannot_be_asked_are_set_aside_with_the_reason() -> None:
    routes = table({"a": {"deployments": [
        {"provider": "anthropic", "model": "x"},
        {"provider": "openai", "model": "y", "name": "mine"},
        {"provider": "nobody", "model": "z"},
    ]}})  # fmt: skip
    (group,) = routes.plan("a").groups
    assert [one.name for one in group.deployments] == ["mine"]
    assert {one.deployment.name: one.reason for one in group.excluded} == {
        "a/0": "provider 'anthropic' has no credentials",
        "a/2": "there is no provider 'nobody'",
    }
    assert list(routes.problems()) == [("models.a.deployments[2].provider", "there is no provider 'nobody'")]


def test_a_fallback_to_a_provider_that_is_not_there_is_a_problem() -> None:
    routes = table({"a": on("openai", "a", fallbacks=["acme/x"])})
    assert list(routes.problems()) == [("models.a.fallbacks[0]", "there is no provider 'acme'")]


def test_the_catalog_row_comes_with_the_deployment() -> None:
    (group,) = table({"a": on("local", "x")}).plan("a").groups
    assert group.deployments[0].catalog == "openai_compatible"


def test_what_is_kept_of_names_that_callers_make_up_is_bounded() -> None:
    routes = table({"*": on("local", "*")})
    for number in range(2500):
        assert routes.plan(f"name-{number}").matched == "*"
    assert len(routes._other_plans) <= 1000


def test_a_chain_of_a_thousand_fallbacks_compiles() -> None:
    chain = {f"m{number}": on("openai", "x", fallbacks=[f"m{number + 1}"]) for number in range(999)}
    routes = table(chain | {"m999": on("local", "x")})
    assert [group.model for group in routes.plan("m0").groups][-1] == "m999"


def test_a_thousand_models_of_ten_deployments_compile_in_a_second_and_are_found_at_once() -> None:
    models = {
        f"m{number}": {"deployments": [{"provider": "openai", "model": f"x{n}"} for n in range(10)]}
        for number in range(1000)
    }
    start = time.perf_counter()
    routes = table(models)
    assert time.perf_counter() - start < 1
    start = time.perf_counter()
    for _ in range(1000):
        routes.plan("m999")
    assert (time.perf_counter() - start) / 1000 < 20e-6
