"""The collect stage: what is owed becomes attempts, and verdicts unless verification is left for later.

A window of rollouts is kept in flight across parts and data sets, so that the slowest of a part holds nobody up. A
retry waits outside the window. Each attempt is in the journal the moment it ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rolloutops.agent import Attempted, Owed, attempt
from rolloutops.engines import Engine
from rolloutops.errors import EngineError, UsageError
from rolloutops.journal import Journal, seal_orphans
from rolloutops.owed import Asked, Ledger, Part
from rolloutops.plugins import find
from rolloutops.progress import Meter, report
from rolloutops.recipe import Recipe
from rolloutops.runs import Run
from rolloutops.settings import Collect
from rolloutops.verify import Verifier, judge_unjudged, record_verdict, verifiers
from rolloutops.workspace import Workspace

PARKED = 1000
"""Rollouts that may wait outside the window for another try: memory stays bounded."""
ENGINE_KEYS = ("base_url", "endpoint", "api_key_env", "request_timeout")
"""Keys of [collect] that are arguments of the engine, where it takes them: a rehearsal with another may not."""


@dataclass(frozen=True)
class Collected:
    """How a collection ended: rollouts wanted, owed at its start, made by it, given up and owed at its end."""

    wanted: int
    owed: int
    done: int
    left: int
    given_up: int
    judged: int
    saved: int
    failures: Mapping[str, int]


@dataclass
class _Flight:
    """One engine's window: what its workers share. The queue holds rollouts, and whether they were tried before; room
    is for those that were not, parked for those that wait for another try. remaining and release are by part."""

    run: Run
    journal: Journal
    engine: Engine
    verifiers: Mapping[str, Verifier]
    meter: Meter
    width: int
    room: asyncio.Semaphore
    parked: asyncio.Semaphore
    queue: asyncio.Queue[tuple[Owed, bool] | None] = field(default_factory=asyncio.Queue)
    remaining: dict[tuple[str, int], int] = field(default_factory=dict)
    release: dict[tuple[str, int], Callable[[], None]] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)


def collect(workspace: Workspace, recipe: Recipe, run: Run) -> Collected:
    """Collect what is owed. Raises KeyboardInterrupt after Ctrl-C, when all that had ended is sealed."""
    saved = seal_orphans(workspace)
    ledger = Ledger(workspace, recipe.plan())
    owed, wanted = ledger.count("owed_keys"), ledger.count("wanted")
    meter = Meter("rollouts", owed, done_before=wanted - owed)
    judged = asyncio.run(_collect(workspace, recipe, run, ledger, meter))
    after = Ledger(workspace, recipe.plan())
    left, given_up = after.count("owed_keys"), after.count("given_up")
    return Collected(wanted, owed, meter.done, left, given_up, judged, saved, dict(meter.failures))


def engine_groups(recipe: Recipe) -> list[Asked]:
    """The data sets and policies of a recipe, grouped by the engine that answers them."""
    groups: dict[str, dict[tuple[str, str], Collect]] = {}
    for row in recipe.plan():
        key = (row["dataset"], row["policy"])
        asked = recipe.collect_of(*key)
        if not asked.engine:
            raise UsageError(f"no engine for {row['dataset']!r}: add engine = … to [collect], or give --engine=NAME")
        if asked.verify not in ("now", "later"):
            raise UsageError(f"verify must be 'now' or 'later', not {asked.verify!r}")
        same = [
            asked.engine,
            asked.model,
            asked.token_ids,
            asked.engine_args,
            *(getattr(asked, k) for k in ENGINE_KEYS),
        ]
        groups.setdefault(json.dumps(same, sort_keys=True), {})[key] = asked
    return list(groups.values())


def make_engine(asked: Collect, recipe: Recipe) -> Engine:
    """The engine that a data set and policy ask for, not yet started."""
    plugin = find("engine", asked.engine, recipe.folder)
    takes = plugin.takes()
    given = {k: v for k in ENGINE_KEYS if k in takes and (v := getattr(asked, k)) is not None}
    if asked.token_ids:
        given["token_ids"] = True
    if asked.model:
        given["model"] = asked.model
    engine: Engine = plugin.make({**asked.engine_args, **given})
    return engine


async def _collect(workspace: Workspace, recipe: Recipe, run: Run, ledger: Ledger, meter: Meter) -> int:
    """Fly each engine's window, then judge what was left unjudged. Returns how many verdicts that took."""
    journal = Journal(workspace, run.run_id)
    judges = verifiers(recipe)
    stopping = asyncio.Event()
    groups = engine_groups(recipe)
    now = {dataset for group in groups for (dataset, _), asked in group.items() if asked.verify == "now"}
    try:
        for asked in groups:
            parts = ledger.parts(asked)
            if not parts or stopping.is_set():
                continue
            first = next(iter(asked.values()))
            engine = make_engine(first, recipe)
            await engine.start()
            try:
                width = first.num_samples_in_parallel or int(getattr(engine, "parallel", 64))
                room, parked = asyncio.Semaphore(width), asyncio.Semaphore(PARKED)
                flight = _Flight(run, journal, engine, judges, meter, width, room, parked)
                await _fly(flight, ledger, asked, parts, stopping, first.grace_seconds)
            finally:
                await engine.stop()
        if stopping.is_set():
            raise KeyboardInterrupt
        journal.flush()
        return await judge_unjudged(workspace, recipe, run, journal, {d: v for d, v in judges.items() if d in now})
    finally:
        for judge in judges.values():
            await judge.close()
        journal.close()


