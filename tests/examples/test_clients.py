"""The example clients in other languages, built with their own tools and run against a real gRPC server.

Each has the same command line and must behave the same; one whose toolchain is not on the machine is skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.examples.scripted_chat import KEY, REQUEST_ID, ScriptedChat, serve
from trunkline.inference.v1 import chat_pb2
from trunkline.router.v1 import chat_service_pb2 as rpc

pytestmark = pytest.mark.timeout(600)

ROOT: Final = Path(__file__).parents[2]
CLIENTS: Final = ROOT / "examples" / "clients"
BUILD_SECONDS: Final = 540
RUN_SECONDS: Final = 60

# Prompts and answers are not ASCII; a JVM reads its command line in the locale's charset.
ENVIRONMENT: Final = os.environ | {"LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client: what its build needs on the PATH, and how it is started."""

    language: str
    tools: tuple[str, ...]
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return CLIENTS / self.language


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended; `ending` is the last line on standard error."""

    exit_code: int
    text: str
    ending: str


ALL: Final = (
    Client(language="go", tools=("go",), command=("gen/chat",)),
    Client(language="typescript", tools=("node", "npm"), command=("node", "dist/src/main.js")),
    Client(language="java", tools=("java", "mvn"), command=("java", "-jar", "target/chat.jar")),
)


@pytest.fixture(scope="session", params=ALL, ids=lambda client: client.language)
def client(request: pytest.FixtureRequest) -> Client:
    """A client that is built; the build generates its stubs from the contract."""
    built: Client = request.param
    beside_python = str(Path(sys.executable).parent)  # where the environment of these tests has buf
    search_path = os.pathsep.join((os.environ.get("PATH", os.defpath), beside_python))
    missing = [tool for tool in ("make", "buf", *built.tools) if shutil.which(tool, path=search_path) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    buf = shutil.which("buf", path=search_path)
    command = ["make", "-C", str(built.folder), "build", f"BUF={buf}"]
    # The flags of a `make test` around us (-j, -n) are not for this one.
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    build = subprocess.run(
        command, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BUILD_SECONDS
    )
    assert build.returncode == 0, build.stdout.decode(errors="replace")
    return built


@pytest.fixture
async def chat() -> AsyncIterator[ScriptedChat]:
    async with serve() as scripted:
        yield scripted


@asynccontextmanager
async def started(client: Client, target: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a client; it does not outlive the block."""
    async with asyncio.timeout(RUN_SECONDS):
        process = await asyncio.create_subprocess_exec(
            *client.command,
            "--target",
            target,
            *arguments,
            cwd=client.folder,
            env=ENVIRONMENT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> Ended:
    text, errors = await process.communicate()
    assert process.returncode is not None
    lines = errors.decode().splitlines()
    return Ended(exit_code=process.returncode, text=text.decode(), ending=lines[-1] if lines else "")


async def run(client: Client, target: str, *arguments: str) -> Ended:
    async with started(client, target, *arguments) as process:
        return await ended(process)


async def ask(client: Client, chat: ScriptedChat, model: str, *arguments: str, prompt: str = "hello") -> Ended:
    return await run(client, chat.target, "--key", KEY, "--model", model, *arguments, prompt)


async def test_a_chat_reaches_the_server_as_sent_and_its_text_comes_back(client: Client, chat: ScriptedChat) -> None:
    prompt = "Grüße, 世界 🙂"

    answer = await ask(client, chat, "demo/echo", "--timeout", "30s", prompt=prompt)

    assert answer == Ended(exit_code=0, text=f"echo: {prompt}\n", ending="finish=stop input_tokens=7 output_tokens=0")
    message = chat_pb2.Message(
        role=chat_pb2.ROLE_USER,
        content_form=chat_pb2.CONTENT_FORM_STRING,
        parts=[chat_pb2.Part(text=chat_pb2.TextPart(text=prompt))],
    )
    assert chat.requests == [rpc.StreamChatRequest(chat=chat_pb2.Chat(model="demo/echo", messages=[message]))]
    (time_left,) = chat.time_left
    assert time_left is not None
    assert 0 < time_left <= 30


async def test_text_is_printed_as_it_comes(client: Client, chat: ScriptedChat) -> None:
    async with started(client, chat.target, "--key", KEY, "--model", "demo/gated", "hello") as process:
        assert process.stdout is not None
        assert await process.stdout.readexactly(4) == b"one "  # while the server waits for us
        chat.released.set()
        answer = await ended(process)

    assert answer == Ended(exit_code=0, text="two\n", ending="finish=tool_calls input_tokens=- output_tokens=-")


async def test_a_cancelled_stream_is_cancelled_at_the_server(client: Client, chat: ScriptedChat) -> None:
    answer = await ask(client, chat, "demo/endless", "--cancel-after", "2")

    assert answer == Ended(exit_code=0, text="12\n", ending="cancelled")
    async with asyncio.timeout(RUN_SECONDS):
        await chat.cancelled.wait()


async def test_a_deadline_ends_the_call_here_and_at_the_server(client: Client, chat: ScriptedChat) -> None:
    answer = await ask(client, chat, "demo/stalled", "--timeout", "1500ms")

    assert (answer.exit_code, answer.text) == (1, "almost\n")
    expected = f"error reason=- code=DEADLINE_EXCEEDED retry_after=- request_id={REQUEST_ID}: "
    assert answer.ending.startswith(expected)
    async with asyncio.timeout(RUN_SECONDS):
        await chat.cancelled.wait()
    (time_left,) = chat.time_left
    assert time_left is not None
    assert time_left <= 1.5


@pytest.mark.parametrize(
    ("model", "text", "ending"),
    [
        pytest.param(
            "nope",
            "",
            "error reason=MODEL_NOT_FOUND code=NOT_FOUND retry_after=- request_id=req_of_error: "
            "No route has the model nope.",
            id="typed",
        ),
        pytest.param(
            "demo/busy",
            "",
            "error reason=UPSTREAM_RATE_LIMITED code=UNAVAILABLE retry_after=1.5 request_id=req_of_error: "
            "The upstream limits us.",
            id="with_retry_info",
        ),
        pytest.param(
            "demo/breaking",
            "half\n",
            "error reason=UPSTREAM_OVERLOADED code=UNAVAILABLE retry_after=20 request_id=req_of_error: "
            "The upstream failed.",
            id="after_text",
        ),
        pytest.param(
            "demo/cut",
            "half\n",
            f"error reason=STREAM_TRUNCATED code=UNAVAILABLE retry_after=- request_id={REQUEST_ID}: "
            "the stream ended before the answer did",
            id="ok_without_an_end",
        ),
    ],
)
async def test_an_error_is_told_with_its_details(
    client: Client, chat: ScriptedChat, model: str, text: str, ending: str
) -> None:
    assert await ask(client, chat, model) == Ended(exit_code=1, text=text, ending=ending)


@pytest.mark.parametrize("key", [(), ("--key", "sk-wrong")], ids=["no_key", "wrong_key"])
async def test_a_caller_the_server_does_not_know_is_told_so(
    client: Client, chat: ScriptedChat, key: tuple[str, ...]
) -> None:
    answer = await run(client, chat.target, *key, "--model", "demo/echo", "hello")

    ending = (
        "error reason=CALLER_UNAUTHENTICATED code=UNAUTHENTICATED retry_after=- request_id=req_of_error: "
        "The key is not known."
    )
    assert answer == Ended(exit_code=1, text="", ending=ending)


async def test_a_server_that_is_not_there_is_an_error_without_details(client: Client) -> None:
    with socket.socket() as taken:  # bound and not listening: nothing else answers there meanwhile
        taken.bind(("127.0.0.1", 0))
        answer = await run(client, f"127.0.0.1:{taken.getsockname()[1]}", "--timeout", "30s", "hello")

    assert (answer.exit_code, answer.text) == (1, "")
    assert answer.ending.startswith("error reason=- code=UNAVAILABLE retry_after=- request_id=-: ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("one", "two"),
        ("--timeout", "soon", "hello"),
        ("--cancel-after", "x", "hello"),
        ("--colour", "red", "hello"),
    ],
    ids=" ".join,
)
async def test_a_wrong_command_line_is_refused(client: Client, arguments: tuple[str, ...]) -> None:
    answer = await run(client, "127.0.0.1:1", *arguments)

    assert (answer.exit_code, answer.text) == (2, "")
    assert answer.ending
