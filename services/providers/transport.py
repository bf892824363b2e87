"""The only dialer: one pool of HTTP connections per provider, and time limits that end what hangs.

It never retries, follows no redirect, keeps no cookie, reads no proxy setting, and a call that is cancelled closes its
connection at once. The rest of the package sees two methods, `request` and `stream`.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import aiohttp
import certifi
from multidict import CIMultiDict
from yarl import URL

from services.providers.answers import Answer, Limits, Lingering, PromptResponse, StreamedAnswer
from services.providers.dialects.base import HttpCall
from services.providers.network_errors import Phase, malformed_error, network_error, timeout_error
from services.providers.prepared_post import HEADER_BYTES, READ_BUFFER_BYTES, PreparedPost
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2

__all__ = ["HttpPool", "Upstream", "join_url", "tls_context"]

_KEEP_ALIVE_SECONDS: Final = 30.0
_DNS_SECONDS: Final = 30
_LARGE_BODY_BYTES: Final = 512 * 1024
# Prepared requests are kept by path and by the dialect's headers, which are few; beyond this they are made anew, so
# that a wire format with the model in its path cannot fill the memory.
_PREPARED: Final = 256


class Upstream(Protocol):
    """A provider's address, as its dialect's calls need it. `deadline` is on the running loop's clock."""

    async def request(self, call: HttpCall, *, deadline: float | None = None) -> Answer:
        """Return the whole answer. Raises UPSTREAM_UNREACHABLE, UPSTREAM_TIMEOUT, UPSTREAM_MALFORMED_REPLY."""
        ...

    def stream(self, call: HttpCall, *, deadline: float | None = None) -> AbstractAsyncContextManager[StreamedAnswer]:
        """Return the answer's head, with the body to be read; leaving the context early closes the connection."""
        ...


class HttpPool:
    """One provider's connections, through aiohttp. Opens its first connection with its first call."""

    def __init__(
        self,
        provider: str,
        base_url: str,
        headers: Mapping[str, str],
        limits: Limits,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._provider = provider
        self._base_url = base_url
        self._headers = headers
        self._limits = limits
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False
        self._lingering = Lingering()
        self._posts: dict[tuple[str, tuple[tuple[str, str], ...]], PreparedPost] = {}

    async def request(self, call: HttpCall, *, deadline: float | None = None) -> Answer:
        """Return the whole answer; see `Upstream`."""
        answer = await self._open(call, deadline, streamed=False)
        try:
            return Answer(status=answer.status, headers=answer.headers, body=await answer.read_all())
        finally:
            answer.close()

    @asynccontextmanager
    async def stream(self, call: HttpCall, *, deadline: float | None = None) -> AsyncIterator[StreamedAnswer]:
        """Return the answer's head and its body to be read; see `Upstream`."""
        answer = await self._open(call, deadline, streamed=True)
        del call  # It is sent, and the stream may last.
        try:
            yield answer
        finally:
            answer.close()

    async def close(self) -> None:
        """Close every connection, those in use too, and open no more."""
        self._is_closed = True
        self._lingering.close()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _open(self, call: HttpCall, deadline: float | None, *, streamed: bool) -> StreamedAnswer:
        session = self._session or self._open_session()
        limit = asyncio.get_running_loop().time() + self._limits.first_byte_timeout
        phase: Phase = "first_byte"
        if deadline is not None and deadline < limit:
            limit, phase = deadline, "deadline"
        try:
            async with asyncio.timeout_at(limit):
                response = await self._send(session, call)
        except aiohttp.ServerTimeoutError:
            raise timeout_error(self._provider, "connect") from None
        except TimeoutError:
            raise timeout_error(self._provider, phase) from None
        except (aiohttp.ClientError, OSError) as error:
            raise network_error(self._provider, error) from None
        lingering = self._lingering if streamed else None
        answer = StreamedAnswer(self._provider, response, self._limits, deadline, lingering)
        if 300 <= response.status < 400:
            answer.close()
            raise malformed_error(self._provider, "answered with a redirect, which is not followed", response.status)
        return answer

    async def _send(self, session: aiohttp.ClientSession, call: HttpCall) -> aiohttp.ClientResponse:
        if call.method == "POST" and 0 < len(call.body) <= _LARGE_BODY_BYTES:
            return await self._post(session, call).send(call.body)
        return await session.request(
            call.method,
            self._url(call.path),
            # A large body goes in pieces, so that the loop goes on meanwhile.
            data=io.BytesIO(call.body) if call.body else None,
            headers=self._headers_of(call),
            allow_redirects=False,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise GatewayError(error_reason_pb2.ERROR_REASON_SERVER_DRAINING, "The server is stopping.")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._limits.max_connections,
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
                ttl_dns_cache=_DNS_SECONDS,
                ssl=self._tls if self._tls is not None else True,
            ),
            response_class=PromptResponse,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._limits.connect_timeout,
                sock_connect=self._limits.connect_timeout,
                ceil_threshold=float("inf"),
            ),
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )
        return self._session

    def _post(self, session: aiohttp.ClientSession, call: HttpCall) -> PreparedPost:
        key = (call.path, call.headers)
        post = self._posts.get(key)
        if post is None:
            if len(self._posts) >= _PREPARED:
                self._posts.clear()
            post = self._posts[key] = PreparedPost(session, self._url(call.path), self._headers_of(call))
        return post

    def _url(self, path: str) -> URL:
        return URL(join_url(self._base_url, path), encoded=True)

    def _headers_of(self, call: HttpCall) -> CIMultiDict[str]:
        # Compression is not asked for: it costs more than it saves on answers of this size and holds streams back.
        # aiohttp undoes it all the same where an upstream compresses unasked.
        headers = CIMultiDict({"accept": "application/json", "accept-encoding": "identity"})
        if call.body:
            headers["content-type"] = "application/json"
        headers.update(call.headers)
        headers.update(self._headers)
        return headers


def join_url(base_url: str, path: str) -> str:
    """Return the address of a path below a base URL, where both may name the API's version: it then stands once."""
    last = base_url.rpartition("/")[2]
    if last and path.startswith(f"/{last}/") and last[0] == "v" and last[1:].isdigit():
        path = path[len(last) + 1 :]
    return base_url + path


def tls_context() -> ssl.SSLContext:
    """Return the settings of every TLS connection: verified against certifi's roots, the same on every machine."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
