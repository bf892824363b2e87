"""ProviderService: the list of providers, their models, and paging."""

from __future__ import annotations

from typing import Any

import pytest

from services.providers.catalog import load_catalog
from services.providers.config import ProvidersConfig
from services.providers.server import list_providers
from tests.providers.serving import error_of, local_channel
from tests.upstream import ScriptedUpstream, json_answer
from trunkline.providers.v1 import provider_service_pb2 as pb
from trunkline.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

SECRET = "sk-0123456789-secret"


async def test_providers_of_catalog_and_configuration_are_listed_by_name() -> None:
    providers = {"local": {"catalog": "openai_compatible", "base_url": "http://127.0.0.1:9/v1", "api_key": SECRET}}
    async with local_channel(providers, {"GROQ_API_KEY": SECRET}) as channel:
        response = await ProviderServiceStub(channel).ListProviders(pb.ListProvidersRequest())
    assert SECRET not in str(response)
    assert response.next_page_token == ""
    names = [provider.name for provider in response.providers]
    assert names == sorted([*load_catalog(), "local"])
    by_name = {provider.name: provider for provider in response.providers}
    assert by_name["local"] == pb.Provider(
        name="local",
        catalog="openai_compatible",
        dialect="openai_chat",
        capabilities=sorted(load_catalog()["openai_compatible"].capabilities),
        usable=True,
        documentation_url="https://platform.openai.com/docs/api-reference/chat",
    )
    assert (by_name["groq"].usable, list(by_name["groq"].credential_environment)) == (True, ["GROQ_API_KEY"])
    assert (by_name["openai"].usable, list(by_name["openai"].credential_environment)) == (False, ["OPENAI_API_KEY"])
    assert (by_name["anthropic"].dialect, by_name["demo"].dialect) == ("anthropic_messages", "demo")


def test_the_command_line_lists_the_same_without_a_server() -> None:
    listed = list_providers(ProvidersConfig(), environment={"OPENAI_API_KEY": SECRET})
    assert [provider.name for provider in listed] == sorted(load_catalog())
    assert {provider.name for provider in listed if provider.usable} == {"demo", "ollama", "openai", "vllm"}


async def test_pages_cover_everything_once() -> None:
    async with local_channel() as channel:
        stub = ProviderServiceStub(channel)
        names: list[str] = []
        token = ""
        while True:
            page = await stub.ListProviders(pb.ListProvidersRequest(page_size=4, page_token=token))
            assert len(page.providers) <= 4
            names += [provider.name for provider in page.providers]
            token = page.next_page_token
            if not token:
                break
    assert names == sorted(load_catalog())


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_token": "YmVmb3JlOng="}, "page_token"),
        ({"page_token": "YWZ0ZXI6/w=="}, "page_token"),
        ({"page_size": -1}, "page_size"),
    ],
)
async def test_a_page_that_is_not_ours_is_refused(members: dict[str, Any], param: str) -> None:
    async with local_channel() as channel:
        error = await error_of(ProviderServiceStub(channel).ListProviders(pb.ListProvidersRequest(**members)))
    assert (error.name, error.param) == ("INVALID_REQUEST", param)


async def test_a_providers_models_are_listed_sorted_once_and_in_pages() -> None:
    listed = {"object": "list", "data": [{"id": name} for name in ["b", "c", "a", "b"]]}
    async with ScriptedUpstream() as upstream:
        upstream.always(json_answer(listed))
        async with local_channel({"ollama": {"base_url": upstream.url}}) as channel:
            stub = ProviderServiceStub(channel)
            first = await stub.ListProviderModels(pb.ListProviderModelsRequest(provider="ollama", page_size=2))
            request = pb.ListProviderModelsRequest(provider="ollama", page_size=2, page_token=first.next_page_token)
            second = await stub.ListProviderModels(request)
    assert (list(first.models), list(second.models), second.next_page_token) == (["a", "b"], ["c"], "")
    assert (upstream.requests[0].method, upstream.requests[0].target) == ("GET", "/v1/models")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {"error": {"message": "bad key"}}, "UPSTREAM_REJECTED_CREDENTIALS"),
        (200, {"models": []}, "UPSTREAM_MALFORMED_REPLY"),
        (500, {}, "UPSTREAM_OVERLOADED"),
    ],
)
async def test_a_listing_that_fails_has_its_reason(status: int, body: object, reason: str) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.always(json_answer(body, status=status))
        async with local_channel({"ollama": {"base_url": upstream.url}}) as channel:
            call = ProviderServiceStub(channel).ListProviderModels(pb.ListProviderModelsRequest(provider="ollama"))
            error = await error_of(call)
    assert (error.name, error.metadata["provider"]) == (reason, "ollama")


async def test_models_of_an_unknown_provider_are_not_found() -> None:
    async with local_channel() as channel:
        call = ProviderServiceStub(channel).ListProviderModels(pb.ListProviderModelsRequest(provider="nobody"))
        assert (await error_of(call)).name == "RESOURCE_NOT_FOUND"
