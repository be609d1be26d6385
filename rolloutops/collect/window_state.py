"""What the workers of one engine's window share."""

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


@dataclass
class Window:
    """One engine's window: what its workers share. The queue holds rollouts, and whether they were tried before; low
    says that few are left in it. landed: rollouts that ended in this turn, and who judges them. remaining and release
    are by part. elsewhere: rollouts that only other processes may work on now."""

    run: Run
    journal: Journal
    engine: Engine
    verifiers: Mapping[str, Verifier]
    meter: Progress
    pace: AnyRateLimit
    health: CircuitBreaker
    purse: SpendLimit
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
    parked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARKED))
    judging: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JUDGING))
    remaining: dict[tuple[str, int], int] = field(default_factory=dict)
    release: dict[tuple[str, int], Callable[[], None]] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)


def spawn(flight: Window, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task of the flight: it ends with it."""
    task = flight.group.create_task(what)
    flight.tasks.add(task)
    task.add_done_callback(flight.tasks.discard)
    return task
