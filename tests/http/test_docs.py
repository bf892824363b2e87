"""The page of /docs in a real browser, offline."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from swagger_ui_bundle import swagger_ui_path

from tests.http.gateway import Gateway, RawClient

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


async def fetch(gateway: Gateway, path: str) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a page."""
    async with RawClient.connected(gateway.port) as client:
        await client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        answer = await client.answer()
    assert answer.status == 200, path
    return answer.headers, answer.body


async def test_the_page_refers_to_nothing_but_this_server(gateway: Gateway) -> None:
    headers, body = await fetch(gateway, "/docs")
    assert headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "http" not in policy
    assert b"://" not in body


@pytest.mark.parametrize("name", ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"])
async def test_the_assets_come_from_the_package(gateway: Gateway, name: str) -> None:
    headers, body = await fetch(gateway, f"/docs/{name}")
    assert body == (swagger_ui_path / name).read_bytes()
    assert headers["x-content-type-options"] == "nosniff"
    assert "max-age" in headers["cache-control"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
async def test_a_browser_shows_the_operations_and_asks_nobody_else(gateway: Gateway, tmp_path: Path) -> None:
    net_log = tmp_path / "net.json"
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr"),
        *("--virtual-time-budget=20000", f"--user-data-dir={tmp_path}/profile", f"--log-net-log={net_log}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--dump-dom"),
        f"http://127.0.0.1:{gateway.port}/docs#/chat/create_chat_completion",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, log = await asyncio.wait_for(process.communicate(), 90)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    page = output.decode()
    for shown in (
        "/v1/chat/completions",
        "/v1/models/",
        "Answer a chat",
        "List models",
        "Authorize",
        "/health/",
        "demo/echo",
    ):
        assert shown in page, shown
    assert "Failed to load" not in page
    assert "Content Security Policy" not in log.decode(errors="replace")
    assert requests_of_the_page(net_log) == {"127.0.0.1"}


def requests_of_the_page(net_log: Path) -> set[str | None]:
    """Return the hosts that the page, and not the browser for itself, asked for anything."""
    document = msgspec.json.decode(net_log.read_bytes())
    hosts: set[str | None] = set()
    for event in document["events"]:
        parameters = event.get("params", {})
        url, initiator = parameters.get("url"), parameters.get("initiator", "")
        if isinstance(url, str) and url.startswith(("http", "ws")) and "127.0.0.1" in f"{initiator} {url}":
            hosts.add(urlsplit(url).hostname)
    return hosts
