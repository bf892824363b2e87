"""Every refusal and failure: status, JSON shape, headers."""

from __future__ import annotations

import logging

import msgspec
import pytest

from gateway_http.errors import HttpError, error_answer
from services.runtime.telemetry import JsonFormatter
from tests.http.gateway import Gateway, RawAnswer, RawClient, chat
from trunkline.errors import FACES, GatewayError, Reason, reason_name
from trunkline.errors.v1 import error_reason_pb2 as reasons

FINAL_STATUSES = {400, 401, 403, 404, 413, 499}


def check_shape(answer: RawAnswer) -> dict[str, object]:
    """Check what holds of every error, and return the error object."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    document = answer.json()
    assert list(document) == ["error"]
    error: dict[str, object] = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("reason", list(FACES), ids=reason_name)
async def test_each_reason_has_its_face(gateway: Gateway, reason: Reason.ValueType, stream: bool) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(f"error/{reason_name(reason)}", stream=stream))
        answer = await client.answer()
    face = FACES[reason]
    error = check_shape(answer)
    assert answer.status == face.http_status
    assert (error["type"], error["code"]) == (face.openai_type, face.openai_code)
    assert error["param"] == ("messages[0].content" if reason == reasons.ERROR_REASON_INVALID_REQUEST else None)
    final = face.http_status in FINAL_STATUSES or reason == reasons.ERROR_REASON_BUDGET_EXHAUSTED
    assert answer.headers.get("x-should-retry") == ("false" if final else None)
    limited = "RATE_LIMITED" in reason_name(reason)
    assert answer.headers.get("retry-after") == ("2" if limited else None)
    assert answer.headers.get("retry-after-ms") == ("1250" if limited else None)
    assert ("www-authenticate" in answer.headers) == (face.http_status == 401)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_bug_in_the_router_says_nothing_of_itself(gateway: Gateway, stream: bool) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("bug", stream=stream))
        answer = await client.answer()
    assert answer.status == 500
    assert b"secret" not in answer.body
    check_shape(answer)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v2/chat/completions", "/v1/chat/completions/x"])
async def test_an_unknown_path_is_a_404_in_openai_shape(gateway: Gateway, path: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), path=path)
        answer = await client.answer()
    error = check_shape(answer)
    assert (answer.status, error["code"]) == (404, "not_found")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/v1/models/openai/gpt-4o", "GET, HEAD"),
        ("POST", "/health/live", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_a_405_that_names_the_right_ones(
    gateway: Gateway, method: str, path: str, allowed: str
) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        answer = await client.answer()
    error = check_shape(answer)
    assert (answer.status, error["code"], answer.headers["allow"]) == (405, "method_not_allowed", allowed)


@pytest.mark.parametrize("headers", ["", "authorization: Bearer sk-wrong\r\n", "authorization: Basic eDp5\r\n"])
async def test_a_missing_or_wrong_key_is_a_401(gateway: Gateway, headers: str) -> None:
    body = msgspec.json.encode(chat())
    async with RawClient.connected(gateway.port) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n"
        await client.send(head.encode() + body)
        answer = await client.answer()
    error = check_shape(answer)
    assert (answer.status, error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["x-should-retry"] == "false"


async def test_an_unknown_model_is_a_404(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("gpt-9"))
        answer = await client.answer()
    error = check_shape(answer)
    assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b"\xff\xfe", None),
        (b'{"model":"m","messages":[{"role":"user","content":"\xc3"}]}', None),
        (b"[" * 5000, None),
        (b"[" * 100_000 + b"]" * 100_000, None),
        (b'{"messages":[]}', "model"),
        (b'{"model":1,"messages":[]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":7}', "messages"),
        (b'{"model":"m","messages":[{"role":"user","content":7}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":"yes"}', "stream"),
    ],
)
async def test_a_malformed_body_is_a_400_that_names_the_member(
    gateway: Gateway, body: bytes, param: str | None
) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(body)
        answer = await client.answer()
    error = check_shape(answer)
    assert (answer.status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert gateway.observed.chats == []


async def test_a_failure_of_the_front_itself_is_logged_without_values(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_body: bytes) -> None:
        raise RuntimeError("prompt text")

    monkeypatch.setattr("gateway_http.routes.chat.decode_chat_request", broken)
    with caplog.at_level(logging.ERROR):
        async with RawClient.connected(gateway.port) as client:
            await client.post(chat(), headers="x-request-id: my-id\r\n")
            answer = await client.answer()
    error = check_shape(answer)
    assert answer.status == 500
    assert "my-id" in str(error["message"])
    assert "prompt text" not in answer.body.decode()
    (record,) = [record for record in caplog.records if record.name == "gateway_http.app"]
    line = msgspec.json.decode(JsonFormatter().format(record))
    assert line["error_type"] == "RuntimeError"
    assert any("gateway_http.routes.chat" in frame for frame in line["frames"])
    assert "prompt text" not in str(line)


async def test_a_failure_of_the_front_in_a_stream_ends_it_with_a_frame(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat("hold-midstream", stream=True))
        await client.head()

        def broken(_documents: object) -> bytes:
            raise RuntimeError("prompt text")

        monkeypatch.setattr("gateway_http.routes.chat.frame", broken)
        gateway.observed.release.set()
        body = b""
        while piece := await client.chunk():
            body += piece
    assert b"internal_error" in body
    assert b"prompt text" not in body
    assert b"[DONE]" not in body


async def test_bytes_that_are_not_http_get_a_400(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(b"this is not http\r\n\r\n")
        answer = await client.answer()
        assert await client.reader.read() == b""
    error = check_shape(answer)
    assert (answer.status, error["code"]) == (400, "malformed_request")


def test_no_retry_after_is_negative_and_none_is_rounded_down() -> None:
    limited = GatewayError(reasons.ERROR_REASON_CALLER_RATE_LIMITED, "later", retry_after=0.0301)
    assert (b"retry-after", b"1") in error_answer(limited)[1]
    assert (b"retry-after-ms", b"31") in error_answer(limited)[1]
    past = GatewayError(reasons.ERROR_REASON_CALLER_RATE_LIMITED, "later", retry_after=-3.0)
    assert (b"retry-after", b"0") in error_answer(past)[1]


def test_an_http_error_of_the_server_may_be_retried() -> None:
    _status, headers, body = error_answer(HttpError(503, "busy", "later"))
    assert headers == []
    assert msgspec.json.decode(body)["error"]["type"] == "server_error"
