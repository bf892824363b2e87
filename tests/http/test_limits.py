"""Bounds: what is too large, too many, too slow or not readable is refused clearly, and the server goes on."""

from __future__ import annotations

import asyncio
import gzip

import msgspec
import pytest

from tests.http.conftest import StartGateway
from tests.http.gateway import Gateway, RawClient, chat
from tests.http.scripted_router import KEY
from tests.http.test_errors import check_shape

POST = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()


async def test_a_body_announced_too_large_is_refused_before_it_is_sent(start_gateway: StartGateway) -> None:
    async with start_gateway(max_body_bytes=1000) as gateway, RawClient.connected(gateway.port) as client:
        await client.send(POST + b"content-length: 1001\r\n\r\n")
        answer = await client.answer()
    error = check_shape(answer)
    assert (answer.status, error["code"]) == (413, "request_too_large")
    assert answer.headers["x-should-retry"] == "false"


async def test_an_announced_body_is_not_asked_for_when_it_is_too_large(start_gateway: StartGateway) -> None:
    async with start_gateway(max_body_bytes=1000) as gateway, RawClient.connected(gateway.port) as client:
        await client.send(POST + b"expect: 100-continue\r\ncontent-length: 1001\r\n\r\n")
        assert (await client.head())[0] == 413


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(gateway: Gateway) -> None:
    body = msgspec.json.encode(chat())
    async with RawClient.connected(gateway.port) as client:
        await client.send(POST + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.answer()).status == 200


