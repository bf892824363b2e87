"""The official OpenAI SDK's suite against real processes: the gateway as four services, and all in one."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.e2e.topologies import MASTER_KEY, Topology, running_topology
from tests.http.conftest import SdkModels

# The suite as a whole, with its own fixtures, whatever it grows to: every test of it is collected here again.
from tests.http.test_openai_sdk import *  # noqa: F403


@pytest.fixture(scope="module", params=["four processes", "one process"])
def topology(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """Yield a running gateway."""
    with running_topology(tmp_path_factory.mktemp("sdk"), separate=request.param == "four processes") as topology:
        yield topology


@pytest.fixture
def base_url(topology: Topology) -> str:
    """Return the address an OpenAI client is given."""
    return f"http://127.0.0.1:{topology.http_port}/v1"


@pytest.fixture
def api_key() -> str:
    """Return the master key."""
    return MASTER_KEY


@pytest.fixture
def sdk_models() -> SdkModels:
    """Return what the built-in provider offers; it fails by prompt and not by model, see below."""
    return SdkModels(chat="demo/echo", tools="demo/echo", schema="echo")


@pytest.mark.parametrize(
    ("reason", "error_class", "status"),
    [
        ("UPSTREAM_RATE_LIMITED", openai.RateLimitError, 429),
        ("UPSTREAM_OVERLOADED", openai.InternalServerError, 503),
        ("UPSTREAM_TIMEOUT", openai.InternalServerError, 504),
        ("UPSTREAM_REJECTED_CREDENTIALS", openai.InternalServerError, 502),
        ("CONTEXT_LENGTH_EXCEEDED", openai.BadRequestError, 400),
        ("CONTENT_BLOCKED", openai.BadRequestError, 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_reason_raises_its_class(
    client: openai.AsyncOpenAI, reason: str, error_class: type[openai.APIStatusError], status: int, stream: bool
) -> None:
    with pytest.raises(error_class) as caught:
        await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": f"error: {reason}"}], stream=stream
        )
    assert caught.value.status_code == status
    assert caught.value.request_id
    assert caught.value.response.headers["x-request-id"] == caught.value.request_id


async def test_a_stream_of_the_demo_breaks_after_its_content(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="demo/echo",
        messages=[{"role": "user", "content": "error after 3: STREAM_TRUNCATED and more words"}],
        stream=True,
    )
    said: list[str] = []

    async def listen() -> None:
        async for chunk in stream:
            said.extend(choice.delta.content or "" for choice in chunk.choices)

    with pytest.raises(openai.APIError) as caught:
        await listen()
    assert len("".join(said).split()) == 3
    assert caught.value.code == "stream_truncated"
