"""The time limit of an attempt, in virtual time, beside asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolloutops.collect.deadline import Deadline
from tests.virtual_time import run


@asynccontextmanager
async def as_alarm(alarm: Deadline, seconds: float | None) -> Any:
    with alarm.within(seconds):
        yield


Blocks = list[tuple[float | None, float]]
SECONDS = st.integers(0, 40).map(lambda tenths: tenths / 10 + 0.05)


async def ended(limit: Callable[[float | None], Any], blocks: Blocks) -> list[tuple[bool, float]]:
    """Of each block, with its limit and how long it takes: whether it was cut off, and after how long."""
    loop, found = asyncio.get_running_loop(), []
    for allowed, takes in blocks:
        began, cut = loop.time(), False
        try:
            async with limit(allowed):
                await asyncio.sleep(takes)
        except TimeoutError:
            cut = True
        found.append((cut, round(loop.time() - began, 6)))
    return found


@given(st.lists(st.tuples(st.none() | SECONDS, SECONDS.map(lambda s: s + 0.03)), max_size=8))
def test_an_alarm_rings_when_a_timeout_would(blocks: Blocks) -> None:
    async def ours() -> list[tuple[bool, float]]:
        alarm = Deadline()
        return await ended(lambda allowed: as_alarm(alarm, allowed), blocks)

    async def theirs() -> list[tuple[bool, float]]:
        return await ended(asyncio.timeout, blocks)

    assert run(ours()) == run(theirs())


def test_the_limit_may_be_moved_and_taken_back_within_the_block() -> None:
    async def body() -> None:
        loop, alarm = asyncio.get_running_loop(), Deadline()
        with alarm.within(1.0):
            alarm.when = None
            await asyncio.sleep(5.0)
            alarm.when = loop.time() + 2.0
            await asyncio.sleep(1.9)
        began = loop.time()

        async def late() -> None:
            with alarm.within(10.0):
                alarm.when = began + 0.5
                await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            await late()
        assert loop.time() - began == pytest.approx(0.5)

    run(body())


def test_who_is_cancelled_from_outside_is_cancelled() -> None:
    async def body() -> None:
        async def work() -> None:
            with Deadline().within(5.0):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(body())
