"""Ships this process's journal to the usage service, and what processes left behind that are no more."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from services.router.usage_sender import UsageSender
from services.runtime.journal import Journal, open_orphans
from services.runtime.shipper import Shipper

__all__ = ["RecordShipping"]

_LOG = logging.getLogger(__name__)

DRAIN_TIMEOUT: Final = 5.0
"""Seconds to send what the journal holds when the router stops. What remains is sent after the next start."""

_ADOPT_SECONDS: Final = 2.0
_FOREVER: Final = 1e9


class RecordShipping:
    """Owns the journal of this process, those of dead processes until they are empty, and the tasks that ship them."""

    def __init__(self, journal: Journal, sender: UsageSender, directory: Path) -> None:
        self._journal = journal
        self._sender = sender
        self._directory = directory
        self._shipper: Shipper | None = None
        self._adopting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ship. Raises JournalError when a journal left behind cannot be read."""
        self._journal.start()
        self._shipper = Shipper(self._journal, self._sender.send)
        self._shipper.start()
        self._adopting = asyncio.create_task(self._adopt_often(), name="orphaned journals")

    async def drain(self) -> None:
        """Ship what is left, for a while, and ship no more."""
        if self._adopting is not None:
            self._adopting.cancel()
            await asyncio.wait({self._adopting})
        if self._shipper is not None and not await self._shipper.drain(DRAIN_TIMEOUT):
            _LOG.warning("usage records wait for the next start", extra={"count": self._journal.pending_records})

    async def close(self) -> None:
        """Let go of the journal. Records that are still in it are shipped after the next start."""
        await self._journal.close()

    async def _adopt_often(self) -> None:
        """Ship what dead processes left, now and again: a neighbour may die, or end its drain unheard, at any time."""
        while True:
            orphans = await self._open_orphans()
            try:
                for orphan in orphans:
                    _LOG.warning("a journal was left behind", extra={"count": orphan.pending_records})
                    await self._ship_orphan(orphan)
            finally:
                for orphan in orphans:
                    await orphan.close()
            await asyncio.sleep(_ADOPT_SECONDS)

    async def _open_orphans(self) -> list[Journal]:
        # In a thread, because opening reads what is pending. The thread cannot be cancelled, so its result is let go.
        opening = asyncio.ensure_future(asyncio.to_thread(open_orphans, self._directory))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            for orphan in await opening:
                await orphan.close()
            raise

    async def _ship_orphan(self, orphan: Journal) -> None:
        shipper = Shipper(orphan, self._sender.send)
        shipper.start()
        await shipper.drain(_FOREVER)