async def _fly(
    flight: _Flight, ledger: Ledger, asked: Asked, parts: Sequence[Part], stopping: asyncio.Event, grace: float
) -> None:
    """Keep `width` rollouts in flight until the parts are settled, the engine dies, or Ctrl-C asks to stop."""
    loop = asyncio.get_running_loop()
    beside = [asyncio.create_task(report(flight.meter)), asyncio.create_task(_seal_now_and_then(flight.journal))]
    tasks: list[asyncio.Task[None]] = []

    def cancel_all() -> None:
        for task in tasks:
            task.cancel()

    def interrupted() -> None:
        if stopping.is_set():
            cancel_all()
            return
        stopping.set()
        sys.stderr.write(f"\nstopping: up to {grace:g} s for what is in flight; Ctrl-C again stops at once\n")
        tasks[0].cancel()
        while not flight.queue.empty():
            flight.queue.get_nowait()
        for _ in range(flight.width):
            flight.queue.put_nowait(None)
        loop.call_later(grace, cancel_all)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(_feed(flight, ledger, asked, parts)))
            tasks.extend(group.create_task(_work(flight)) for _ in range(flight.width))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        for release in flight.release.values():
            flight.journal.when_sealed(release)


async def _feed(flight: _Flight, ledger: Ledger, asked: Asked, parts: Sequence[Part]) -> None:
    """Put the parts' owed rollouts into the queue, as room allows; wait for parts that other processes work on."""
    waiting = list(parts)
    while waiting:
        busy = []
        for part in waiting:
            taken = await asyncio.to_thread(ledger.take, part, asked)
            if taken is None:
                busy.append(part)
                continue
            owed, release = taken
            flight.meter.owed -= part.owed - len(owed)
            flight.meter.done_before += part.owed - len(owed)
            if not owed:
                release()
                continue
            key = (part.dataset, part.number)
            flight.remaining[key], flight.release[key] = len(owed), release
            for item in owed:
                await flight.room.acquire()
                flight.queue.put_nowait((item, False))
        if len(busy) == len(waiting):
            await asyncio.sleep(1.0)
        waiting = busy
    while flight.remaining:
        flight.settled.clear()
        await flight.settled.wait()
    for _ in range(flight.width):
        flight.queue.put_nowait(None)


async def _work(flight: _Flight) -> None:
    """Try one rollout after the other. A failed one that may succeed later goes back into the queue after a while."""
    while (item := await flight.queue.get()) is not None:
        owed, tried_before = item
        (flight.parked if tried_before else flight.room).release()
        verifier = flight.verifiers.get(owed.task.dataset)
        ended = await attempt(owed, flight.engine, verifier.environment if verifier else None)
        if ended.row.get("error") == "unauthorized":
            raise EngineError(f"{ended.row['error_message']}; nothing was given up: mend it and run the command again")
        attempt_id = flight.run.next_id()
        flight.journal.append("attempts", {**ended.row, "attempt_id": attempt_id, "run_id": flight.run.run_id})
        flight.meter.attempted(ended.row)
        if ended.rollout is None and not ended.row["final"] and owed.attempt < owed.asked.max_attempts:
            await flight.parked.acquire()
            again = (replace(owed, attempt=owed.attempt + 1), True)
            asyncio.get_running_loop().call_later(_wait(ended, owed), flight.queue.put_nowait, again)
            continue
        if ended.rollout is not None and verifier is not None and owed.asked.verify == "now":
            verdict = await verifier.judge(owed.task, ended.rollout)
            record_verdict(flight.run, flight.journal, verifier, ended.row, attempt_id, verdict)
            flight.meter.judged(verdict.reward, verdict.error)
        _settle(flight, (owed.task.dataset, owed.part))


def _wait(ended: Attempted, owed: Owed) -> float:
    """Seconds before the next try: what the endpoint asked for, else doubling with full jitter, a minute at most."""
    if ended.retry_after is not None:
        return ended.retry_after
    return random.uniform(0, min(60.0, owed.asked.retry_seconds * 2 ** (owed.attempt - 1)))


def _settle(flight: _Flight, part: tuple[str, int]) -> None:
    """One rollout of a part is done or given up. After its last one the part is unlocked, once all is sealed."""
    flight.remaining[part] -= 1
    if flight.remaining[part] == 0:
        del flight.remaining[part]
        flight.journal.when_sealed(flight.release.pop(part))
        flight.settled.set()


async def _seal_now_and_then(journal: Journal) -> None:
    while True:
        await asyncio.sleep(1.0)
        journal.flush_if_due()
