"""kill -9 of the process that applies batches: what was acknowledged is there, and nothing is there twice.

A child takes batches from its standard input and applies them in a loop, saying when one is acknowledged. It is killed
at a random moment; the batch without an answer is sent again, as a router's journal does.
"""

from __future__ import annotations

import base64
import contextlib
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.usage.records import make_record
from trunkline.usage.v1 import usage_service_pb2 as pb

_CHILD = """
import asyncio, base64, sys
from pathlib import Path
from services.runtime.local import LocalChannel, LocalServer
from services.usage.config import UsageConfig
from services.usage.server import register
from trunkline.usage.v1 import usage_service_pb2 as pb
from trunkline.usage.v1.usage_service_pb2_grpc import UsageServiceStub

async def main():
    local = LocalServer()
    usage = register(local, UsageConfig(database=Path(sys.argv[1])))
    await usage.start()
    stub = UsageServiceStub(LocalChannel(local))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = pb.RecordUsageRequest.FromString(base64.b64decode(line))
        response = await stub.RecordUsage(request)
        print(response.applied_count, response.duplicate_count, flush=True)
    await usage.close()

asyncio.run(main())
"""


class Applier:
    """The child, started anew after each kill."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._read() == b"ready\n"

    def send(self, batch: list[pb.UsageRecord]) -> None:
        assert self.process.stdin is not None
        data = pb.RecordUsageRequest(records=batch).SerializeToString()
        self.process.stdin.write(base64.b64encode(data) + b"\n")
        self.process.stdin.flush()

    def answer(self) -> tuple[int, int] | None:
        """Return (applied, duplicates), or None when the child was killed before it answered."""
        applied, _, duplicates = self._read().partition(b" ")
        return (int(applied), int(duplicates)) if duplicates.endswith(b"\n") else None

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()

    def _read(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def _kill_loop(path: Path, kills: int) -> None:
    chance = random.Random(11)
    sent: set[str] = set()
    applied = 0
    unknown = 0
    batch: list[pb.UsageRecord] = []
    for _ in range(kills):
        applier = Applier(path)
        for _ in range(chance.randrange(6)):
            batch = batch or [make_record() for _ in range(chance.randrange(1, 200))]
            sent |= {record.record_id for record in batch}
            applier.send(batch)
            answer = applier.answer()
            assert answer is not None
            assert sum(answer) == len(batch)
            applied += answer[0]
            unknown += answer[1]
            batch = []
        batch = batch or [make_record() for _ in range(200)]
        sent |= {record.record_id for record in batch}
        applier.send(batch)
        time.sleep(chance.uniform(0, 0.02))  # the moment of the kill is the point of the test
        applier.kill()
        answer = applier.answer()
        applier.end()
        if answer is not None:
            applied += answer[0]
            unknown += answer[1]
            batch = []
    if batch:
        applier = Applier(path)
        applier.send(batch)
        answer = applier.answer()
        assert answer is not None
        applied += answer[0]
        unknown += answer[1]
        applier.end()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = [row[0] for row in connection.execute("SELECT record_id FROM usage_record")]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(rows) == len(set(rows))
    assert set(rows) == sent
    # Each record was applied once: by an answered batch, or by one whose answer the kill swallowed.
    assert applied + unknown == len(sent)


def test_ten_kills_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    _kill_loop(tmp_path / "ledger.sqlite", 10)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    _kill_loop(tmp_path / "ledger.sqlite", 100)
