"""A prepared POST against aiohttp's own: the same bytes on the wire, the same answers and failures."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from services.providers.answers import PromptResponse
from services.providers.dialects.base import HttpCall
from services.providers.prepared_post import HEADER_BYTES, PreparedPost
from tests.providers.pools import pool_of
from tests.upstream import CUT, RESET, STALL, ScriptedUpstream, json_answer

_HEADERS = CIMultiDict({"accept": "application/json", "accept-encoding": "identity", "x-key": "kéy"})


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(response_class=PromptResponse, max_line_size=HEADER_BYTES, max_field_size=HEADER_BYTES)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/a%2Fb:generate?alt=sse&x=%20"])
@pytest.mark.parametrize("body", [b"{}", b"x" * 300_000, "ü".encode()])
async def test_it_writes_what_aiohttp_writes(path: str, body: bytes) -> None:
    received = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            received.append(head + await reader.readexactly(len(body)))
            writer.write(json_answer({}))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server, await _session() as session:
        url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}", encoded=True)
        headers = CIMultiDict(_HEADERS, **{"content-type": "application/json"})
        for answer in (
            await PreparedPost(session, url, headers).send(body),
            await session.post(url, data=body, headers=headers),
        ):
            assert await answer.json() == {}
    mine, theirs = received
    assert mine == theirs


@pytest.mark.parametrize("script", [(CUT,), (RESET,), (b"no HTTP\r\n\r\n", STALL), (b"HTTP/1.1 200 OK\r\nx", CUT)])
async def test_a_failure_is_the_exception_that_aiohttp_raises(script: tuple[bytes, ...]) -> None:
    kinds = []
    async with ScriptedUpstream() as upstream, await _session() as session:
        upstream.always(*script)
        url = URL(f"{upstream.url}/v1/chat/completions")
        post = PreparedPost(session, url, _HEADERS)
        for sending in (post.send(b"{}"), session.post(url, data=b"{}")):
            with pytest.raises(aiohttp.ClientError) as caught:
                await sending
            kinds.append(type(caught.value))
    assert kinds[0] is kinds[1]


@pytest.mark.parametrize("value", ["a\r\nx-injected: 1", "a\nb", "a\x00b"])
async def test_a_header_that_would_be_two_is_refused(value: str) -> None:
    async with await _session() as session:
        with pytest.raises(ValueError, match="control character"):
            PreparedPost(session, URL("http://127.0.0.1/v1"), CIMultiDict({"x-key": value}))


async def test_after_its_session_was_closed_it_sends_nothing() -> None:
    async with await _session() as session:
        post = PreparedPost(session, URL("http://127.0.0.1:9/v1"), _HEADERS)
    with pytest.raises(aiohttp.ClientError):
        await post.send(b"{}")


@pytest.mark.parametrize("size", [1, 64 * 1024, 512 * 1024, 512 * 1024 + 1, 3 * 1024 * 1024])
async def test_a_body_of_any_size_arrives_whole(size: int) -> None:
    body = b"y" * size
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(json_answer({}))
        for _ in range(2):
            assert (await pool.request(HttpCall(path="/chat/completions", body=body))).status == 200
    assert [request.body == body for request in upstream.requests] == [True, True]
    assert len(upstream.connections) == 1
