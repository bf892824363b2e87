"""The request id that follows a call through every hop, and the log: one JSON object a line on stderr.

The one rule: a log line holds what is on a list, so that a prompt or a secret cannot get in by accident. Of exceptions
only types and places are written, of other packages' messages only the template's first line.
"""

from __future__ import annotations

import logging
import random
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec

from services.runtime.metrics import Metrics, RequestMetrics

__all__ = [
    "FIELDS",
    "REQUEST_ID",
    "JsonFormatter",
    "Metrics",
    "RequestMetrics",
    "configure_logging",
    "new_request_id",
    "valid_request_id",
]

REQUEST_ID: Final[ContextVar[str]] = ContextVar("trunkline_request_id", default="")
"""The id of the request that the current task works for; "" outside of one."""

FIELDS: Final = frozenset(
    {
        "address",
        "attempt",
        "bytes",
        "code",
        "count",
        "deployment",
        "duration_ms",
        "grace_seconds",
        "http_status",
        "in_flight",
        "method",
        "outcome",
        "path",
        "port",
        "provider",
        "reason",
        "record_id",
        "retry_after_seconds",
        "route",
        "service",
        "signal",
        "upstream_status",
        "worker",
    }
)
"""What `extra=` may add to a line; every other member is dropped."""

_OWN: Final = frozenset({"gateway_http", "services", "trunkline", "trunkline_cli"})
_QUIET: Final = ("aiohttp", "asyncio", "grpc", "httpcore", "httpx", "sqlalchemy", "uvicorn")
_MAX_MESSAGE: Final = 2000
_MAX_TEXT: Final = 256
_MAX_FRAMES: Final = 30
_MAX_CAUSES: Final = 5

# Every character of it may stand in a header, in gRPC metadata and in a log line as it is.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:/@+=~-]{1,128}")


def new_request_id() -> str:
    """Return a fresh id, "req_" and 32 hexadecimal digits."""
    # Unique, not secret: asking the kernel for 16 bytes takes 10 us, 20 times as long.
    return f"req_{random.getrandbits(128):032x}"


def valid_request_id(text: str) -> bool:
    """Whether an id from outside may be used: 1 to 128 characters of A-Z a-z 0-9 and _.:/@+=~-"""
    return _REQUEST_ID.fullmatch(text) is not None


def configure_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Write every logger's lines as JSON to `stream` (stderr when None); warnings too. May be called again.

    `level` is a name of the logging module ("DEBUG", "INFO", ...). Raises ValueError for another.
    """
    level = level.upper()
    if level not in logging.getLevelNamesMapping():
        raise ValueError(f"{level!r} is no log level")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.setLevel(level)
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, request_id, the listed fields, the error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(_message(record), _MAX_MESSAGE),
        }
        members = record.__dict__
        if request_id := members.get("request_id") or REQUEST_ID.get():
            line["request_id"] = _clean(str(request_id), _MAX_TEXT)
        for name in FIELDS & members.keys():
            value = members[name]
            if isinstance(value, str):
                line[name] = _clean(value, _MAX_TEXT)
            elif isinstance(value, (int, float)):
                line[name] = value
        if record.exc_info and record.exc_info[1] is not None:
            line |= _describe(record.exc_info[1])
        return msgspec.json.encode(line).decode()


def _clean(text: str, limit: int) -> str:
    """Return text that has a UTF-8 form, cut to `limit` characters."""
    return text[:limit].encode("utf-8", "replace").decode()


def _message(record: logging.LogRecord) -> str:
    """Return the message; of a logger that is not ours only the first line of its template, without the arguments."""
    if record.name.partition(".")[0] in _OWN or record.name == "py.warnings":
        return record.getMessage()
    return str(record.msg).partition("\n")[0]


def _describe(error: BaseException) -> dict[str, Any]:
    """Return an exception's type, what caused it, and where it was raised: no message, no argument, no file path."""
    causes: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(causes) < _MAX_CAUSES:
        causes.append(_type_name(cause))
        cause = cause.__cause__ or cause.__context__
    described: dict[str, Any] = {"error_type": _type_name(error), "frames": _frames(error.__traceback__)}
    if causes:
        described["caused_by"] = causes
    return described


def _frames(traceback: TracebackType | None) -> list[str]:
    """Return "module:function:line" of the innermost frames, outermost first."""
    frames: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = traceback.tb_frame.f_globals.get("__name__", "?")
        frames.append(f"{module}:{code.co_qualname}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames[-_MAX_FRAMES:]


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
