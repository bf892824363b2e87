"""Upstreams that misbehave in every way we know, seen by an HTTP client: a typed error, one record, nothing left over.

Each case runs through the whole gateway over real sockets, and a good call after it shows that nothing was harmed.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.gateway import Answer, Row, chat, ledger, provider, running_gateway
from tests.e2e.gateway_process import free_port
from tests.providers.openai_upstream import CHUNKS, REPLY, STREAM
from tests.upstream import (
    CUT,
    RESET,
    STALL,
    ScriptedUpstream,
    Step,
    chunked,
    json_answer,
    sse_answer,
    sse_head,
    whole_answer,
)

HTML = b"<!doctype html><html><body>Bad gateway</body></html>"
LIMITED = {"error": {"message": "Slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
BROKEN = {"error": {"message": "The engine failed", "type": "server_error", "code": None}}
WHOLE = json.dumps(REPLY).encode()
EVENTS = [chunked(b"data: " + event + b"\n\n") for event in STREAM]


def sse(*events: bytes) -> tuple[bytes, ...]:
    """Return the steps of a stream up to and with these events; what follows is the case's."""
    return (sse_head(), *(chunked(b"data: " + event + b"\n\n") for event in events))


def head(lines: str, status: int = 200) -> bytes:
    """Return a response's head as it is."""
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode("latin-1")


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A script, and what the client and the ledger must see of it."""

    name: str
    steps: tuple[Step, ...]
    code: str
    status: int
    outcome: str = "failed"
    text: str = ""
    """What had been said when it broke; only of streams."""
    retry_after: str | None = None


def unreachable(name: str, *steps: Step) -> Bad:
    return Bad(name=name, steps=steps, code="upstream_unreachable", status=502)


def malformed(name: str, *steps: Step, text: str = "") -> Bad:
    return Bad(name=name, steps=steps, code="upstream_malformed_reply", status=502, text=text)


def timed_out(name: str, *steps: Step, text: str = "") -> Bad:
    return Bad(name=name, steps=steps, code="upstream_timeout", status=504, text=text)


def truncated(name: str, *steps: Step, text: str = "") -> Bad:
    return Bad(name=name, steps=steps, code="stream_truncated", status=502, outcome="truncated", text=text)


def overloaded(name: str, *steps: Step, text: str = "") -> Bad:
    return Bad(name=name, steps=steps, code="upstream_overloaded", status=503, text=text)


def rejected(name: str, *steps: Step) -> Bad:
    return Bad(name=name, steps=steps, code="upstream_rejected_credentials", status=502)


def limited(name: str, *steps: Step, text: str = "", retry_after: str | None = None) -> Bad:
    return Bad(name=name, steps=steps, code="upstream_rate_limited", status=429, text=text, retry_after=retry_after)


# Answers that are bad whether one piece or a stream was asked for.
HEADS = [
    unreachable("cut before the head", CUT),
    unreachable("reset before the head", RESET),
    unreachable("cut inside the head", b"HTTP/1.1 200 OK\r\ncontent-ty", CUT),
    malformed("not HTTP", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", CUT),
    malformed("an endless header", b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 200_000, STALL),
    malformed("endless headers", b"HTTP/1.1 200 OK\r\n" + b"x-a: aaaaaaaaaa\r\n" * 200_000, STALL),
    timed_out("silent before the head", STALL),
    malformed("a web page with 200", whole_answer(HTML, content_type="text/html; charset=utf-8")),
    malformed("a web page with 200 that calls itself JSON", whole_answer(HTML)),
    overloaded("a web page with 502", whole_answer(HTML, status=502, content_type="text/html")),
    malformed("no content", whole_answer(b"")),
    malformed("301", whole_answer(b"", status=301, headers={"location": "http://127.0.0.1:1/"})),
    malformed("302", whole_answer(HTML, status=302, headers={"location": "/login"})),
    malformed("307", whole_answer(b"", status=307, headers={"location": "https://example.org/"})),
    malformed("JSON of another kind", json_answer(["no", "chat"])),
    malformed("JSON that breaks off", whole_answer(WHOLE[:-30])),
    malformed("JSON that is not UTF-8", whole_answer(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}')),
    limited("an error inside a 200", json_answer(LIMITED)),
    overloaded("a failure inside a 200", json_answer(BROKEN)),
    rejected("401", json_answer({"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, status=401)),
    rejected("401 without a word", whole_answer(b"", status=401)),
    rejected("403", json_answer({"error": {"message": "Country not supported"}}, status=403)),
    limited("429", json_answer(LIMITED, status=429, headers={"retry-after": "7"}), retry_after="7"),
    limited("429 in milliseconds", json_answer({}, status=429, headers={"retry-after-ms": "1500"}), retry_after="2"),
    limited("429 for ever", json_answer(LIMITED, status=429, headers={"retry-after": "nan"})),
    overloaded("500", json_answer(BROKEN, status=500)),
    overloaded("500 without a word", whole_answer(b"", status=500)),
    overloaded("529", json_answer({"error": {"type": "overloaded_error", "message": "Overloaded"}}, status=529)),
    timed_out("504", whole_answer(HTML, status=504, content_type="text/html")),
]

UNARY = [
    malformed("204", head("", 204)),
    unreachable("cut in the body", whole_answer(WHOLE, headers={"content-length": str(len(WHOLE) + 10)}), CUT),
    unreachable("reset in the body", head("content-length: 500\r\n"), WHOLE[:20], RESET),
    timed_out("silent in the body", head(f"content-length: {len(WHOLE)}\r\n"), WHOLE[:20], STALL),
    timed_out("longer than it says", whole_answer(WHOLE, headers={"content-length": str(len(WHOLE) + 10)}), STALL),
    malformed("shorter than it says", whole_answer(WHOLE, headers={"content-length": str(len(WHOLE) - 10)}), STALL),
    malformed("half a character at the end", whole_answer(WHOLE[: WHOLE.index(b"w\\u00f6") + 1] + b"\xc3")),
    malformed("a stream though none was asked", *sse_answer(STREAM)),
]

STREAMS = [
    truncated("204", head("", 204)),
    truncated("cut before the first event", sse_head(), CUT),
    truncated("cut before the first content", *sse(CHUNKS[0]), CUT),
    truncated("the end before the first content", *sse(CHUNKS[0]), chunked()),
    truncated("cut after the first content", *sse(*CHUNKS[:2]), CUT, text="Hello, "),
    truncated("reset after the first content", *sse(*CHUNKS[:2]), RESET, text="Hello, "),
    truncated("cut inside an event", *sse(*CHUNKS[:2]), chunked(b'data: {"id"'), CUT, text="Hello, "),
    truncated("the end without a last event", *sse(*CHUNKS[:3]), chunked(), text="Hello, wörld."),
    truncated("the end inside an event", *sse(*CHUNKS[:2]), chunked(b'data: {"id"'), chunked(), text="Hello, "),
    truncated(
        "half a character at the end",
        *sse(*CHUNKS[:2]),
        chunked(b"data: " + CHUNKS[2][:-70] + b"\xc3"),
        CUT,
        text="Hello, ",
    ),
    truncated("broken chunking", *sse(*CHUNKS[:2]), b"zz\r\n", text="Hello, "),
    timed_out("silent after the head", sse_head(), STALL),
    timed_out("silent before the first content", *sse(CHUNKS[0]), STALL),
    timed_out("silent after the first content", *sse(*CHUNKS[:2]), STALL, text="Hello, "),
    timed_out("comments before the first content", sse_head(), chunked(b": ping\n\n" * 50), STALL),
    limited("an error as the first frame", *sse(json.dumps(LIMITED).encode()), chunked()),
    limited("an error in the middle", *sse(*CHUNKS[:2], json.dumps(LIMITED).encode()), chunked(), text="Hello, "),
    overloaded("a failure in the middle", *sse(*CHUNKS[:2], json.dumps(BROKEN).encode()), STALL, text="Hello, "),
    malformed("garbage as the first frame", *sse(b"{garbage"), chunked()),
    malformed("garbage in the middle", *sse(*CHUNKS[:2], b"{garbage"), STALL, text="Hello, "),
    malformed("not UTF-8 in the middle", *sse(*CHUNKS[:2], b'{"id": "\xff"}'), STALL, text="Hello, "),
    malformed(
        "an endless event", *sse(*CHUNKS[:2]), *([chunked(b"data: " + b"a" * 4_000_000)] * 6), STALL, text="Hello, "
    ),
]

GOOD_STREAMS: dict[str, tuple[Step, ...]] = {
    "a character split between reads": (
        sse_head(),
        *(chunked(bytes([byte])) for byte in b"data: " + CHUNKS[2] + b"\n\n"),
        *EVENTS[3:],
        chunked(),
    ),
    "an unknown event": (
        *sse(CHUNKS[0]),
        chunked(b'event: telemetry\ndata: {"type": "telemetry", "n": 1}\n\n'),
        *EVENTS[2:],
        chunked(),
    ),
    "comments and blank lines": (sse_head(), chunked(b": hello\n\n\n\n"), *EVENTS[2:], chunked()),
    "carriage returns": (sse_head(), chunked(b"".join(b"data: " + event + b"\r\n\r\n" for event in STREAM)), chunked()),
    "no [DONE] after the finish": (*sse(*CHUNKS[2:]), chunked()),
    # [DONE] is the terminal event; some servers say no reason before it.
    "no finish before [DONE]": (*sse(*CHUNKS[:3], CHUNKS[4], b"[DONE]"), chunked()),
    "silence after [DONE]": (*sse(*STREAM[2:]), STALL),
    "a cut after [DONE]": (*sse(*STREAM[2:]), RESET),
    "one answer in one piece": (json_answer(REPLY),),
}


async def ask(steps: tuple[Step, ...], directory: Path, *, stream: bool) -> tuple[Answer, Row]:
    """Return what a client gets when the upstream does that, and its record; see that nothing else came of it."""
    async with ScriptedUpstream() as upstream:
        document = {
            "providers": {"acme": provider(upstream)},
            "models": {"m": {"deployments": [{"provider": "acme", "model": "m-1"}], "retries": 0}},
        }
        upstream.answer(*steps)
        upstream.always(json_answer(REPLY))
        async with running_gateway(directory, document) as gateway:
            bad = await gateway.ask(chat(stream=stream), headers={"x-request-id": "bad"})
            assert len(upstream.requests) == 1, "asked once"
            await is_released(upstream, steps)
            good = await gateway.ask(chat(), headers={"x-request-id": "good"})
        assert good.status == 200
        assert good.text == "Hello, wörld."
        async with asyncio.timeout(2):
            await asyncio.gather(*(connection.lost.wait() for connection in upstream.connections))
    rows = ledger(directory)
    assert [row["request_id"] for row in rows] == ["bad", "good"]
    assert rows[1]["outcome"] == "completed"
    return bad, rows[0]


async def is_released(upstream: ScriptedUpstream, steps: tuple[Step, ...]) -> None:
    """Wait until a connection whose answer did not end is closed. One with a whole answer may be used again."""
    if STALL in steps:
        async with asyncio.timeout(2):
            await upstream.connections[0].lost.wait()


def check_error(answer: Answer, case: Bad) -> None:
    """Check what every client of a failed call gets."""
    assert answer.headers["x-request-id"] == "bad"
    if case.text:
        assert answer.status == 200
        *_, last = answer.frames
        assert "[DONE]" not in answer.frames
        assert answer.text == case.text
        error = json.loads(last)["error"]
    else:
        assert answer.status == case.status
        assert answer.headers["content-type"] == "application/json"
        error = answer.json["error"]
    assert error["code"] == case.code
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert answer.headers.get("retry-after") == case.retry_after


def check_record(row: Row, case: Bad, *, stream: bool) -> None:
    """Check the one record of a failed call."""
    assert row["outcome"] == case.outcome
    assert row["error_reason"] == case.code.upper()
    assert row["streamed"] == stream
    assert (row["model"], row["deployment"], row["provider"], row["upstream_model"]) == ("m", "m/0", "acme", "m-1")
    assert [(attempt["deployment"], attempt["error_reason"]) for attempt in row["attempts"]] == [
        ("m/0", case.code.upper())
    ]
    assert (row["first_token_us"] is not None) == bool(case.text)
    assert row["has_usage"] == bool(case.text), "nothing was used, as far as anyone knows, unless something was said"
    assert not row["has_usage"] or row["estimated"]


def names(cases: list[Bad]) -> list[str]:
    """Return the ids of cases."""
    return [case.name for case in cases]


@pytest.mark.parametrize("case", HEADS + UNARY, ids=names(HEADS + UNARY))
async def test_a_bad_answer_in_one_piece(case: Bad, tmp_path: Path) -> None:
    answer, row = await ask(case.steps, tmp_path, stream=False)
    check_error(answer, case)
    check_record(row, case, stream=False)


@pytest.mark.parametrize("case", HEADS + STREAMS, ids=names(HEADS + STREAMS))
async def test_a_bad_stream(case: Bad, tmp_path: Path) -> None:
    answer, row = await ask(case.steps, tmp_path, stream=True)
    check_error(answer, case)
    check_record(row, case, stream=True)


@pytest.mark.parametrize("name", GOOD_STREAMS)
async def test_an_odd_stream_that_is_whole(name: str, tmp_path: Path) -> None:
    answer, row = await ask(GOOD_STREAMS[name], tmp_path, stream=True)
    assert answer.status == 200
    assert answer.text in {"wörld.", "Hello, wörld."}
    assert answer.frames[-1] == "[DONE]"
    assert row["outcome"] == "completed"
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (9, 3, 0)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_refused_connection(stream: bool, tmp_path: Path) -> None:
    document = {
        "providers": {"acme": provider(f"http://127.0.0.1:{free_port()}")},
        "models": {"m": {"deployments": [{"provider": "acme", "model": "m-1"}], "retries": 0}},
    }
    async with running_gateway(tmp_path, document) as gateway:
        answer = await gateway.ask(chat(stream=stream), headers={"x-request-id": "bad"})
        echo = await gateway.ask(chat("demo/echo"))  # another provider is none the worse for it
    case = unreachable("refused")
    check_error(answer, case)
    assert echo.text == "Hello"
    bad, _ = ledger(tmp_path)
    check_record(bad, case, stream=stream)
