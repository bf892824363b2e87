"""The replay of recorded exchanges, once for each module, and its table at the end of the run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.providers.recordings import Recording
from tests.recordings.gateway import Exchange, replay_all

_ID = re.compile(r"tests/recordings/.*\[(?P<provider>\w+)/(?P<operation>chat(_stream)?)-[^]]*\]$")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exchanges(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exchange]:
    """Replay the recordings that the module's selected tests are about."""
    asked: dict[str, tuple[Recording, dict[str, Any]]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            recording = item.callspec.params.get("recording") if hasattr(item, "callspec") else None
            if isinstance(recording, Recording):
                asked[recording.id] = (recording, request.module.client_body(recording))
    return await replay_all(asked, tmp_path_factory.mktemp("gateway"))


def _outcomes(stats: dict[str, list[Any]]) -> Iterator[tuple[tuple[str, str], str, str]]:
    """Yield (provider, operation), outcome and reason of each replayed recording."""
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in stats.get(outcome, ()):
            match = _ID.search(report.nodeid)
            if match is not None:
                reason = report.longrepr[2] if outcome == "skipped" else ""
                yield (match["provider"], match["operation"]), outcome, f"{report.nodeid}: {reason}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many recordings of each provider and operation came through the gateway, and why others were left."""
    counts: Counter[tuple[tuple[str, str], str]] = Counter()
    reasons = []
    for row, outcome, reason in _outcomes(terminalreporter.stats):
        counts[row, "failed" if outcome == "error" else outcome] += 1
        if outcome == "skipped":
            reasons.append(reason)
    if not counts:
        return
    terminalreporter.section("recordings through the whole gateway")
    columns = ("passed", "failed", "skipped")
    rows = {row: [counts[row, column] for column in columns] for row in sorted({row for row, _ in counts})}
    rows["all", ""] = [sum(column) for column in zip(*rows.values(), strict=True)]
    terminalreporter.write_line(f"{'provider':<16}{'operation':<13}" + "".join(f"{column:>9}" for column in columns))
    for (provider, operation), numbers in rows.items():
        cells = "".join(f"{number or '':>9}" for number in numbers)
        terminalreporter.write_line(f"{provider:<16}{operation:<13}{cells}")
    for reason in reasons:
        terminalreporter.write_line(reason)
