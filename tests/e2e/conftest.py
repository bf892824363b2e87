"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from services.runtime.telemetry import configure_logging


class Log:
    """What the gateway in this process has logged, at every level, as it writes it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        """Everything, as it is on stderr."""
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines."""
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """Yield the log of a test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log = Log()
    configure_logging("DEBUG", log.stream)
    try:
        yield log
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)
