"""What operators are told of routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.router.world import KEY, make_world
from trunkline.errors.gateway_error import from_rpc_error
from trunkline.router.v1 import deployment_service_pb2

MODELS: dict[str, Any] = {
    "gpt-4o": {
        "deployments": [
            {"provider": "first", "model": "one", "weight": 3},
            {"provider": "locked", "model": "two"},
            {"provider": "second", "model": "three", "name": "spare"},
        ],
        "retries": 1,
        "fallbacks": ["other", "third/x"],
    },
    "other": {"deployments": [{"provider": "third", "model": "four"}], "retries": 0},
    "shut": {"deployments": [{"provider": "locked", "model": "x"}], "fallbacks": ["other"]},
    "wild/*": {"deployments": [{"provider": "first", "model": "pre-*"}]},
}


async def test_every_deployment_is_listed_by_model_and_number(tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS) as world:
        found: list[tuple[str, str, str, float]] = []
        token = ""
        while True:
            request = deployment_service_pb2.ListDeploymentsRequest(page_size=2, page_token=token)
            page = await world.deployments.ListDeployments(request)
            found.extend((one.name, one.provider, one.upstream_model, one.weight) for one in page.deployments)
            token = page.next_page_token
            if not token:
                break
        assert found == [
            ("gpt-4o/0", "first", "one", 3.0),
            ("gpt-4o/1", "locked", "two", 1.0),
            ("spare", "second", "three", 1.0),
            ("other/0", "third", "four", 1.0),
            ("shut/0", "locked", "x", 1.0),
            ("wild/*/0", "first", "pre-*", 1.0),
        ]


Candidate = tuple[str, float, str, str]
NO_KEY = "provider 'locked' has no credentials"


@pytest.mark.parametrize(
    ("model", "matched", "max_attempts", "candidates"),
    [
        (
            "gpt-4o",
            "gpt-4o",
            2 + 1 + 3,
            [
                ("gpt-4o/0", 0.75, "", ""),
                ("spare", 0.25, "", ""),
                ("gpt-4o/1", 0.0, NO_KEY, ""),
                ("other/0", 0.0, "", "other"),
                ("third/x/0", 0.0, "", "third/x"),
            ],
        ),
        ("shut", "shut", 1, [("shut/0", 0.0, NO_KEY, ""), ("other/0", 1.0, "", "other")]),
        ("wild/cat", "wild/*", 3, [("wild/cat/0", 1.0, "", "")]),
        ("second/x", "provider/model", 3, [("second/x/0", 1.0, "", "")]),
    ],
)
async def test_a_route_is_explained(
    model: str, matched: str, max_attempts: int, candidates: list[Candidate], tmp_path: Path
) -> None:
    async with make_world(tmp_path, models=MODELS) as world:
        route = await world.deployments.ExplainRoute(deployment_service_pb2.ExplainRouteRequest(model=model))
        assert (route.matched, route.max_attempts) == (matched, max_attempts)
        assert [
            (one.deployment.name, one.first_attempt_share, one.excluded_because, one.fallback_model)
            for one in route.candidates
        ] == candidates


async def test_what_has_no_route_is_not_found(tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS) as world:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.deployments.ExplainRoute(deployment_service_pb2.ExplainRouteRequest(model="nothing"))
        assert from_rpc_error(raised.value).name == "MODEL_NOT_FOUND"


async def test_operators_need_the_master_key_where_there_is_one(tmp_path: Path) -> None:
    async with make_world(tmp_path, models=MODELS, auth={"master_key": KEY}) as world:
        requests: list[tuple[Any, Any]] = [
            (world.deployments.ListDeployments, deployment_service_pb2.ListDeploymentsRequest()),
            (world.deployments.ExplainRoute, deployment_service_pb2.ExplainRouteRequest(model="gpt-4o")),
        ]
        for call, request in requests:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(request)
            assert from_rpc_error(raised.value).name == "CALLER_UNAUTHENTICATED"
            await call(request, metadata=[("authorization", f"Bearer {KEY}")])
