"""Whatever is sent to the chat endpoint: an answer or a well-formed refusal, never a failure of the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway_http.app import create_app
from gateway_http.config import HttpConfig
from services.runtime.drain import Drain
from services.runtime.metrics import Metrics
from tests.http.gateway import running_router
from tests.http.scripted_router import KEY, Observed

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio", "file", "refusal"]) | JSON},
    optional={"text": JSON, "image_url": JSON, "input_audio": JSON, "file": JSON},
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "function"]) | JSON},
    optional={"content": st.text() | st.lists(PART | JSON, max_size=3) | JSON, "tool_calls": JSON, "name": JSON},
)
# Requests that are nearly right find more than arbitrary JSON does.
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "model": st.just("demo/echo") | JSON,
        "messages": st.lists(MESSAGE, max_size=3) | JSON,
        "stream": st.booleans() | JSON,
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | JSON}) | JSON,
        "tools": st.lists(st.fixed_dictionaries({"type": st.just("function") | JSON}, optional={"function": JSON}))
        | JSON,
        "tool_choice": JSON,
        "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_schema"]) | JSON}) | JSON,
        "temperature": JSON,
        "max_tokens": JSON,
        "n": JSON,
        "stop": JSON,
        "logit_bias": JSON,
        "metadata": JSON,
        "seed": JSON,
    },
)


async def ask(body: bytes, folder: Path) -> httpx.Response:
    """Send a body to the endpoint in this process."""
    observed = Observed()
    async with running_router("local", observed, folder) as channel:
        app = create_app(channel, HttpConfig(), drain=Drain(), metrics=Metrics())
        transport = httpx.ASGITransport(app)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
            return await client.post("/v1/chat/completions", content=body)


def check(response: httpx.Response) -> None:
    """Accept an answer or a well-formed refusal."""
    assert response.headers["x-request-id"]
    if response.status_code == 200:
        if response.headers["content-type"] == "application/json":
            assert response.json()["object"] == "chat.completion"
        else:
            assert response.text.endswith("data: [DONE]\n\n")
        return
    assert 400 <= response.status_code < 500
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=JSON | REQUEST)
def test_arbitrary_json(document: Any, tmp_path: Path) -> None:
    check(asyncio.run(ask(msgspec.json.encode(document), tmp_path)))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
def test_arbitrary_bytes(body: bytes, tmp_path: Path) -> None:
    check(asyncio.run(ask(body, tmp_path)))