async def test_a_chunked_body_that_grows_too_large_is_refused(start_gateway: StartGateway) -> None:
    async with start_gateway(max_body_bytes=1000) as gateway, RawClient.connected(gateway.port) as client:
        await client.send(POST + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(11):
            await client.send(b"64\r\n" + b" " * 100 + b"\r\n")
        answer = await client.answer()
        assert answer.status == 413
        await client.send(b"0\r\n\r\n")  # the rest is read and dropped, and the connection is in order
        await client.post(chat())
        assert (await client.answer()).status == 200


async def test_a_body_of_the_largest_size_is_taken(start_gateway: StartGateway) -> None:
    body = msgspec.json.encode(chat())
    async with start_gateway(max_body_bytes=len(body)) as gateway, RawClient.connected(gateway.port) as client:
        await client.post(body)
        assert (await client.answer()).status == 200
        await client.post(body + b" ")
        assert (await client.answer()).status == 413


async def test_a_chunked_body_in_many_pieces_is_put_together(gateway: Gateway) -> None:
    body = msgspec.json.encode(chat(text="x" * 5000))
    async with RawClient.connected(gateway.port) as client:
        await client.send(POST + b"transfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 37):
            piece = body[start : start + 37]
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await client.send(b"0\r\n\r\n")
        answer = await client.answer()
    assert answer.json()["choices"][0]["message"]["content"] == "x" * 5000


async def test_a_body_that_does_not_come_is_a_408_and_the_end(start_gateway: StartGateway) -> None:
    async with start_gateway(body_timeout_seconds=0.1) as gateway, RawClient.connected(gateway.port) as client:
        await client.send(POST + b"content-length: 100\r\n\r\n{")
        answer = await client.answer()
        assert await asyncio.wait_for(client.reader.read(), 2) == b""
    error = check_shape(answer)
    assert (answer.status, error["code"], answer.headers["connection"]) == (408, "request_timeout", "close")
    assert "x-should-retry" not in answer.headers


async def test_a_head_that_does_not_come_is_a_408_and_the_end(start_gateway: StartGateway) -> None:
    async with start_gateway(header_timeout_seconds=0.1) as gateway, RawClient.connected(gateway.port) as client:
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost:")
        answer = await client.answer()
        assert await client.reader.read() == b""
    assert (answer.status, check_shape(answer)["code"]) == (408, "request_timeout")


async def test_a_connection_that_says_nothing_is_closed(start_gateway: StartGateway) -> None:
    async with start_gateway(header_timeout_seconds=0.1) as gateway, RawClient.connected(gateway.port) as client:
        assert await asyncio.wait_for(client.reader.read(), 5) == b""


async def test_an_answered_request_whose_body_never_ends_is_closed(start_gateway: StartGateway) -> None:
    limits = {"max_body_bytes": 10, "body_timeout_seconds": 0.1}
    async with start_gateway(**limits) as gateway, RawClient.connected(gateway.port) as client:
        await client.send(POST + b"content-length: 100\r\n\r\n")
        assert (await client.answer()).status == 413
        assert await asyncio.wait_for(client.reader.read(), 5) == b""


async def test_an_idle_connection_stays_open_within_the_header_timeout(start_gateway: StartGateway) -> None:
    async with start_gateway(header_timeout_seconds=0.1) as gateway, RawClient.connected(gateway.port) as client:
        await client.post(chat())
        assert (await client.answer()).status == 200
        await asyncio.sleep(1.3)  # longer than the header timeout and a round of the checks
        await client.post(chat())
        assert (await client.answer()).status == 200


async def test_a_client_that_does_not_read_is_cut(start_gateway: StartGateway) -> None:
    async with start_gateway(write_timeout_seconds=0.1) as gateway, RawClient.connected(gateway.port) as client:
        gateway.observed.batches = 10_000_000
        assert isinstance(client.writer.transport, asyncio.Transport)
        client.writer.transport.pause_reading()
        await client.post(chat("many", stream=True))
        await asyncio.wait_for(gateway.observed.arrived.wait(), 5)
        while gateway.server.connections:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"x-%d: y\r\n" % number for number in range(200)),
        b"x-large: " + b"y" * 70_000 + b"\r\n",
        b"".join(b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(80)),
    ],
    ids=["too many", "one too large", "too large together"],
)
async def test_a_head_over_the_limits_is_a_431(gateway: Gateway, head: bytes) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(b"GET /health/live HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
        answer = await client.answer()
        assert await client.reader.read() == b""
    error = check_shape(answer)
    assert (answer.status, error["code"]) == (431, "request_headers_too_large")


async def test_a_head_without_an_end_is_a_431(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(b"GET /health/live HTTP/1.1\r\nhost: x\r\nx: ")
        with pytest.raises(ConnectionError):
            await _send_for_ever(client)
    async with RawClient.connected(gateway.port) as client:
        await client.send(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 200


async def _send_for_ever(client: RawClient) -> None:
    while True:
        await client.send(b"y" * 10_000)


async def test_a_large_body_after_a_small_head_is_not_taken_for_a_large_head(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        for _ in range(2):
            await client.post(chat(text="x" * 300_000))
            assert (await client.answer()).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate, gzip"])
async def test_a_compressed_body_is_a_415(gateway: Gateway, encoding: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(gzip.compress(b"{}"), headers=f"content-encoding: {encoding}\r\n")
        answer = await client.answer()
    assert (answer.status, check_shape(answer)["code"]) == (415, "unsupported_content_encoding")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "nonsense"])
async def test_the_content_type_does_not_matter(gateway: Gateway, content_type: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers=f"content-type: {content_type}\r\n" if content_type else "")
        assert (await client.answer()).status == 200


async def test_requests_over_the_bound_are_turned_away(start_gateway: StartGateway) -> None:
    async with (
        start_gateway(max_concurrent_requests=1) as gateway,
        RawClient.connected(gateway.port) as first,
        RawClient.connected(gateway.port) as second,
    ):
        await first.post(chat("hold"))
        await gateway.observed.arrived.wait()
        await second.post(chat())
        refused = await second.answer()
        await second.send(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await second.answer()).status == 200
        gateway.observed.release.set()
        assert (await first.answer()).status == 200
        await second.post(chat())
        assert (await second.answer()).status == 200
    assert (refused.status, check_shape(refused)["code"]) == (503, "service_unavailable")
    assert refused.headers["retry-after"] == "1"


async def test_the_deadline_is_told_to_the_router_and_kept(start_gateway: StartGateway) -> None:
    async with start_gateway(request_timeout_seconds=0.2) as gateway, RawClient.connected(gateway.port) as client:
        await client.post(chat("hold"))
        answer = await client.answer()
        remaining = gateway.observed.time_remaining[0]
    assert (answer.status, check_shape(answer)["code"]) == (504, "upstream_timeout")
    assert remaining is not None
    assert 0 < remaining <= 0.2
