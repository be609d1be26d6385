"""What the workers of one engine's window share, and how the window ends.

Whatever ends it, what is in flight gets a while to end, and what has come is kept: it is paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.collect.verify import Verifier
from rolloutops.limits.circuit_breaker import CircuitBreaker
from rolloutops.limits.progress import Progress
from rolloutops.limits.replica_rate_limit import AnyRateLimit
from rolloutops.limits.spend_limit import SpendLimit
from rolloutops.store.journal import Journal
from rolloutops.store.runs import Run
from rolloutops.types import Engine

PARKED = 1000
"""Rollouts that may wait outside the window for another try: memory stays bounded."""
JUDGING = 1000
"""Verdicts that may be awaited at once."""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A rollout that was answered 403: its row, not written yet, and when the answer came (time.time)."""

    owed: PendingRollout
    row: dict[str, Any]
    at: float


@dataclass
class Window:
    """One engine's window: what its workers share. The queue holds rollouts, and whether they were tried before; low
    says that few are left in it. landed: rollouts that ended in this turn, and who judges them. forbidden: answers 403
    that are not judged yet (`forbidden.py`), success_at: when a rollout last came. remaining and release are by part.
    elsewhere: rollouts that only other processes may work on now. died: what ended it."""

    run: Run
    journal: Journal
    engine: Engine
    verifiers: Mapping[str, Verifier]
    meter: Progress
    pace: AnyRateLimit
    health: CircuitBreaker
    spend_limit: SpendLimit
    grace: float = 5.0
    stopped: str = ""
    closing: bool = False
    died: BaseException | None = None
    in_flight: int = 0
    workers: int = 0
    elsewhere: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    group: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    queue: asyncio.Queue[tuple[PendingRollout, bool] | None] = field(default_factory=asyncio.Queue)
    low: asyncio.Event = field(default_factory=asyncio.Event)
    landed: list[tuple[Attempt, Verifier | None]] = field(default_factory=list)
    forbidden: list[Forbidden] = field(default_factory=list)
    success_at: float = 0.0
    parked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARKED))
    judging: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JUDGING))
    remaining: dict[tuple[str, int], int] = field(default_factory=dict)
    release: dict[tuple[str, int], Callable[[], None]] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)


def spawn(flight: Window, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task of the flight: it ends with it. What it raises ends the flight, and not at once."""
    task = flight.group.create_task(_guarded(flight, what))
    flight.tasks.add(task)
    task.add_done_callback(flight.tasks.discard)
    return task


async def _guarded(flight: Window, what: Coroutine[Any, Any, None]) -> None:
    try:
        await what
    except Exception as error:
        fail(flight, error)


def fail(flight: Window, error: BaseException) -> None:
    """End the flight with an error; the first one counts. The others have answers that are on their way: they are
    kept."""
    if flight.died is None:
        flight.died = error
        end_soon(flight)


def start_no_more(flight: Window) -> None:
    """Let what is in flight end, and start nothing new."""
    flight.closing = True
    for task in flight.tasks:
        if task.get_name() == "feed":
            task.cancel()
    while not flight.queue.empty():
        flight.queue.get_nowait()
    flight.queue.put_nowait(None)
    for _ in range(PARKED):  # nobody takes what comes back, and nobody must wait for that
        flight.parked.release()


def end_soon(flight: Window) -> None:
    """Start nothing new, and give what is in flight a short while to end."""
    start_no_more(flight)
    asyncio.get_running_loop().call_later(flight.grace, cancel_all, flight)


def cancel_all(flight: Window) -> None:
    """End what is in flight at once."""
    for task in flight.tasks:
        task.cancel()
