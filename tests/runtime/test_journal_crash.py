"""The journal under kill -9 and on a full disk: real processes, real signals, real limits."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.runtime.journal import Journal, open_orphans

# Appends numbered records and says each number only after its append returned. Meanwhile it reads batches, writes their
# numbers to a file as the receiver would, and commits them.
_CHILD = """
import os, sys
from pathlib import Path
from services.runtime.journal import Journal

directory, received, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
journal = Journal(directory, sync="none", max_segment_bytes=20_000)
receiver = os.open(received, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
print("ready", flush=True)
while True:
    for _ in range(7):
        journal.append(b"%d" % number + b" padding" * (number % 50))
        os.write(1, b"%d\\n" % number)
        number += 1
    batch = journal.read_batch(max_records=5)
    os.write(receiver, b"".join(record.split(b" ")[0] + b"\\n" for record in batch.records))
    journal.commit(batch)
"""

_FULL_DISK = """
import os, resource, sys
from pathlib import Path
from services.runtime.journal import Journal, JournalError

journal = Journal(Path(sys.argv[1]), sync="none")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
number = 0
try:
    while True:
        journal.append(b"%d" % number + b"." * 700)
        number += 1
except JournalError as error:
    print(number, error)
for _ in range(3):
    try:
        journal.append(b"." * 700)
    except JournalError as error:
        print("refused again")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(b"%d" % number)
os._exit(0)
"""


def _run_and_kill(directory: Path, received: Path, start: int, seconds: float) -> list[int]:
    """Return the numbers whose append the child acknowledged before it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(directory), str(received), str(start)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    time.sleep(seconds)  # the moment of the kill is the point of the test
    child.kill()
    printed = child.stdout.read()
    child.stdout.close()
    child.wait()
    return [int(line) for line in printed.split(b"\n")[:-1]]


def _drain(journal: Journal) -> list[int]:
    numbers: list[int] = []
    while (batch := journal.read_batch()).records:
        numbers += [int(record.split(b" ")[0]) for record in batch.records]
        journal.commit(batch)
    return numbers


def _kill_loop(directory: Path, received: Path, kills: int) -> None:
    acknowledged: list[int] = []
    chance = random.Random(7)
    for _ in range(kills):
        start = acknowledged[-1] + 2 if acknowledged else 0  # one append may have come through unacknowledged
        acknowledged += _run_and_kill(directory, received, start, chance.uniform(0, 0.05))
    journal = Journal(directory, sync="none")
    pending = _drain(journal)
    journal.release_directory()
    assert len(pending) == len(set(pending)), "a record is in the journal twice"
    seen = {int(line) for line in received.read_bytes().split(b"\n")[:-1]}
    assert len(acknowledged) > kills * 5
    assert not set(acknowledged) - seen - set(pending), "acknowledged, and lost"
    # At most one per kill was appended without having been acknowledged.
    assert len((seen | set(pending)) - set(acknowledged)) <= kills
    assert journal.stats().damaged_ranges == 0
    assert not directory.exists()


def test_twenty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    _kill_loop(tmp_path / "journal", tmp_path / "received", 20)


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    _kill_loop(tmp_path / "journal", tmp_path / "received", 200)


def test_the_journal_of_a_killed_process_is_adopted(tmp_path: Path) -> None:
    acknowledged = _run_and_kill(tmp_path / "journal" / "0", tmp_path / "received", 0, 0.02)
    (orphan,) = open_orphans(tmp_path / "journal")
    pending = _drain(orphan)
    orphan.release_directory()
    seen = {int(line) for line in (tmp_path / "received").read_bytes().split(b"\n")[:-1]}
    assert pending
    assert not set(acknowledged) - seen - set(pending)
    assert not orphan.directory.exists()


def test_a_full_disk_is_refused_loudly_and_harms_nothing_else(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path / "journal")], capture_output=True, text=True, check=True
    )
    first, *rest = ran.stdout.splitlines()
    count, _, message = first.partition(" ")
    assert "cannot be written" in message
    assert rest == ["refused again"] * 3
    journal = Journal(tmp_path / "journal", sync="none")
    records = journal.read_batch().records
    assert [int(record.rstrip(b".")) for record in records] == list(range(int(count) + 1))
    assert journal.stats().damaged_ranges == 0
    journal.release_directory()
