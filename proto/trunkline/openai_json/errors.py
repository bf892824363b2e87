"""Errors in OpenAI's shape: what upstreams answer becomes a GatewayError, a GatewayError what clients are told.

The one rule: an upstream's text is shown only where it is about the request, never with anything that looks like a
credential in it, and never when it is not JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from trunkline.errors import GatewayError, Reason
from trunkline.errors.v1 import error_reason_pb2 as reasons
from trunkline.openai_json.error_tables import SPECIFIC_WORDS, TELLING_MESSAGES, VAGUE_WORDS, reason_of_status

__all__ = ["encode_error", "error_from_object", "parse_openai_error", "redact", "retry_after"]

_SHORT: Final = 200
_LONG: Final = 2000
_LONGEST_WAIT: Final = 86_400.0

# Keys begin with their vendor's prefix; a masked one (sk-ab****yz) is one as well.
_SECRETS: Final = re.compile(
    r"\b(?i:bearer)\s+[^\s\"',;]+"
    r"|\b(?:sk|pk|rk|gsk|csk|xai|hf|r8|nvapi|pplx|tgp|fw|ghp|glpat|github_pat)[-_][\w\-*.]{6,}"
    r"|\b(?:AKIA|ASIA|AIza)[\w\-]{10,}"
)
_WAIT_IN_MESSAGE: Final = re.compile(r"(?i)\btry again in (?:(\d{1,5})m)?(\d{1,9}(?:\.\d{1,9})?)(ms|s)\b")

_OWN_WORDS: Final = {
    reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS: "The upstream rejected the gateway's credential.",
}


def encode_error(error: GatewayError) -> bytes:
    """Return OpenAI's JSON of an error: `{"error": {"message", "type", "param", "code"}}`."""
    face = error.face
    code = face.openai_code
    if code is None and error.reason == reasons.ERROR_REASON_INVALID_REQUEST:
        upstream_code = error.metadata.get("upstream_code", "")
        code = None if not upstream_code or upstream_code.isdigit() else upstream_code
    body = {"message": error.message, "type": face.openai_type, "param": error.param, "code": code}
    return msgspec.json.encode({"error": body})


def parse_openai_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> GatewayError:
    """Return the error of a non-2xx answer. Header names are lower case.

    `now` (seconds since 1970) gives a retry-after date its meaning; without it the answer's own `date` header does.
    """
    try:
        obj = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        obj = None
    error = error_from_object(obj, status)
    wait = retry_after(headers, now=now)
    if wait is not None:
        error.retry_after = wait
    return error


def error_from_object(obj: Any, status: int | None = None) -> GatewayError:
    """Return the error that a JSON value tells of; `status` is the HTTP status, None inside an answer that began well.

    Forms: `{"error": {…}}`, `{"error": "text"}`, `{"object": "error", …}`, `{"message": …}`, `{"detail": …}`, and a
    list around one of them. Metadata: `upstream_status`, `upstream_code`, `upstream_type`, `param`, as far as told.
    """
    error = _find(obj)
    words = [word for word in (_word(error, "code"), _word(error, "type"), _inner_code(error)) if word]
    code_status = _status_in(error)
    message = _message(error)
    reason = _reason(words, status or code_status, message, error)
    metadata = {
        "upstream_status": str(status or code_status or ""),
        "upstream_code": _word(error, "code"),
        "upstream_type": _word(error, "type"),
        "param": _word(error, "param"),
    }
    text = _OWN_WORDS.get(reason) or (redact(message)[:_LONG] if message else _neutral(status or code_status))
    return GatewayError(
        reason,
        text,
        metadata={name: redact(value)[:_SHORT] for name, value in metadata.items() if value},
        retry_after=_wait_in_body(error, message),
    )


