"""The routes beside chat: models, health, metrics, the API's own description."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starlette.routing import Route

from gateway_http.openapi import openapi_document
from tests.http.conftest import StartGateway
from tests.http.gateway import Gateway, RawAnswer, RawClient, running_gateway
from tests.http.scripted_router import CREATED, KEY, Observed
from tests.http.test_errors import check_shape


async def get(gateway: Gateway, path: str, *, key: str | None = KEY) -> RawAnswer:
    """Ask for a path."""
    async with RawClient.connected(gateway.port) as client:
        credential = "" if key is None else f"authorization: Bearer {key}\r\n"
        await client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n{credential}\r\n".encode())
        return await client.answer()


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/", "//models"])
async def test_models_are_listed_over_all_pages_without_patterns(gateway: Gateway, path: str) -> None:
    answer = await get(gateway, path)
    assert answer.status == 200
    assert answer.json() == {
        "object": "list",
        "data": [
            {"id": "demo/echo", "object": "model", "created": CREATED, "owned_by": "demo"},
            {"id": "gpt-4o", "object": "model", "created": CREATED, "owned_by": "openai"},
        ],
    }


@pytest.mark.parametrize("path", ["/v1/models/openai/gpt-4o", "/models/openai/gpt-4o", "/v1/models/openai%2Fgpt-4o"])
async def test_a_model_is_found_by_a_name_with_slashes(gateway: Gateway, path: str) -> None:
    answer = await get(gateway, path)
    assert (answer.status, answer.json()["id"]) == (200, "openai/gpt-4o")


async def test_an_unknown_model_is_a_404(gateway: Gateway) -> None:
    answer = await get(gateway, "/v1/models/nope")
    assert (answer.status, check_shape(answer)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o"])
async def test_models_are_for_those_with_a_key(gateway: Gateway, path: str) -> None:
    answer = await get(gateway, path, key="sk-wrong")
    assert (answer.status, check_shape(answer)["code"]) == (401, "invalid_api_key")


async def test_live_and_ready_without_a_key(gateway: Gateway) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = await get(gateway, path, key=None)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})


async def test_a_draining_server_is_live_but_not_ready(gateway: Gateway) -> None:
    gateway.drain.begin()
    assert (await get(gateway, "/health/live")).status == 200
    answer = await get(gateway, "/health/ready")
    assert (answer.status, answer.json()) == (503, {"status": "draining"})


async def test_ready_follows_the_routers_own_health(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/router.sock"
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel, running_gateway(channel, Observed()) as gateway:
        assert (await get(gateway, "/health/ready")).status == 200
        await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        answer = await get(gateway, "/health/ready")
        assert (answer.status, answer.json()) == (503, {"status": "unavailable"})
        await server.stop(0)
        assert (await get(gateway, "/health/ready")).status == 503


async def test_metrics_are_open_by_default(gateway: Gateway) -> None:
    answer = await get(gateway, "/metrics", key=None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"\ntrunkline_http_requests_in_flight 0.0\n" in answer.body


async def test_metrics_can_ask_for_the_operators_key(start_gateway: StartGateway) -> None:
    async with start_gateway(metrics_auth=True) as gateway:
        assert (await get(gateway, "/metrics", key=None)).status == 401
        assert (await get(gateway, "/metrics")).status == 200


async def test_the_api_description_names_each_route_and_none_besides(gateway: Gateway) -> None:
    document = (await get(gateway, "/openapi.json", key=None)).json()
    assert document == openapi_document("1.2.3")
    for path, operations in document["paths"].items():
        for method in operations:
            answer = await asyncio.wait_for(_call(gateway, method, path.replace("{model_id}", "gpt-4o")), 5)
            assert answer.status not in {404, 405}, path
    routes = [route for route in gateway.app._router.routes if isinstance(route, Route)]
    served = {"/v1/chat/completions", *(route.path.replace(":path", "") for route in routes)}
    assert {path for path in served if not path.startswith("/docs/")} == set(document["paths"])


async def _call(gateway: Gateway, method: str, path: str) -> RawAnswer:
    async with RawClient.connected(gateway.port) as client:
        head = f"{method.upper()} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        await client.send(f"{head}content-length: 2\r\n\r\n{{}}".encode())
        return await client.answer()


def test_every_reference_in_the_api_description_leads_somewhere() -> None:
    document = openapi_document("1")

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    found = references(document)
    assert len(found) > 20
    for reference in found:
        target: object = document
        for name in reference.removeprefix("#/").split("/"):
            assert isinstance(target, dict)
            target = target[name]


async def test_docs_can_be_switched_off(start_gateway: StartGateway) -> None:
    async with start_gateway(docs=False) as gateway:
        assert (await get(gateway, "/docs")).status == 404
        assert (await get(gateway, "/openapi.json")).status == 404
