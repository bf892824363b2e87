"""The README is a promise: every example in it runs as printed against a gateway started as it says."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.gateway_process import ROOT, GatewayProcess, free_port, running

README = (ROOT / "README.md").read_text()


def example(name: str) -> str:
    """Return the code block marked `<!-- example: name -->`."""
    found = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no example {name}"
    return found.group(1)


@pytest_asyncio.fixture(loop_scope="function")
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[GatewayProcess, int]]:
    """`trunkline serve` with no configuration, on ports of its own."""
    http_port, grpc_port = free_port(), free_port()
    process = GatewayProcess("--port", str(http_port), "--grpc-port", str(grpc_port), http_port=http_port, cwd=tmp_path)
    async with running(process):
        yield process, grpc_port


async def run(*command: str, stdin: str = "") -> str:
    """Return what a command printed; it must succeed and print nothing to stderr."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()


def on_ports(code: str, gateway: tuple[GatewayProcess, int]) -> str:
    """Return the example with the default ports replaced by the gateway's."""
    process, grpc_port = gateway
    code = code.replace("127.0.0.1:4000", f"127.0.0.1:{process.http_port}")
    return code.replace("127.0.0.1:4001", f"127.0.0.1:{grpc_port}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
async def test_the_curl_example_streams_to_done(gateway: tuple[GatewayProcess, int]) -> None:
    out = await run("sh", "-c", on_ports(example("curl"), gateway))
    assert "Hello" in out
    assert out.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("name", ["openai", "client", "stub"])
async def test_the_python_examples_print_the_answer(gateway: tuple[GatewayProcess, int], name: str) -> None:
    out = await run(sys.executable, "-W", "error", "-", stdin=on_ports(example(name), gateway))
    assert "Hello there" in out
    if name == "client":
        assert "MODEL_NOT_FOUND no/such-model" in out


async def test_the_configuration_example_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.yaml"
    path.write_text(example("config"))
    command = (sys.executable, "-m", "trunkline_cli.main", "check", str(path))
    keys = {"TRUNKLINE_MASTER_KEY": "sk-0123456789abcdef", "OPENAI_API_KEY": "sk-x1", "ANTHROPIC_API_KEY": "sk-y1"}
    out = await run("env", *(f"{name}={value}" for name, value in keys.items()), *command)
    assert "gpt-4o" in out
    assert "claude" in out
    assert not any(value in out for value in keys.values())