def _reason(words: list[str], status: int | None, message: str, error: dict[str, Any]) -> Reason.ValueType:
    for word in words:
        if word.lower() in SPECIFIC_WORDS:
            return SPECIFIC_WORDS[word.lower()]
    lowered = message.lower()
    for piece, reason in TELLING_MESSAGES:
        if piece in lowered:
            return reason
    if status == 404 and ("model" in lowered or error.get("param") == "model"):
        return reasons.ERROR_REASON_MODEL_NOT_FOUND
    if status == 403 and _was_flagged(error):
        return reasons.ERROR_REASON_CONTENT_BLOCKED
    if status is not None:
        return reason_of_status(status)
    for word in words:
        if word.lower() in VAGUE_WORDS:
            return VAGUE_WORDS[word.lower()]
    return reasons.ERROR_REASON_UPSTREAM_OVERLOADED


def _find(obj: Any) -> dict[str, Any]:
    """Return the object that tells code, type and message; empty when there is none."""
    if type(obj) is list and obj:
        obj = obj[0]
    if type(obj) is not dict:
        return {}
    error = obj.get("error")
    if type(error) is dict:
        return error
    if type(error) is str:
        return {**obj, "message": obj.get("message") or error}
    return obj


def _word(error: dict[str, Any], name: str) -> str:
    value = error.get(name)
    if type(value) is int:
        return str(value)
    return value if type(value) is str else ""


def _inner_code(error: dict[str, Any]) -> str:
    """Return Azure's finer code."""
    inner = error.get("innererror")
    return _word(inner, "code") if type(inner) is dict else ""


def _status_in(error: dict[str, Any]) -> int | None:
    """Return the HTTP status that an error inside an answer names: OpenRouter's and vLLM's code, Groq's status_code."""
    for name in ("status_code", "raw_status_code", "code", "status"):
        value = error.get(name)
        if type(value) is str and len(value) == 3 and value.isdigit():
            value = int(value)
        if type(value) is int and 400 <= value < 600:
            return value
    return None


def _message(error: dict[str, Any]) -> str:
    for name in ("message", "detail", "error_description", "msg"):
        value = error.get(name)
        if type(value) is str and value.strip():
            return value.strip()
        if type(value) is dict:
            return _message(value)
        if type(value) is list and value:
            return "; ".join(_detail(entry) for entry in value[:5])
    return ""


def _detail(entry: Any) -> str:
    """Return one entry of a validation error's list in words: its place and what was wrong, not the value given."""
    if type(entry) is not dict:
        return str(entry) if type(entry) is str else "invalid"
    place = entry.get("loc")
    text = str(entry.get("msg") or entry.get("message") or "invalid")
    return f"{'.'.join(str(step) for step in place)}: {text}" if type(place) is list else text


def _was_flagged(error: dict[str, Any]) -> bool:
    metadata = error.get("metadata")
    return type(metadata) is dict and "flagged_input" in metadata


def _neutral(status: int | None) -> str:
    if status is None:
        return "The upstream reported an error without saying which."
    return f"The upstream answered with status {status} and no error object."


def redact(text: str) -> str:
    """Return a text without anything that looks like a credential."""
    return _SECRETS.sub("[redacted]", text)


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return how many seconds an answer's headers ask to wait: `retry-after-ms`, `retry-after` in seconds or a date."""
    wait = _seconds(headers.get("retry-after-ms"))
    if wait is not None:
        return _clamp(wait / 1000)
    value = headers.get("retry-after")
    wait = _seconds(value)
    if wait is None and value is not None:
        until, at = _date(value), now if now is not None else _date(headers.get("date", ""))
        wait = None if until is None or at is None else until - at
    return None if wait is None else _clamp(wait)


def _wait_in_body(error: dict[str, Any], message: str) -> float | None:
    for name, unit in (("retry_after_ms", 1000), ("retry_after", 1), ("retry_after_seconds", 1)):
        value = error.get(name)
        if isinstance(value, (int, float)) and abs(value) < 10**9:
            return _clamp(value / unit)
    found = _WAIT_IN_MESSAGE.search(message[:_LONG])
    if found is None:
        return None
    wait = float(found[2]) / (1000 if found[3].lower() == "ms" else 1)
    return _clamp(wait + 60 * int(found[1] or 0))


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _clamp(wait: float) -> float | None:
    """Return a wait within a day; None for one that is no number."""
    return None if math.isnan(wait) else min(max(wait, 0.0), _LONGEST_WAIT)
