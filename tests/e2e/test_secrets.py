"""No secret and no prompt gets anywhere it should not: logs, ledger, journal, metrics, answers, reprs, commands."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from services.providers.catalog import load_catalog
from services.providers.registry import Registry
from services.runtime.config import ConfigError, validate
from tests.e2e.conftest import Log
from tests.e2e.gateway import Answer, Gateway, chat, ledger, provider, running_gateway
from tests.e2e.service_process import run_trunkline
from tests.providers.openai_upstream import CHUNKS, REPLY, chunk
from tests.upstream import CUT, RESET, STALL, ScriptedUpstream, Step, chunked, json_answer, sse_head, whole_answer
from trunkline_cli.config import Config, router_config

MASTER = "sk-master-SECRETmaster0123456789"
INTERNAL = "SECRETinternal0123456789"
# One of the form that keys have, and one that no pattern knows.
KEYS = ["sk-proj-SECRETprovider0123456789", "SECRETprovider~0123456789"]
HEADER = "SECRETheader0123456789"
CALLERS = "sk-SECRETofthecaller0123456789"
SECRET = "SECRET"
PROMPT = "PROMPT5150MARKER"
SAID = "ANSWER5150MARKER"


def document(upstream: ScriptedUpstream, key: str) -> dict[str, Any]:
    """Return a configuration full of secrets."""
    return {
        "auth": {"master_key": MASTER, "internal_key": INTERNAL},
        "providers": {"acme": provider(upstream, api_key=key, headers={"x-tenant": HEADER})},
        "models": {"m": {"deployments": [{"provider": "acme", "model": "m-1"}], "retries": 0}},
    }


def echoing(key: str) -> dict[str, tuple[Step, ...]]:
    """Return answers of upstreams that show what they were sent."""
    error = {"message": f"Bad key {key} (Bearer {key}) {HEADER}", "type": key, "code": key, "param": key}
    body = {"error": error}
    frame = b"data: " + json.dumps(body).encode() + b"\n\n"
    begun = (sse_head(), *(chunked(b"data: " + event + b"\n\n") for event in CHUNKS[:2]))
    return {
        **{str(status): (json_answer(body, status=status),) for status in (400, 401, 403, 404, 429, 500)},
        "detail": (json_answer({"detail": f"no such key: {key}"}, status=422),),
        "inside a 200": (json_answer(body),),
        "text": (whole_answer(f"key {key}".encode(), status=500, content_type="text/plain"),),
        "redirect": (whole_answer(b"", status=302, headers={"location": f"/login?key={key}"}),),
        "header": (whole_answer(b"", status=429, headers={"retry-after": key, "x-request-id": key}),),
        "protocol": (f"HTTP/1.1 {key}\r\n\r\n".encode(), CUT),
        "first frame": (sse_head(), chunked(frame), chunked()),
        "frame in the middle": (*begun, chunked(frame), chunked()),
        "garbage in the middle": (*begun, chunked(b"data: {" + key.encode() + b"\n\n"), STALL),
        "reset": (*begun, RESET),
    }


def everything_in(directory: Path) -> str:
    """Return what is in all files below a directory."""
    return "".join(path.read_bytes().decode("latin-1") for path in sorted(directory.rglob("*")) if path.is_file())


def shown(answer: Answer) -> str:
    """Return all a client can see of an answer."""
    return json.dumps(dict(answer.headers)) + answer.body.decode()


async def ask(gateway: Gateway, stream: bool, **members: Any) -> Answer:
    headers = {"authorization": f"Bearer {MASTER}"}
    return await gateway.ask(chat(text=f"Tell me of {PROMPT}", stream=stream, user=PROMPT, **members), headers=headers)


@pytest.mark.parametrize("key", KEYS, ids=["a usual key", "an unusual key"])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_upstream_that_echoes_its_key(key: str, stream: bool, tmp_path: Path, log: Log) -> None:
    seen: dict[str, str] = {}
    async with ScriptedUpstream() as upstream:
        async with running_gateway(tmp_path, document(upstream, key)) as gateway:
            for name, steps in echoing(key).items():
                upstream.answer(*steps)
                seen[name] = shown(await ask(gateway, stream))
            metrics = await gateway.request("GET", "/metrics", headers={"authorization": f"Bearer {MASTER}"})
        # On the upstream's wire, and nowhere else.
        assert {request.headers["authorization"] for request in upstream.requests} == {f"Bearer {key}"}
        assert {request.headers["x-tenant"] for request in upstream.requests} == {HEADER}
        assert all(MASTER not in str(request.headers) for request in upstream.requests)
    assert [name for name, text in seen.items() if SECRET in text] == []
    assert len(ledger(tmp_path)) == len(seen)
    for kept in (log.text, metrics.body.decode(), everything_in(tmp_path)):
        assert SECRET not in kept
        assert PROMPT not in kept


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_good_and_bad_requests(stream: bool, tmp_path: Path, log: Log) -> None:
    answers: list[Answer] = []
    async with ScriptedUpstream() as upstream:
        said = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
        reply = {**REPLY, "choices": [said]}
        upstream.answer(json_answer(reply))
        upstream.answer(
            sse_head(), *(chunked(b"data: " + event + b"\n\n") for event in (chunk({"content": SAID}), b"[DONE]"))
        )
        upstream.always(json_answer({"error": {"message": f"I refuse {PROMPT}", "param": PROMPT}}, status=400))
        async with running_gateway(tmp_path, document(upstream, KEYS[0])) as gateway:
            for streamed in (False, True):
                good = await ask(gateway, streamed)
                assert good.text == SAID
                answers.append(good)
            answers.append(await ask(gateway, stream))
            answers.append(await ask(gateway, stream, temperature=PROMPT))
            answers.append(await ask(gateway, stream, model=PROMPT))
            bad_tool = {"type": "function", "function": {"name": 7, "x": PROMPT}}
            answers.append(await ask(gateway, stream, tools=[bad_tool]))
            answers.append(await gateway.ask(f'{{"model": "{PROMPT}'.encode()))
            wrong = {"authorization": f"Bearer {CALLERS}", "api-key": CALLERS}
            paths = (f"/{PROMPT}", f"/v1/models/{PROMPT}", f"/v1/chat/completions?key={CALLERS}")
            answers += [await gateway.request("GET", path, headers=wrong) for path in paths]
            right = {"authorization": f"Bearer {MASTER}"}
            operators = ("/openapi.json", "/docs", "/v1/models", "/health/ready", "/metrics")
            answers += [await gateway.request("GET", path, headers=right) for path in operators]
    assert all(SECRET not in shown(answer) for answer in answers)
    for kept in (log.text, answers[-1].body.decode(), everything_in(tmp_path)):
        assert SECRET not in kept
        assert PROMPT not in kept
        assert SAID not in kept


async def test_a_failure_of_our_own_shows_no_prompt(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(self: object, chat: object, *_: object, **__: object) -> None:
        raise ValueError(f"cannot do {chat!r} with {KEYS[0]}")

    async with ScriptedUpstream() as upstream, running_gateway(tmp_path, document(upstream, KEYS[0])) as gateway:
        for place in (
            "services.providers.dialects.openai_chat.OpenAIChat.render_chat",
            "services.router.chat_service.ChatService._admit",
        ):
            with monkeypatch.context() as patch:
                patch.setattr(place, explode)
                answer = await ask(gateway, stream=False)
            assert answer.status == 500
            assert SECRET not in shown(answer)
            assert PROMPT not in shown(answer)
    assert [line["level"] for line in log.lines].count("error") >= 2
    assert SECRET not in log.text + everything_in(tmp_path)
    assert PROMPT not in log.text + everything_in(tmp_path)


async def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        config = validate(Config, {**document(upstream, KEYS[0]), "data_dir": str(tmp_path)})
        registry = Registry(load_catalog(), config.providers_config(), {"ANTHROPIC_API_KEY": KEYS[1]})
    objects: list[object] = [
        config,
        config.auth,
        config.providers_config(),
        router_config(config, journal_slot="0"),
        registry,
        registry.facts,
        registry.provider("acme"),
        registry.provider("anthropic"),
        *vars(registry.provider("acme")).values(),
        *vars(registry.provider("anthropic")).values(),
    ]
    try:
        for shown_object in objects:
            assert SECRET not in repr(shown_object) + str(shown_object) + f"{shown_object}"
        assert SECRET not in config.model_dump_json()
    finally:
        await registry.close()


BAD: dict[str, Any] = {
    "a key of another type": {"providers": {"acme": {"api_key": [KEYS[0]]}}},
    "a key that is a mapping": {"auth": {"master_key": {"value": MASTER}}},
    "a key in a wrong place": {"auth": MASTER},
    "a key as a member": {"providers": {"acme": {"api_key": KEYS[0], "model": KEYS[1]}}},
    "a key that no header takes": {"providers": {"acme": {"api_key": f"{KEYS[0]}\u2028\n"}}},
    "a key in an address": {"providers": {"acme": {"catalog": "openai_compatible", "base_url": f"ftp://{KEYS[1]}@x"}}},
    "a password in an address": {
        "providers": {"acme": {"catalog": "openai_compatible", "base_url": f"https://user:{KEYS[1]}@host:notaport/v1"}}
    },
    "a short key": {"auth": {"master_key": "SECRET"}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_configuration_is_refused_without_its_values(name: str, tmp_path: Path) -> None:
    def use() -> None:
        config = validate(Config, {"data_dir": str(tmp_path), **BAD[name]})
        Registry(load_catalog(), config.providers_config(), {})

    with pytest.raises(ConfigError) as caught:
        use()
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_no_command_shows_a_secret(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(
        f"""
