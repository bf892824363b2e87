"""The recorded chat exchanges with providers that speak OpenAI's API, for tests that replay them.

The recordings lie beside the project; where they are absent the tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["Recording", "recordings"]

FOLDER: Final = Path(__file__).parents[3] / "shared" / "recordings"
_APIS: Final = ("openai.chat_completions", "gemini.openai_chat_completions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One exchange. `frames` holds the data of each server-sent event, empty for an answer that is no stream."""

    name: str
    provider: str
    request: dict[str, Any] | None
    status: int
    headers: dict[str, str]
    body: bytes
    frames: tuple[bytes, ...]


def recordings(wanted: Callable[[Recording], bool]) -> pytest.MarkDecorator:
    """Parametrise a test by the recordings that `wanted` accepts."""
    chosen = [pytest.param(each, id=each.name) for each in _all() if wanted(each)]
    if not chosen:
        reason = "the recordings are not beside the project"
        chosen = [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return pytest.mark.parametrize("recording", chosen)


@cache
def _all() -> tuple[Recording, ...]:
    return tuple(_load()) if FOLDER.exists() else ()


def _load() -> Iterator[Recording]:
    for path in sorted(FOLDER.glob("*/chat*.json")):
        document = json.loads(path.read_bytes())
        if document["api"] not in _APIS:
            continue
        response = document["response"]
        text = response.get("body_text")
        body = json.dumps(response["body_json"]) if "body_json" in response else text or ""
        is_stream = text is not None and "data:" in text
        yield Recording(
            name=document["id"],
            provider=document["provider"],
            request=document["request"].get("body"),
            status=response["status"],
            headers=response["headers"],
            body=body.encode(),
            frames=tuple(_frames(text)) if is_stream and text is not None else (),
        )


def _frames(text: str) -> Iterator[bytes]:
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines:
            yield "\n".join(lines).encode()
