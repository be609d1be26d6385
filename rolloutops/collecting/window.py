"""What the workers of one engine's window share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from rolloutops.collecting.attempted import Attempted, Owed
from rolloutops.engines import Engine
from rolloutops.errors import EngineError
from rolloutops.pacing.fleet import AnyPace
from rolloutops.pacing.health import Health
from rolloutops.pacing.purse import Purse
from rolloutops.progress import Meter
from rolloutops.tables.journal import Journal
from rolloutops.tables.runs import Run
from rolloutops.verify import Verifier

PARKED = 1000
"""Rollouts that may wait outside the window for another try: memory stays bounded."""
JUDGING = 1000
"""Verdicts that may be awaited at once."""


@dataclass
class Flight:
    """One engine's window: what its workers share. The queue holds rollouts, and whether they were tried before; low
    says that few are left in it. landed: rollouts that ended in this turn, and who judges them. remaining and release
    are by part. elsewhere: rollouts that only other processes may work on now."""

    run: Run
    journal: Journal
    engine: Engine
    verifiers: Mapping[str, Verifier]
    meter: Meter
    pace: AnyPace
    health: Health
    purse: Purse
    grace: float = 5.0
    stopped: str = ""
    closing: bool = False
    died: EngineError | None = None
    in_flight: int = 0
    workers: int = 0
    elsewhere: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    group: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    queue: asyncio.Queue[tuple[Owed, bool] | None] = field(default_factory=asyncio.Queue)
    low: asyncio.Event = field(default_factory=asyncio.Event)
    landed: list[tuple[Attempted, Verifier | None]] = field(default_factory=list)
    parked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARKED))
    judging: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JUDGING))
    remaining: dict[tuple[str, int], int] = field(default_factory=dict)
    release: dict[tuple[str, int], Callable[[], None]] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)


def spawn(flight: Flight, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task of the flight: it ends with it."""
    task = flight.group.create_task(what)
    flight.tasks.add(task)
    task.add_done_callback(flight.tasks.discard)
    return task