data_dir: data
auth: {{master_key: {MASTER}, internal_key: {INTERNAL}}}
providers: {{acme: {{catalog: openai_compatible, base_url: "http://127.0.0.1:1/v1", api_key: "${{ACME}}"}}}}
models: {{m: {{deployments: [{{provider: acme, model: m-1}}]}}}}
"""
    )
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"auth: {{master_key: {MASTER}, {KEYS[1]}\n  : [\n")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text(f"providers: {{acme: {{api_key: {KEYS[0]}, apikey: {KEYS[1]}}}}}\n")
    added = {"ACME": KEYS[1], "OPENAI_API_KEY": KEYS[0]}
    runs = [
        (0, run_trunkline("check", str(good), cwd=tmp_path, added=added)),
        (1, run_trunkline("check", str(bad), cwd=tmp_path, added=added)),
        (1, run_trunkline("check", str(unknown), cwd=tmp_path, added=added)),
        (0, run_trunkline("providers", "--config", str(good), cwd=tmp_path, added=added)),
        (0, run_trunkline("usage", "--config", str(good), cwd=tmp_path, added=added)),
        (1, run_trunkline("serve", "--config", str(unknown), cwd=tmp_path, added=added)),
    ]
    for status, run in runs:
        assert run.returncode == status, run.stderr
        assert SECRET not in run.stdout + run.stderr, run.args


async def test_debug_logs_of_the_libraries_hold_nothing(tmp_path: Path, log: Log) -> None:
    for name in ("aiohttp", "asyncio", "aiosqlite", "uvicorn", "grpc", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        async with ScriptedUpstream() as upstream:
            upstream.always(json_answer(REPLY))
            async with running_gateway(tmp_path, document(upstream, KEYS[0])) as gateway:
                assert (await ask(gateway, stream=False)).status == 200
    finally:
        for name in ("aiohttp", "asyncio", "aiosqlite", "uvicorn", "grpc", "sqlalchemy"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    assert log.text
    assert SECRET not in log.text
    assert PROMPT not in log.text
