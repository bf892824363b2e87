"""What of a request's head reaches the router."""

from __future__ import annotations

import pytest

from gateway_http.auth import call_metadata
from tests.http.gateway import Gateway, RawClient, chat
from tests.http.scripted_router import KEY


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({b"authorization": b"Bearer sk-1"}, "Bearer sk-1"),
        ({b"authorization": b"bearer sk-1"}, "bearer sk-1"),
        ({b"api-key": b"sk-1"}, "Bearer sk-1"),
        ({b"x-api-key": b"sk-1"}, "Bearer sk-1"),
        ({b"x-api-key": b"sk-2", b"authorization": b"Bearer sk-1"}, "Bearer sk-1"),
        ({b"authorization": b"Bearer \xff"}, None),
        ({b"authorization": b"Bearer a\x01b"}, None),
        ({b"authorization": b"Bearer " + b"x" * 8000}, None),
        ({}, None),
    ],
)
def test_the_credential_is_carried_as_it_is(head: dict[bytes, bytes], expected: str | None) -> None:
    assert dict(call_metadata(head, "r")).get("authorization") == expected


@pytest.mark.parametrize("value", [b"", b"\xff", b"a\tb", b"x" * 257])
def test_a_label_that_metadata_cannot_hold_is_left_out(value: bytes) -> None:
    assert call_metadata({b"x-livekit-room-id": value, b"traceparent": b"00-a-b-01"}, "r") == (
        ("x-request-id", "r"),
        ("traceparent", "00-a-b-01"),
    )


@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
async def test_labels_reach_the_router_in_any_case(gateway: Gateway, spelling: object) -> None:
    labels = {
        "x-livekit-room-id": "RM_1",
        "x-livekit-job-id": "AJ_1",
        "x-livekit-agent-id": "PA_1",
        "x-livekit-session-id": "inference_0123456789ab",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    assert callable(spelling)
    headers = "".join(f"{spelling(name)}: {value}\r\n" for name, value in labels.items())
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers=headers)
        assert (await client.answer()).status == 200
    seen = gateway.observed.metadata[0]
    assert labels.items() <= seen.items()
    assert seen["authorization"] == f"Bearer {KEY}"


async def test_nothing_else_of_the_head_reaches_the_router(gateway: Gateway) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.post(chat(), headers="cookie: a=b\r\nx-trunkline-deployment: gpt\r\nuser-agent: x\r\n")
        await client.answer()
    assert set(gateway.observed.metadata[0]) <= {"authorization", "x-request-id", "user-agent"}
    assert gateway.observed.metadata[0].get("user-agent") != "x"


@pytest.mark.parametrize("name", ["api-key", "x-api-key", "API-Key"])
async def test_a_key_under_its_other_names_is_taken(gateway: Gateway, name: str) -> None:
    async with RawClient.connected(gateway.port) as client:
        await client.send(f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{name}: {KEY}\r\n\r\n".encode())
        assert (await client.answer()).status == 200
