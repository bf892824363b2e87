"""`serve --workers N`: one usage process, N data-plane processes on one port, and this supervisor, which starts again
whatever dies and ends with its children.

Children are spawned, never forked (gRPC and its threads do not survive a fork). Each holds the read end of a pipe as
its standard input: when the supervisor dies, even by kill -9, the pipe ends and the children drain by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Child", "supervise"]

_LOG = logging.getLogger("trunkline.workers")

_HEALTHY_AFTER_SECONDS = 5.0
_MAX_BACKOFF_SECONDS = 5.0
_KILL_AFTER_SECONDS = 5.0


@dataclass(slots=True, kw_only=True)
class Child:
    """A process to keep alive: `arguments` follow `python -m trunkline_cli.main`."""

    name: str
    arguments: Sequence[str]
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    async def start(self) -> asyncio.subprocess.Process:
        """Spawn it."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline_cli.main", *self.arguments, stdin=asyncio.subprocess.PIPE
        )
        return self.process


async def _keep_alive(child: Child, stopping: asyncio.Event) -> int:
    """Run the child until the supervisor stops; return the status of one that could never start."""
    backoff = 0.0
    ran_well = False
    while not stopping.is_set():
        began = time.monotonic()
        process = await child.start()
        status = await process.wait()
        if stopping.is_set():
            break
        lived = time.monotonic() - began
        ran_well = ran_well or lived >= _HEALTHY_AFTER_SECONDS or status < 0
        if not ran_well and status != 0:
            return status  # a configuration that cannot start will not start by trying again
        backoff = 0.0 if lived >= _HEALTHY_AFTER_SECONDS else min(_MAX_BACKOFF_SECONDS, backoff * 2 + 0.05)
        _LOG.error("process ended, starting it again", extra={"worker": child.name, "code": status})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), backoff)
    return 0


async def _end(children: Sequence[Child], grace_seconds: float) -> None:
    running = [child.process for child in children if child.process is not None and child.process.returncode is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    waits = [asyncio.ensure_future(process.wait()) for process in running]
    if waits:
        _, late = await asyncio.wait(waits, timeout=grace_seconds + _KILL_AFTER_SECONDS)
        if late:
            for process in running:
                if process.returncode is None:
                    process.kill()
            await asyncio.wait(late)


async def supervise(ledger: Child, workers: Sequence[Child], *, stopping: asyncio.Event, grace_seconds: float) -> int:
    """Keep the children alive until `stopping`; then drain the workers, and the ledger after them.

    The ledger is kept alive until the last worker has ended: they ship what their journals hold to it.
    Returns 0, or the exit status of a child that could not start.
    """
    ledger_stopping = asyncio.Event()
    keeping = [asyncio.create_task(_keep_alive(worker, stopping), name=worker.name) for worker in workers]
    keeping_ledger = asyncio.create_task(_keep_alive(ledger, ledger_stopping), name=ledger.name)
    stop = asyncio.create_task(stopping.wait())
    tasks = [keeping_ledger, *keeping]
    try:
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        return next((task.result() for task in tasks if task in done), 0)
    finally:
        stopping.set()
        await _end(workers, grace_seconds)
        await asyncio.gather(*keeping, return_exceptions=True)
        ledger_stopping.set()
        await _end([ledger], grace_seconds)
        await asyncio.gather(keeping_ledger, stop, return_exceptions=True)
