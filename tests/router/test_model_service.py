"""Which names callers are told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.router.scripted import provider
from tests.router.world import KEY, World, make_world
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.providers.v1.provider_service_pb2 import Provider
from trunkline.router.v1 import model_service_pb2

MODELS: dict[str, Any] = {
    "gpt-4o": {"deployments": [{"provider": "first", "model": "x"}]},
    "second/*": {"deployments": [{"provider": "second", "model": "*"}]},
}


def listing(name: str) -> Provider:
    one = provider(name)
    one.capabilities.append("list_models")
    return one


PROVIDERS = [listing("demo"), provider("first"), listing("second"), provider("locked", usable=False)]


async def names(world: World) -> list[tuple[str, str, bool]]:
    response = await world.models.ListModels(model_service_pb2.ListModelsRequest())
    return [(model.name, model.owned_by, model.is_wildcard) for model in response.models]


async def test_configured_names_and_usable_providers_are_listed_by_name(tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS, providers=PROVIDERS) as world:
        world.providers.models["demo"] = ["echo"]
        assert await names(world) == [
            ("demo/*", "demo", True),
            ("demo/echo", "demo", False),
            ("first/*", "first", True),
            ("gpt-4o", "first", False),
            ("second/*", "second", True),
        ]


async def test_providers_are_asked_once_for_several_listings(tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS, providers=PROVIDERS) as world:
        world.providers.models["demo"] = ["echo"]
        await names(world)
        world.providers.models["demo"] = ["other"]
        assert ("demo/echo", "demo", False) in await names(world)
        assert sorted(world.providers.asked_for_models) == ["demo", "second"]


async def test_pages_go_on_where_they_ended(tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS, providers=PROVIDERS) as world:
        found: list[str] = []
        token = ""
        while True:
            request = model_service_pb2.ListModelsRequest(page_size=1, page_token=token)
            page = await world.models.ListModels(request)
            found.extend(model.name for model in page.models)
            token = page.next_page_token
            if not token:
                break
        assert found == ["demo/*", "first/*", "gpt-4o", "second/*"]


@pytest.mark.parametrize(
    ("name", "owner", "is_wildcard"),
    [
        ("gpt-4o", "first", False),
        ("second/anything", "second", False),
        ("demo/echo", "demo", False),
        ("second/*", "second", True),
    ],
)
async def test_a_model_is_found_also_by_a_wildcard(name: str, owner: str, is_wildcard: bool, tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS, providers=PROVIDERS) as world:
        model = (await world.models.GetModel(model_service_pb2.GetModelRequest(name=name))).model
        assert (model.name, model.owned_by, model.is_wildcard) == (name, owner, is_wildcard)
        assert model.created_seconds > 1_700_000_000


@pytest.mark.parametrize(
    ("name", "reason"), [("gpt-5", "MODEL_NOT_FOUND"), ("locked/x", "MODEL_NOT_FOUND"), ("", "INVALID_REQUEST")]
)
async def test_any_other_is_not(name: str, reason: str, tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS, providers=PROVIDERS) as world:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.models.GetModel(model_service_pb2.GetModelRequest(name=name))
        assert from_rpc_error(raised.value).name == reason


async def test_models_need_a_key_where_there_is_one(tmp_path: Path) -> None:
    async with make_world(tmp_path, auth={"master_key": KEY}) as world:
        requests: list[tuple[Any, Any]] = [
            (world.models.ListModels, model_service_pb2.ListModelsRequest()),
            (world.models.GetModel, model_service_pb2.GetModelRequest(name="gpt-4o")),
        ]
        for call, request in requests:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(request)
            assert from_rpc_error(raised.value).name == "CALLER_UNAUTHENTICATED"


async def test_a_page_token_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.models.ListModels(model_service_pb2.ListModelsRequest(page_token="x"))
        assert from_rpc_error(raised.value).param == "page_token"
