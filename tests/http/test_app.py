"""Paths, answers, drain: the front as a client meets it."""

from __future__ import annotations

import pytest

from gateway_http.app import _canonical
from tests.http.gateway import Gateway, RawClient, chat
from tests.http.scripted_router import KEY
from tests.http.test_errors import check_shape
from trunkline.inference.v1 import chat_pb2


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/chat/completions",
        "/v1/chat/completions/",
        "//v1//chat/completions",
        "/v1//chat///completions//",
        "//chat/completions",
        "/v1/chat/completions?api-version=1",
    ],
)
async def test_base_urls_with_and_without_v1_and_doubled_slashes_work(gateway: Gateway, path: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), path=path)
        answer = await client.answer()
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there my friend"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/models", "/v1/models"),
        ("/models/openai/gpt-4o", "/v1/models/openai/gpt-4o"),
        ("/v1/models/", "/v1/models"),
        ("/metrics", "/metrics"),
        ("/modelsx", "/v1/modelsx"),
    ],
)
def test_paths_have_one_form(path: str, expected: str) -> None:
    assert _canonical(path) == expected


async def test_an_answer_in_one_piece(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat())
        answer = await client.answer()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-trunkline-deployment"] == "demo/0"
    assert answer.headers["x-trunkline-provider"] == "demo"
    assert answer.headers["x-trunkline-attempts"] == "1"
    assert "date" in answer.headers
    assert "server" not in answer.headers
    document = answer.json()
    assert document["object"] == "chat.completion"
    assert document["usage"]["total_tokens"] == 10
    (seen,) = gateway.observed.chats
    assert seen.model == "demo/echo"
    assert seen.messages[0].role == chat_pb2.ROLE_USER


async def test_many_requests_on_one_connection(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        for number in range(20):
            await client.post(chat(text=f"number {number}", stream=number % 2 == 1))
            assert f"{number}".encode() in (await client.answer()).body


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        for number in range(5):
            await client.post(chat(text=f"number-{number}"))
        texts = [(await client.answer()).json()["choices"][0]["message"]["content"] for _ in range(5)]
    assert texts == [f"number-{number}" for number in range(5)]


async def test_a_client_that_offers_an_upgrade_is_answered_over_http_1(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers="connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n")
        assert (await client.answer()).status == 200


async def test_an_http_1_0_client_is_answered_and_the_connection_closed(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(f"GET /v1/models HTTP/1.0\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
        assert (await client.answer()).status == 200
        assert await client.reader.read() == b""


@pytest.mark.parametrize("path", ["/v1/models", "/health/live", "/docs"])
async def test_a_head_request_gets_the_head_alone(gateway: Gateway, path: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        for _ in range(2):
            await client.send(f"HEAD {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
            status, headers = await client.head()
            assert status == 200
            assert int(headers["content-length"]) > 0


async def test_a_web_socket_is_not_spoken_here(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        upgrade = (
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n"
        )
        await client.send(f"GET /v1/realtime HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n".encode())
        answer = await client.answer()
    assert (answer.status, check_shape(answer)["code"]) == (404, "not_found")


async def test_a_draining_server_refuses_new_requests_and_closes(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as first, RawClient.connected(gateway.port) as second:
        await first.post(chat("hold"))
        await gateway.observed.arrived.wait()
        gateway.drain.begin()
        await second.post(chat())
        refused = await second.answer()
        gateway.observed.release.set()
        assert (await first.answer()).status == 200
    assert (refused.status, check_shape(refused)["code"]) == (503, "server_draining")
    assert refused.headers["connection"] == "close"
    assert "x-should-retry" not in refused.headers
