"""Fixtures of the front's tests. With `base_url`, `api_key` and `sdk_models` replaced, the SDK tests run elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.http.gateway import Gateway, running_gateway, running_router
from tests.http.scripted_router import KEY, Observed


@dataclass(frozen=True, kw_only=True)
class SdkModels:
    """Models by what they do: answer in words, call the tool they are given, follow a schema, fail in a certain way."""

    chat: str
    tools: str | None = None
    schema: str | None = None
    unknown: str = "no-such-model"
    rate_limited: str | None = None
    overloaded: str | None = None
    breaks_midstream: str | None = None


StartGateway = Callable[..., contextlib.AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def observed() -> Observed:
    """Return what the scripted router sees."""
    return Observed()


@pytest.fixture
async def channel(observed: Observed, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a scripted router in this process."""
    async with running_router("local", observed, tmp_path) as channel:
        yield channel


@pytest.fixture
def start_gateway(channel: grpc.aio.Channel, observed: Observed) -> StartGateway:
    """Return what starts a front with settings of the test's own."""

    def start(**settings: Any) -> contextlib.AbstractAsyncContextManager[Gateway]:
        return running_gateway(channel, observed, **settings)

    return start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> AsyncIterator[Gateway]:
    """Yield a front with the default settings."""
    async with start_gateway() as running:
        yield running


@pytest.fixture
def base_url(gateway: Gateway) -> str:
    """Return the address an OpenAI client is given."""
    return gateway.base_url


@pytest.fixture
def api_key() -> str:
    """Return a key the gateway takes."""
    return KEY


@pytest.fixture
def sdk_models() -> SdkModels:
    """Return the names of models that behave as the SDK tests need; None where the gateway has no such model."""
    return SdkModels(
        chat="demo/echo",
        tools="demo/echo",
        schema="demo/echo",
        unknown="no-such-model",
        rate_limited="error/UPSTREAM_RATE_LIMITED",
        overloaded="error/UPSTREAM_OVERLOADED",
        breaks_midstream="midstream/STREAM_TRUNCATED",
    )
