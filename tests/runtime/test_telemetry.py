"""Log lines are JSON, carry the request id, and hold only what is on the list."""

from __future__ import annotations

import asyncio
import io
import logging
import timeit
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.telemetry import (
    REQUEST_ID,
    JsonFormatter,
    configure_logging,
    new_request_id,
    valid_request_id,
)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("DEBUG", stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


def test_fresh_request_ids_are_valid_and_differ() -> None:
    fresh = {new_request_id() for _ in range(1000)}
    assert len(fresh) == 1000
    assert all(valid_request_id(request_id) and len(request_id) == 36 for request_id in fresh)


@pytest.mark.parametrize("text", ["a", "req_01", "A.b:c/d@e+f=g~h-1", "x" * 128])
def test_usual_request_ids_are_accepted(text: str) -> None:
    assert valid_request_id(text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a\n", "\na", "a\x00", "ü", 'a"b', "a,b", "a;b", "a%0a"])
def test_other_request_ids_are_refused(text: str) -> None:
    assert not valid_request_id(text)


@given(st.text())
def test_a_valid_request_id_needs_no_escaping_anywhere(text: str) -> None:
    if valid_request_id(text):
        assert text.isascii()
        assert text.isprintable()
        assert msgspec.json.encode(text) == f'"{text}"'.encode()


def test_a_line_is_one_json_object_with_the_request_id(log: io.StringIO) -> None:
    token = REQUEST_ID.set("req_7")
    logging.getLogger("services.router").info("call %s", "failed", extra={"code": "INTERNAL", "duration_ms": 1.5})
    REQUEST_ID.reset(token)
    logging.getLogger("services.router").warning("later")
    first, second = lines(log)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "services.router",
        "message": "call failed",
        "request_id": "req_7",
        "code": "INTERNAL",
        "duration_ms": 1.5,
    }
    assert "request_id" not in second


def test_an_explicit_request_id_wins(log: io.StringIO) -> None:
    token = REQUEST_ID.set("current")
    logging.getLogger("services").info("x", extra={"request_id": "of another call"})
    REQUEST_ID.reset(token)
    assert lines(log)[0]["request_id"] == "of another call"


def test_members_that_are_not_listed_are_dropped(log: io.StringIO) -> None:
    extra = {"prompt": "secret", "api_key": "sk-1", "path": {"secret": 1}, "route": "x" * 1000, "count": 3}
    logging.getLogger("services").info("x", extra=extra)
    assert "secret" not in log.getvalue()
    assert "sk-1" not in log.getvalue()
    line = lines(log)[0]
    assert line["count"] == 3
    assert "path" not in line
    assert len(line["route"]) == 256


def test_an_exception_is_logged_by_type_and_place_only(log: io.StringIO) -> None:
    def fail() -> None:
        try:
            raise KeyError("secret key")
        except KeyError as error:
            raise ValueError("secret prompt") from error

    try:
        fail()
    except ValueError:
        logging.getLogger("services").exception("call failed")
    line = lines(log)[0]
    assert "secret" not in log.getvalue()
    assert (line["error_type"], line["caused_by"]) == ("ValueError", ["KeyError"])
    module, function, number = line["frames"][-1].split(":")
    assert module == __name__
    assert function.endswith("fail")
    assert int(number) > 0
    assert "/" not in line["frames"][-1]


def test_an_endless_recursion_is_logged_in_a_bounded_line(log: io.StringIO) -> None:
    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError:
        logging.getLogger("services").exception("call failed")
    assert len(lines(log)[0]["frames"]) == 30


def test_other_packages_messages_are_cut_to_their_template(log: io.StringIO) -> None:
    logging.getLogger("grpc._cython").error("Unexpected [%s]\nsecond line with secret", "secret")
    logging.getLogger("uvicorn.error").info("not shown")
    logging.getLogger("asyncio").debug("not shown")
    assert [line["message"] for line in lines(log)] == ["Unexpected [%s]"]


def test_warnings_are_logged(log: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("something is old", UserWarning, stacklevel=1)
    assert "something is old" in lines(log)[0]["message"]


async def test_asyncio_does_not_leak_what_nobody_awaited(log: io.StringIO) -> None:
    async def fail() -> None:
        raise ValueError("secret prompt")

    task = asyncio.ensure_future(fail())
    await asyncio.wait({task})
    del task
    line = lines(log)[0]
    assert "secret" not in log.getvalue()
    assert line["message"] == "Task exception was never retrieved"
    assert line["error_type"] == "ValueError"


def test_configuring_twice_writes_each_line_once(log: io.StringIO) -> None:
    configure_logging("info", log)
    logging.getLogger("services").info("once")
    logging.getLogger("services").debug("not shown")
    assert [line["message"] for line in lines(log)] == ["once"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging("loud")


def test_values_that_json_does_not_know_cannot_break_a_line() -> None:
    record = logging.LogRecord("services", logging.INFO, "f", 1, "x", (), None)
    record.__dict__.update(code=object(), count=float("nan"), path="\udcff")
    line = JsonFormatter().format(record)
    assert "\n" not in line
    msgspec.json.decode(line)


def test_a_request_id_costs_little() -> None:
    # Measured 0.5 us; the bound only catches a change of kind.
    assert min(timeit.repeat(new_request_id, number=1000, repeat=5)) / 1000 < 20e-6
