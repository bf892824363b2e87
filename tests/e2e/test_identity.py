"""The request id: taken or minted, and then the same in the answer, in each log line, on each hop and in the record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.runtime.telemetry import valid_request_id
from tests.e2e.conftest import Log
from tests.e2e.gateway import KEY, Gateway, chat, ledger, provider, running_gateway
from tests.e2e.topologies import MASTER_KEY, Topology, running_topology
from tests.upstream import ScriptedUpstream, json_answer
from trunkline.client import connect
from trunkline.inference.v1.chat_pb2 import ROLE_USER, Chat, Message, Part, TextPart

GIVEN = [
    ({"x-request-id": "abc-123"}, "abc-123"),
    ({"X-Request-ID": "room:7/turn=3+a@b~c.d_e"}, "room:7/turn=3+a@b~c.d_e"),
    ({"x-api-request-log-id": "log-9"}, "log-9"),
    ({"x-request-id": "first", "x-api-request-log-id": "second"}, "first"),
    ({"x-request-id": "not valid", "x-api-request-log-id": "second"}, "second"),
    ({"x-request-id": "a" * 128}, "a" * 128),
]
REFUSED = [
    {},
    {"x-request-id": ""},
    {"x-request-id": "with space"},
    {"x-request-id": 'quote"'},
    {"x-request-id": "a" * 129},
    {"x-request-id": "ümlaut"},
    {"x-api-request-log-id": "{}"},
]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(("headers", "expected"), GIVEN)
async def test_a_valid_id_is_taken(headers: dict[str, str], expected: str, stream: bool, tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        answer = await gateway.ask(chat("demo/echo", stream=stream), headers=headers)
    assert answer.headers["x-request-id"] == expected
    assert [row["request_id"] for row in ledger(tmp_path)] == [expected]


@pytest.mark.parametrize("headers", REFUSED)
async def test_any_other_id_is_replaced(headers: dict[str, str], tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        first = await gateway.ask(chat("demo/echo"), headers=headers)
        second = await gateway.ask(chat("demo/echo"), headers=headers)
    ids = [first.headers["x-request-id"], second.headers["x-request-id"]]
    assert len({*ids, *headers.values()}) == 2 + len(headers)
    assert all(name.startswith("req_") and valid_request_id(name) for name in ids)
    assert [row["request_id"] for row in ledger(tmp_path)] == ids


async def failures(gateway: Gateway) -> list[tuple[int, Any]]:
    """Return the status and the id of answers that are no chats."""
    headers = {"x-request-id": "mine"}
    chats = "/v1/chat/completions"
    no_key = {**headers, "authorization": ""}
    answers = [
        await gateway.ask(chat("no-such-model"), headers=headers),
        await gateway.ask(chat("no-such-model", stream=True), headers=headers),
        await gateway.ask(b"{", headers=headers),
        await gateway.ask(chat("demo/echo"), headers=no_key),
        await gateway.ask(chat("demo/echo", "error: UPSTREAM_TIMEOUT"), headers=headers),
        await gateway.request("GET", chats, headers=headers),
        await gateway.request("GET", "/nowhere", headers=headers),
        await gateway.request("GET", "/v1/models", headers=headers),
        await gateway.request("GET", "/v1/models/none", headers=headers),
        await gateway.request("GET", "/health/live", headers=headers),
        await gateway.request("GET", "/metrics", headers=headers),
        await gateway.request("GET", "/openapi.json", headers=headers),
    ]
    return [(answer.status, answer.headers.get("x-request-id")) for answer in answers]


async def test_every_answer_bears_the_id(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        seen = await failures(gateway)
    statuses = [404, 404, 400, 401, 504, 405, 404, 200, 404, 200, 200, 200]
    assert seen == [(status, "mine") for status in statuses]


async def test_a_grpc_callers_id_is_answered_and_recorded(tmp_path: Path) -> None:
    question = Chat(model="demo/echo", messages=[Message(role=ROLE_USER, parts=[Part(text=TextPart(text="Hi"))])])
    async with (
        running_gateway(tmp_path, {}) as gateway,
        connect(f"127.0.0.1:{gateway.grpc_port}", api_key=KEY) as client,
    ):
        _, metadata = await client.complete_with_metadata(question, request_id="grpc-1", timeout=10)
        _, minted = await client.complete_with_metadata(question, timeout=10)
    assert metadata["x-request-id"] == "grpc-1"
    assert minted["x-request-id"].startswith("req_")
    assert [row["request_id"] for row in ledger(tmp_path)] == ["grpc-1", minted["x-request-id"]]


def lines_of_requests(log: Log) -> list[dict[str, Any]]:
    """Return the lines that some request caused; the ledger's own calls are of no request."""
    lines = [line for line in log.lines if not line.get("method", "").startswith("trunkline.usage.")]
    loggers = ("services.router.attempt", "services.runtime.interceptors", "services.providers", "gateway_http")
    return [line for line in lines if line["logger"].startswith(loggers)]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_every_log_line_of_a_request_bears_its_id(stream: bool, tmp_path: Path, log: Log) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.always(json_answer({}, status=500))
        document = {
            "providers": {"acme": provider(upstream)},
            "models": {
                "m": {"deployments": [{"provider": "acme", "model": "m-1"}], "retries": 1, "fallbacks": ["demo/echo"]}
            },
        }
        async with running_gateway(tmp_path, document) as gateway:
            before = len(lines_of_requests(log))
            answers = await asyncio.gather(
                *(gateway.ask(chat(stream=stream), headers={"x-request-id": f"many-{n}"}) for n in range(5))
            )
            lines = lines_of_requests(log)[before:]
    assert [answer.status for answer in answers] == [200] * 5
    counts = dict.fromkeys((f"many-{number}" for number in range(5)), 0)
    for line in lines:
        counts[line["request_id"]] += 1
    # Two attempts that failed, in the providers service and in the router; one that answered, in both.
    assert set(counts.values()) == {6}
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


async def test_an_internal_failure_tells_the_id_and_nothing_else(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("the prompt was: tell-tale")

    async with running_gateway(tmp_path, {}) as gateway:
        monkeypatch.setattr("services.router.chat_service.check_chat", explode)
        answer = await gateway.ask(chat("demo/echo"), headers={"x-request-id": "boom"})
    assert answer.status == 500
    assert answer.json["error"]["code"] == "internal_error"
    assert "boom" in answer.json["error"]["message"]
    assert "tell-tale" not in answer.body.decode() + log.text
    (line,) = [line for line in log.lines if line["level"] == "error"]
    assert (line["request_id"], line["error_type"]) == ("boom", "RuntimeError")


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """Yield a gateway of four processes that log everything."""
    with running_topology(tmp_path_factory.mktemp("identity"), separate=True, log_level="debug") as topology:
        yield topology


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_id_goes_with_every_hop(topology: Topology, stream: bool) -> None:
    url = f"http://127.0.0.1:{topology.http_port}/v1/chat/completions"
    name = f"hop-{stream}"
    headers = {"authorization": f"Bearer {MASTER_KEY}", "x-api-request-log-id": name}
    body = chat("echo", stream=stream)
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        await answer.read()
        assert (answer.status, answer.headers["x-request-id"]) == (200, name)
    for service in ("router", "providers"):
        log = topology.processes[service].log
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(5):
            while not found:
                lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
                found = [line for line in lines if line.get("request_id") == name]
                await asyncio.sleep(0.01)  # another process writes after it answered
        assert found[0]["service"] == service
        assert found[0]["message"] == "call answered"
