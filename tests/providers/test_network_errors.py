"""What each kind of failure of a connection becomes, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from services.providers.network_errors import network_error
from services.providers.transport import tls_context
from tests.providers.pools import CALL, CUT_STREAM, cancel, failure_of, pool_of
from tests.upstream import (
    CUT,
    RESET,
    STALL,
    ScriptedUpstream,
    Step,
    chunked,
    json_answer,
    sse_head,
    whole_answer,
)
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2 as reasons

CUT_WHOLE = whole_answer(b'{"half":', headers={"content-length": "100"})


# The steps of the upstream, and the reason, the cause of a unary call; a stream's reason differs once it has a head.
BROKEN = [
    pytest.param((CUT,), reasons.ERROR_REASON_UPSTREAM_UNREACHABLE, "disconnected", None, id="cut before the head"),
    pytest.param((RESET,), reasons.ERROR_REASON_UPSTREAM_UNREACHABLE, "disconnected", None, id="reset"),
    pytest.param(
        (b"HTTP/1.1 200 OK\r\ncontent-", CUT),
        reasons.ERROR_REASON_UPSTREAM_UNREACHABLE,
        "disconnected",
        None,
        id="cut in the head",
    ),
    pytest.param(
        (b"HELLO, I AM NO WEB SERVER\r\n\r\n",),
        reasons.ERROR_REASON_UPSTREAM_MALFORMED_REPLY,
        "protocol",
        None,
        id="not HTTP",
    ),
    pytest.param(
        (CUT_WHOLE, CUT),
        reasons.ERROR_REASON_UPSTREAM_UNREACHABLE,
        "cut",
        reasons.ERROR_REASON_STREAM_TRUNCATED,
        id="shorter than its length",
    ),
    pytest.param(
        (CUT_STREAM, CUT),
        reasons.ERROR_REASON_UPSTREAM_UNREACHABLE,
        "cut",
        reasons.ERROR_REASON_STREAM_TRUNCATED,
        id="cut between chunks",
    ),
    pytest.param(
        (CUT_STREAM, b"40\r\ndata: 2", CUT),
        reasons.ERROR_REASON_UPSTREAM_UNREACHABLE,
        "cut",
        reasons.ERROR_REASON_STREAM_TRUNCATED,
        id="cut in a chunk",
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("steps", "reason", "cause", "stream_reason"), BROKEN)
async def test_a_broken_answer_has_its_reason(
    steps: tuple[bytes, ...],
    reason: reasons.ErrorReason.ValueType,
    cause: str,
    stream_reason: reasons.ErrorReason.ValueType | None,
    *,
    stream: bool,
) -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(*steps)
        error = await failure_of(pool, stream=stream)
        await upstream.connections[0].lost.wait()
    assert error.reason == (stream_reason or reason if stream else reason)
    assert error.metadata["cause"] == cause
    assert len(upstream.requests) == 1  # Never retried.


@pytest.mark.parametrize("end", [RESET, b"garbage where the size of a chunk should be\r\n"], ids=["reset", "garbage"])
async def test_a_stream_that_breaks_in_the_middle_is_truncated(end: Step) -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        gate = asyncio.Event()
        upstream.answer(CUT_STREAM, gate, end)
        async with pool.stream(CALL) as answer:
            assert await answer.read() == b"data: 1\n\n"
            gate.set()
            with pytest.raises(GatewayError) as caught:
                await answer.read()
    assert caught.value.reason == reasons.ERROR_REASON_STREAM_TRUNCATED


async def test_what_arrived_before_a_cut_is_read_even_by_a_late_reader() -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.answer(CUT_STREAM, chunked(b"data: 2\n\n"), CUT)
        async with pool.stream(CALL) as answer:
            await upstream.connections[0].lost.wait()
            await asyncio.sleep(0.05)  # Until the client's side has seen it too.
            assert await answer.read() == b"data: 1\n\ndata: 2\n\n"
            with pytest.raises(GatewayError) as caught:
                await answer.read()
    assert caught.value.reason == reasons.ERROR_REASON_STREAM_TRUNCATED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with ScriptedUpstream() as upstream, pool_of(upstream.url) as pool:
        upstream.always(json_answer({}, status=status, headers={"location": f"{upstream.url}/stolen"}))
        error = await failure_of(pool)
        assert (await failure_of(pool, stream=True)).reason == error.reason
    assert error.reason == reasons.ERROR_REASON_UPSTREAM_MALFORMED_REPLY
    assert error.metadata["upstream_status"] == str(status)
    assert {request.target for request in upstream.requests} == {"/v1/chat/completions"}


async def test_a_refused_connection_is_unreachable() -> None:
    async with ScriptedUpstream() as upstream:
        url = upstream.url
    async with pool_of(url) as pool:
        error = await failure_of(pool)
    assert (error.reason, error.metadata["cause"]) == (reasons.ERROR_REASON_UPSTREAM_UNREACHABLE, "connect")
    assert "ECONNREFUSED" in error.message


async def test_an_unresolvable_name_is_unreachable() -> None:
    async with pool_of("http://no-such-host.invalid:1") as pool:
        error = await failure_of(pool)
    assert (error.reason, error.metadata["cause"]) == (reasons.ERROR_REASON_UPSTREAM_UNREACHABLE, "dns")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A fresh self-signed certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate and is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    arguments = ["subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *command.split(), *arguments], check=True, capture_output=True)
    return certificate, key


def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_an_unknown_certificate_is_unreachable(certificate: tuple[Path, Path]) -> None:
    async with ScriptedUpstream(tls=server_tls(certificate)) as upstream, pool_of(upstream.url, tls_context()) as pool:
        error = await failure_of(pool)
    assert (error.reason, error.metadata["cause"]) == (reasons.ERROR_REASON_UPSTREAM_UNREACHABLE, "tls")
    assert "self-signed certificate" in error.message
    assert upstream.requests == []


async def test_plain_text_where_tls_is_expected_is_unreachable() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer({}, status=400))
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with pool_of(f"https://127.0.0.1:{port}", tls_context()) as pool:
            error = await failure_of(pool)
    assert (error.reason, error.metadata["cause"]) == (reasons.ERROR_REASON_UPSTREAM_UNREACHABLE, "tls")
    assert "WRONG_VERSION_NUMBER" in error.message


async def test_a_stream_over_tls_is_read_and_closed_at_once_when_cancelled(certificate: tuple[Path, Path]) -> None:
    trusting = tls_context()
    trusting.load_verify_locations(certificate[0])
    async with ScriptedUpstream(tls=server_tls(certificate)) as upstream, pool_of(upstream.url, trusting) as pool:
        upstream.always(CUT_STREAM, STALL)
        async with pool.stream(CALL) as answer:
            assert await answer.read() == b"data: 1\n\n"
        await asyncio.wait_for(upstream.connections[0].lost.wait(), 0.1)
        task = asyncio.create_task(failure_of(pool))
        await upstream.request(1)
        await cancel(task)
        await asyncio.wait_for(upstream.connections[1].lost.wait(), 0.1)


async def test_a_body_over_the_bound_is_refused_and_its_connection_closed() -> None:
    for steps in (
        (whole_answer(b"x" * 100_000),),
        (sse_head(), chunked(b"x" * 100_000), STALL),
        (whole_answer(gzip.compress(b"x" * 10_000_000), headers={"content-encoding": "gzip"}),),
    ):
        async with ScriptedUpstream() as upstream, pool_of(upstream.url, max_body_bytes=10_000) as pool:
            upstream.always(*steps)
            error = await failure_of(pool)
            assert error.reason == reasons.ERROR_REASON_UPSTREAM_MALFORMED_REPLY
            assert "10000 bytes" in error.message


def _all_subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(_all_subclasses(below) for below in kind.__subclasses__()))


def test_every_exception_of_the_client_library_has_a_reason() -> None:
    for kind in _all_subclasses(aiohttp.ClientError):
        error = network_error("acme", kind.__new__(kind))  # type: ignore[arg-type]
        assert error.reason in (
            reasons.ERROR_REASON_UPSTREAM_UNREACHABLE,
            reasons.ERROR_REASON_UPSTREAM_MALFORMED_REPLY,
        )
        assert error.metadata["cause"]
