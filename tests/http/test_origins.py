"""Pages of other origins are refused unless they are listed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway_http.config import HttpConfig
from tests.http.conftest import StartGateway
from tests.http.gateway import Gateway, RawClient, chat

LISTED = "https://chat.example.org"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "chrome-extension://x"]
)
async def test_a_page_of_another_origin_is_refused(gateway: Gateway, origin: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers=f"origin: {origin}\r\ncontent-type: text/plain\r\n")
        answer = await client.answer()
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert gateway.observed.chats == []


async def test_a_page_of_the_server_itself_is_served(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers="origin: http://127.0.0.1\r\n")
        assert (await client.answer()).status == 200


async def test_a_page_whose_name_was_made_to_point_here_is_refused(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
        for name in ("evil.example", "evil.example:4000", "[::", ""):
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {name}\r\norigin: http://{name}\r\n"
            await client.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            answer = await client.answer()
            assert answer.status in {400, 403}
    assert gateway.observed.chats == []


async def test_a_listed_origin_is_served_and_may_read_the_answer(start_gateway: StartGateway) -> None:
    async with start_gateway(cors_origins=(LISTED,)) as gateway, RawClient.connected(gateway.port) as client:
        for document in (chat(), chat(stream=True), chat("gpt-9")):
            await client.post(document, headers=f"origin: {LISTED}\r\n")
            answer = await client.answer()
            assert answer.headers["access-control-allow-origin"] == LISTED
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "Origin"


async def test_a_preflight_of_a_listed_origin_is_answered(start_gateway: StartGateway) -> None:
    async with start_gateway(cors_origins=(LISTED,)) as gateway, RawClient.connected(gateway.port) as client:
        head = "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: x\r\naccess-control-request-method: POST\r\n"
        wanted = "access-control-request-headers: authorization,content-type\r\n"
        await client.send(f"{head}{wanted}origin: {LISTED}\r\n\r\n".encode())
        status, headers = await client.head()
        assert status == 204
        assert headers["access-control-allow-origin"] == LISTED
        assert headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
        assert headers["access-control-allow-headers"] == "authorization,content-type"
        await client.send(f"{head}origin: https://evil.example\r\n\r\n".encode())
        assert (await client.answer()).status == 403


async def test_a_client_that_is_no_browser_sees_nothing_of_it(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat())
        answer = await client.answer()
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]


@pytest.mark.parametrize("origin", ["*", "https://*.example.org", "example.org", "https://a.example/path", ""])
def test_what_is_no_origin_is_refused_in_the_configuration(origin: str) -> None:
    with pytest.raises(ValidationError):
        HttpConfig(cors_origins=(origin,))
