"""Request ids: taken from the caller when valid, made otherwise, on every answer and on the call to the router."""

from __future__ import annotations

import pytest

from gateway_http.request_id import choose_request_id
from tests.http.conftest import StartGateway
from tests.http.gateway import Gateway, RawClient, chat


@pytest.mark.parametrize("header", ["x-request-id", "X-Request-Id", "x-api-request-log-id", "X-API-Request-Log-ID"])
async def test_a_callers_id_is_kept_and_told_to_the_router(gateway: Gateway, header: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers=f"{header}: req-abc.123\r\n")
        answer = await client.answer()
    assert answer.headers["x-request-id"] == "req-abc.123"
    assert gateway.observed.metadata[0]["x-request-id"] == "req-abc.123"


async def test_x_request_id_comes_before_the_log_id(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers="x-api-request-log-id: second\r\nx-request-id: first\r\n")
        assert (await client.answer()).headers["x-request-id"] == "first"


async def test_an_invalid_id_gives_way_to_the_other_one(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers="x-request-id: not valid\r\nx-api-request-log-id: good\r\n")
        assert (await client.answer()).headers["x-request-id"] == "good"


@pytest.mark.parametrize("value", ["", "with space", "x" * 1000, "semi;colon\tand tab", "\xe9"])
async def test_an_id_that_is_not_fit_is_replaced(gateway: Gateway, value: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(f"GET /health/live HTTP/1.1\r\nhost: x\r\nx-request-id: {value}\r\n\r\n".encode("latin-1"))
        answer = await client.answer()
    assert answer.status == 200
    assert answer.headers["x-request-id"] != value
    assert len(answer.headers["x-request-id"]) > 8


async def test_ids_that_are_made_differ() -> None:
    assert len({choose_request_id({}) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("request_line", "body"),
    [
        (
            "POST /v1/chat/completions",
            b'{"model":"demo/echo","stream":true,"messages":[{"role":"user","content":"x"}]}',
        ),
        ("POST /v1/chat/completions", b'{"model":"error/INTERNAL","messages":[{"role":"user","content":"x"}]}'),
        ("POST /v1/chat/completions", b"no json"),
        ("PUT /v1/chat/completions", b""),
        ("GET /nowhere", b""),
        ("GET /v1/models", b""),
        ("GET /health/live", b""),
        ("GET /docs", b""),
        ("GET /docs/swagger-ui.css", b""),
    ],
)
async def test_every_answer_bears_the_id_once(gateway: Gateway, request_line: str, body: bytes) -> None:
    async with RawClient.connected(gateway.port) as client:
        head = f"{request_line} HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\ncontent-length: {len(body)}\r\n\r\n"
        await client.send(head.encode() + body)
        raw = await client.reader.readuntil(b"\r\n\r\n")
    assert raw.lower().count(b"x-request-id: mine\r\n") == 1
    assert raw.lower().count(b"x-request-id:") == 1


async def test_refusals_before_a_request_bear_an_id_too(start_gateway: StartGateway) -> None:
    async with start_gateway(max_body_bytes=10) as gateway:
        async with RawClient.connected(gateway.port) as client:
            await client.post(chat(), headers="x-request-id: mine\r\n")
            answer = await client.answer()
        assert (answer.status, answer.headers["x-request-id"]) == (413, "mine")
        async with RawClient.connected(gateway.port) as client:
            await client.send(b"nonsense\r\n\r\n")
            answer = await client.answer()
        assert answer.status == 400
        assert answer.headers["x-request-id"]
