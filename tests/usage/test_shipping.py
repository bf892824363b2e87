"""Journal, shipper and ledger together: each record once in the ledger, however the way between them fails."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from services.runtime.journal import Journal
from services.runtime.shipper import Shipper
from tests.usage.records import Stub, list_all, make_record, serving
from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.usage.v1 import usage_service_pb2 as pb


class Lossy:
    """Sends batches; some calls fail before the ledger has them, and of some only the answer is lost."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._chance = random.Random(5)
        self.applied = 0
        self.duplicates = 0

    async def __call__(self, records: list[bytes]) -> None:
        self._fail()
        response = await self._stub.RecordUsage(
            pb.RecordUsageRequest(records=[pb.UsageRecord.FromString(record) for record in records])
        )
        self.applied += response.applied_count
        self.duplicates += response.duplicate_count
        self._fail()

    def _fail(self) -> None:
        if self._chance.random() < 0.3:
            raise GatewayError(error_reason_pb2.ERROR_REASON_SERVICE_UNAVAILABLE, "lost on the way")


async def test_each_record_is_in_the_ledger_once_over_a_lossy_way_and_restarts(tmp_path: Path) -> None:
    records = [make_record() for _ in range(1000)]
    async with serving(tmp_path / "ledger.sqlite") as stub:
        lossy = Lossy(stub)
        for start in range(0, 1000, 250):
            journal = Journal(tmp_path / "journal", max_segment_bytes=10_000)
            journal.start()
            shipper = Shipper(journal, lossy, max_records=20, linger_seconds=0.001, jitter=lambda: 0.0)
            shipper.start()
            for record in records[start : start + 250]:
                journal.append(record.SerializeToString())
                await asyncio.sleep(0)
            # All but the last restart leave the journal as a crash would: some batches applied and not committed.
            assert await shipper.drain(30 if start == 750 else 0.01) or start < 750
            await journal.close()
        listed = await list_all(stub)
    assert sorted(record.record_id for record in listed) == sorted(record.record_id for record in records)
    assert lossy.applied <= 1000  # a restart may have cut off a call whose records were applied
    assert lossy.duplicates > 0
