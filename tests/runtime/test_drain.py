"""Drain counts what is in flight, and lets nothing in once it began."""

from __future__ import annotations

import asyncio

import pytest

from services.runtime.drain import Drain
from trunkline.errors import GatewayError


async def test_idle_waits_for_what_is_in_flight() -> None:
    drain = Drain()
    assert await drain.idle(0)
    gate = asyncio.Event()

    async def work() -> None:
        task = drain.enter()
        await gate.wait()
        drain.leave(task)

    working = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    assert drain.in_flight == 3
    assert not await drain.idle(0.01)
    gate.set()
    assert await drain.idle(1)
    assert drain.in_flight == 0
    await asyncio.gather(*working)


async def test_nothing_enters_once_it_began() -> None:
    drain = Drain()
    drain.begin()
    assert drain.is_draining
    with pytest.raises(GatewayError) as caught:
        drain.enter()
    assert caught.value.name == "SERVER_DRAINING"
    assert drain.in_flight == 0


async def test_cut_cancels_what_is_in_flight() -> None:
    drain = Drain()

    async def work() -> None:
        task = drain.enter()
        try:
            await asyncio.Event().wait()
        finally:
            drain.leave(task)

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert drain.cut() == 1
    assert drain.is_cut
    assert await drain.idle(1)
    assert working.cancelled() or working.cancelling()
    with pytest.raises(asyncio.CancelledError):
        await working


def test_a_call_begins_in_a_task() -> None:
    loop = asyncio.new_event_loop()
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            Drain().enter()
        except RuntimeError as error:
            failed.append(error)
        loop.stop()

    loop.call_soon(enter)
    loop.run_forever()
    loop.close()
    assert len(failed) == 1
