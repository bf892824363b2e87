"""The registry: which providers there are for a configuration and an environment, and what stops the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from services.providers.catalog import load_catalog, parse_catalog
from services.providers.config import ProvidersConfig
from services.providers.registry import Registry
from services.providers.server import list_providers
from services.runtime.config import ConfigError
from tests.upstream import ScriptedUpstream, json_answer
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

SECRET = "sk-0123456789-secret"


def config_of(providers: Mapping[str, Any] | None = None) -> ProvidersConfig:
    return ProvidersConfig.model_validate({"providers": providers or {}})


def registry_of(providers: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Registry:
    return Registry(load_catalog(), config_of(providers), environment or {})


def usable(registry: Registry) -> set[str]:
    return {name for name, facts in registry.facts.items() if facts.usable}


def test_without_anything_only_those_are_usable_that_need_nothing() -> None:
    registry = registry_of()
    assert usable(registry) == {"demo", "ollama", "vllm"}
    assert set(registry.facts) == set(load_catalog())


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("OPENAI_API_KEY", "openai"),
        ("ANTHROPIC_API_KEY", "anthropic"),
        ("GROQ_API_KEY", "groq"),
        ("DEEPSEEK_API_KEY", "deepseek"),
        ("OPENROUTER_API_KEY", "openrouter"),
    ],
)
def test_a_key_in_the_environment_makes_its_provider_usable(variable: str, name: str) -> None:
    assert usable(registry_of(environment={variable: SECRET})) == {"demo", "ollama", "vllm", name}
    assert registry_of().facts[name].credential_environment == (variable,)


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_blank_is_not_given(blank: str) -> None:
    assert "openai" not in usable(registry_of(environment={"OPENAI_API_KEY": blank, "OPENAI_BASE_URL": blank}))
    with pytest.raises(ConfigError, match=r"^providers\.openai\.api_key: needed"):
        registry_of({"openai": {"api_key": blank}})


def test_an_entry_may_have_any_name_and_several_may_share_a_row() -> None:
    registry = registry_of(
        {
            "first": {"catalog": "openai_compatible", "base_url": "http://127.0.0.1:1/v1"},
            "second": {"catalog": "openai_compatible", "base_url": "http://127.0.0.1:2/v1", "api_key": SECRET},
            "openai": {"api_key": SECRET},
        }
    )
    assert usable(registry) == {"demo", "ollama", "vllm", "first", "second", "openai"}
    assert (registry.facts["second"].catalog, registry.facts["second"].dialect) == ("openai_compatible", "openai_chat")


@pytest.mark.parametrize(
    ("providers", "environment", "message"),
    [
        ({"openai": {}}, {}, r"^providers\.openai\.api_key: needed, here or as OPENAI_API_KEY in the environment$"),
        ({"local": {"catalog": "openai_compatible"}}, {}, r"^providers\.local\.base_url: needed$"),
        ({"local": {"base_url": "http://127.0.0.1:1"}}, {}, r"^providers\.local\.catalog: 'local' is no row .*groq"),
        ({"local": {"catalog": "nope"}}, {}, r"^providers\.local\.catalog: 'nope' is no row"),
        ({"ollama": {"base_url": "ftp://x"}}, {}, r"^providers\.ollama\.base_url: must begin with http"),
        (
            {"ollama": {"base_url": f"http://u:{SECRET}@x"}},
            {},
            r"^providers\.ollama\.base_url: must hold no credentials",
        ),
        ({}, {"OLLAMA_HOST": "http://a..b"}, r"^environment OLLAMA_HOST: must have a valid host"),
    ],
)
def test_what_is_missing_or_wrong_stops_the_start_with_its_path(
    providers: dict[str, Any], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        registry_of(providers, environment)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"api_keys": SECRET}, ("api_keys",)),
        ({"api_key": f"{SECRET}\nx-evil: 1"}, ("api_key",)),
        ({"api_key": f"{SECRET} \u2026"}, ("api_key",)),
        ({"headers": {"bad name": "x"}}, ("headers", "bad name", "[key]")),
        ({"headers": {"Host": "x"}}, ("headers", "Host", "[key]")),
        ({"headers": {"x-a": f"{SECRET}\r\n"[:5] + "\r\nx: y"}}, ("headers", "x-a")),
        ({"idle_timeout": 0}, ("idle_timeout",)),
        ({"connect_timeout": -1}, ("connect_timeout",)),
        ({"max_connections": 0}, ("max_connections",)),
    ],
)
def test_a_wrong_entry_is_refused_with_its_path_and_without_its_secret(
    entry: dict[str, Any], path: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        config_of({"openai": entry})
    problem = caught.value.errors(include_input=False, include_url=False)[0]
    assert problem["loc"] == ("providers", "openai", *path)
    assert SECRET not in problem["msg"]


@pytest.mark.parametrize("name", ["a/b", "", " x", "ä", "x" * 65])
def test_a_provider_name_must_fit_before_a_slash(name: str) -> None:
    with pytest.raises(ValidationError):
        config_of({name: {"catalog": "ollama"}})


ROW = 'auth = "none"\ncapabilities = ["completion"]\n'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('dialect = "morse"', r"^catalog.toml: acme.dialect: there is no dialect 'morse'"),
        ('custom = "abacus"', r"^catalog.toml: acme.custom: there is no custom provider 'abacus'"),
    ],
)
def test_a_row_with_an_unknown_dialect_stops_the_start(row: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Registry(parse_catalog(f"[acme]\n{ROW}{row}"), config_of(), {})


def test_no_secret_is_in_a_repr() -> None:
    config = config_of({"openai": {"api_key": SECRET, "headers": {"x-key": SECRET}}})
    registry = Registry(load_catalog(), config, {"GROQ_API_KEY": SECRET})
    shown = repr(config) + str(config) + repr(registry.facts) + repr(registry.provider("openai"))
    shown += repr(list_providers(config, environment={"GROQ_API_KEY": SECRET}))
    assert SECRET not in shown


async def headers_sent(entry: dict[str, Any], environment: Mapping[str, str], path: str = "") -> Mapping[str, str]:
    """Return the headers that a provider built from an entry sends when it is asked for its models."""
    async with ScriptedUpstream() as upstream:
        upstream.always(json_answer({"data": []}))
        registry = registry_of({"acme": {"base_url": f"{upstream.url}{path}", **entry}}, environment)
        await registry.provider("acme").list_models(deadline=None)
        await registry.close()
    return upstream.requests[0].headers


async def test_the_configured_key_goes_before_the_environment() -> None:
    headers = await headers_sent({"catalog": "openai", "api_key": f" {SECRET}\n"}, {"OPENAI_API_KEY": "sk-other"})
    assert headers["authorization"] == f"Bearer {SECRET}"
    headers = await headers_sent({"catalog": "openai"}, {"OPENAI_API_KEY": "sk-other"})
    assert headers["authorization"] == "Bearer sk-other"


async def test_anthropic_gets_its_key_in_its_own_header() -> None:
    headers = await headers_sent({"catalog": "anthropic", "api_key": SECRET}, {})
    assert (headers["x-api-key"], headers["anthropic-version"]) == (SECRET, "2023-06-01")
    assert "authorization" not in headers


async def test_an_optional_key_may_be_missing() -> None:
    headers = await headers_sent({"catalog": "vllm"}, {})
    assert "authorization" not in headers
    assert (await headers_sent({"catalog": "vllm"}, {"VLLM_API_KEY": "k"}))["authorization"] == "Bearer k"


async def test_headers_of_the_entry_and_of_the_environment_are_sent() -> None:
    headers = await headers_sent(
        {"catalog": "openai", "api_key": SECRET, "headers": {"X-Team": "blue", "User-Agent": "mine"}},
        {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": ""},
    )
    assert (headers["x-team"], headers["openai-organization"], headers["user-agent"]) == ("blue", "org-1", "mine")
    assert "openai-project" not in headers


@pytest.mark.parametrize(
    ("row", "variable", "suffix", "target"),
    [
        ("ollama", "OLLAMA_HOST", "", "/v1/models"),
        ("ollama", "OLLAMA_BASE_URL", "/v1/", "/v1/models"),
        ("openai", "OPENAI_BASE_URL", "/v1", "/v1/models"),
        ("groq", "GROQ_BASE_URL", "", "/openai/v1/models"),
        ("anthropic", "ANTHROPIC_BASE_URL", "", "/v1/models?limit=1000"),
        ("anthropic", "ANTHROPIC_BASE_URL", "/v1", "/v1/models?limit=1000"),
        ("deepseek", "DEEPSEEK_BASE_URL", "", "/models"),
        ("vllm", "VLLM_BASE_URL", "", "/v1/models"),
    ],
)
async def test_the_address_comes_from_the_environment(row: str, variable: str, suffix: str, target: str) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.always(json_answer({"data": [{"id": "m"}]}))
        environment = {
            variable: upstream.url + suffix,
            **dict.fromkeys(load_catalog()[row].credential_environment, "k"),
        }
        registry = registry_of(environment=environment)
        assert await registry.provider(row).list_models(deadline=None) == ["m"]
        await registry.close()
    assert upstream.requests[0].target == target


async def test_the_timeouts_of_the_entry_hold() -> None:
    async with ScriptedUpstream() as upstream:
        registry = registry_of({"ollama": {"base_url": upstream.url, "first_byte_timeout": 0.05}})
        upstream.always()
        with pytest.raises(GatewayError) as caught:
            await registry.provider("ollama").list_models(deadline=None)
        await registry.close()
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_UPSTREAM_TIMEOUT
