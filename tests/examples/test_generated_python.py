"""What examples/clients/README.md tells a Python team to do, done: stubs without our package, and its chat."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from tests.examples.scripted_chat import KEY, serve

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "examples" / "clients" / "README.md").read_text()


def example(name: str) -> str:
    """Return the code block marked `<!-- example: name -->`."""
    found = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no example {name}"
    return found.group(1)


async def run(folder: Path, *command: str) -> tuple[int | None, str, str]:
    """Run a command that sees the generated stubs and the installed libraries, and not our own package.

    -S leaves out the .pth file by which the project is installed for development.
    """
    folders = (str(folder / "gen"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A folder with the stubs, as the README's command generates them."""
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    (tmp_path / "chat.py").write_text(example("chat"))
    command = example("generate").replace("python -m", f'"{sys.executable}" -S -m')
    code, _, errors = await run(tmp_path, "sh", "-ec", command)
    assert code == 0, errors
    return tmp_path


async def chat(folder: Path, target: str, model: str) -> tuple[int | None, str, str]:
    return await run(folder, sys.executable, "-S", "chat.py", target, KEY, model, "hello")


async def test_the_generated_stubs_chat(folder: Path) -> None:
    async with serve() as scripted:
        assert await chat(folder, scripted.target, "demo/echo") == (0, "echo: hello", "")


async def test_the_generated_stubs_give_the_details_of_an_error(folder: Path) -> None:
    async with serve() as scripted:
        code, out, errors = await chat(folder, scripted.target, "demo/busy")

    assert (code, errors) == (1, "UNAVAILABLE: The upstream limits us.\n")
    assert out == "UPSTREAM_RATE_LIMITED {'request_id': 'req_of_error'}\nretry after 1.5 s\n"


async def test_a_stream_without_its_end_is_an_error(folder: Path) -> None:
    async with serve() as scripted:
        assert await chat(folder, scripted.target, "demo/cut") == (
            1,
            "half",
            "the stream ended before the answer did\n",
        )
