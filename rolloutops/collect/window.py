"""The window: rollouts in flight, each try of them, and what comes next.

As many workers as rollouts may be in flight take one after the other from a queue, across parts and data sets, so that
the slowest of a part holds nobody up. What failed and may succeed later waits outside the window and comes back into
the queue. What becomes of an attempt that has ended: `landing.py`; of one that was answered 403: `forbidden.py`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import signal
import threading
import time
from collections.abc import Sequence

from rolloutops.collect.agent import attempt
from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.collect.deadline import Deadline
from rolloutops.collect.forbidden import all_wait, give_up_forbidden, hold, judge_forbidden
from rolloutops.collect.pending import Part, PendingRollouts
from rolloutops.collect.recording import landed, settle, write, write_landed
from rolloutops.collect.window_state import Window, cancel_all, end_soon, fail, spawn, start_no_more
from rolloutops.config.plan import CollectPlan
from rolloutops.config.redact import tell
from rolloutops.errors import FAILURES, AttemptFailed, EngineError
from rolloutops.layout import verb
from rolloutops.limits.progress import report

AHEAD = 64
"""Rollouts that are queued at once, when fewer than these are left: what comes back for another try stands behind no
more than twice as many."""
LAST_TRY = 1.0
"""Seconds before its deadline in which a rollout is not tried again."""
GARBAGE = 100_000
"""Objects that may come to be before cycles among them are looked for."""


async def fly(
    flight: Window, ledger: PendingRollouts, asked: CollectPlan, parts: Sequence[Part], stopping: asyncio.Event
) -> None:
    """Keep rollouts in flight until the parts are settled, the engine dies, the budget is spent, or Ctrl-C."""
    loop = asyncio.get_running_loop()
    flight.meter.in_flight = lambda: flight.in_flight
    flight.meter.notes = [
        lambda: flight.spend_limit.note(flight.meter.owed - flight.meter.done),
        flight.pace.note,
        lambda: (
            f"{flight.elsewhere:,} {verb(flight.elsewhere, 'wait')} for another process" if flight.elsewhere else ""
        ),
    ]
    beside = [asyncio.create_task(report(flight.meter)), asyncio.create_task(_seal_now_and_then(flight))]

    def interrupted() -> None:
        if stopping.is_set():
            cancel_all(flight)
            return
        stopping.set()
        tell("", f"stopping: up to {flight.grace:g} s for what is in flight; Ctrl-C again stops at once")
        end_soon(flight)

    # Python lets only the main thread handle signals; in a notebook a collection runs in another one.
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    for number in signals:
        loop.add_signal_handler(number, interrupted)
    # What is there by now stays, and an attempt leaves next to no cycles: looking for garbage less often saves 5 %.
    gc.freeze()
    often = gc.get_threshold()
    gc.set_threshold(GARBAGE)
    try:
        async with flight.group:
            feeding = spawn(flight, _feed(flight, ledger, asked, parts))
            feeding.set_name("feed")
            _staff(flight)
        write_landed(flight)
        judge_forbidden(flight, whole=not flight.closing)
        if flight.died is not None:
            raise flight.died
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()
        for number in signals:
            loop.remove_signal_handler(number)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        write_landed(flight)
        for release in flight.release.values():
            flight.journal.when_sealed(release)


def _staff(flight: Window) -> None:
    """As many workers as rollouts may be in flight; those that are too many leave by themselves."""
    while flight.workers < flight.pace.level.now:
        flight.workers += 1
        spawn(flight, _work(flight))


def land(flight: Window, why: str) -> None:
    """Let what is in flight end, and start nothing new. why: in a sentence; the first one counts."""
    if not flight.stopped:
        flight.stopped = why
        start_no_more(flight)


async def _feed(flight: Window, ledger: PendingRollouts, asked: CollectPlan, parts: Sequence[Part]) -> None:
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
            for start in range(0, len(owed), AHEAD):
                while flight.queue.qsize() >= AHEAD:
                    flight.low.clear()
                    await flight.low.wait()
                for item in owed[start : start + AHEAD]:
                    flight.queue.put_nowait((item, False))
        flight.elsewhere = sum(part.owed for part in busy) if len(busy) == len(waiting) else 0
        if flight.elsewhere:
            if flight.forbidden and all_wait(flight):  # two processes must not wait for each other's parts
                judge_forbidden(flight, whole=True)
            if not flight.remaining:
                flight.journal.flush_if_due(0.0)  # parts that are done are locked until they are sealed
            await asyncio.sleep(1.0)
        waiting = busy
    while not all_wait(flight):
        flight.settled.clear()
        await flight.settled.wait()
    flight.queue.put_nowait(None)


async def _work(flight: Window) -> None:
    """Try one rollout after the other, until there are none, or too many workers."""
    level, alarm = flight.pace.level, Deadline()
    try:
        while flight.workers <= level.now:
            item = await flight.queue.get()
            if item is None or flight.closing:  # what came back for another try is owed to the next run
                flight.queue.put_nowait(None)  # for the other workers
                break
            if not flight.spend_limit.allows(flight.in_flight):
                land(flight, flight.spend_limit.why(flight.in_flight))
                break
            owed, tried_before = item
            if tried_before:
                flight.parked.release()
            if flight.queue.qsize() < AHEAD:
                flight.low.set()
            verifier = flight.verifiers.get(owed.task.dataset)
            flight.in_flight += 1
            level.started()
            try:
                ended = await attempt(
                    owed, flight.engine, verifier.environment if verifier else None, flight.pace, alarm
                )
            finally:
                flight.in_flight -= 1
            if level.found:
                level.ended(flight.in_flight + 1, timed_out=ended.kind == "timeout")
                _staff(flight)
            if ended.failure is not None:
                await _failed(flight, ended, ended.failure)
                continue
            give_up_forbidden(flight, ended.started)
            await landed(flight, ended, verifier)
    finally:
        alarm.off()
        flight.workers -= 1


async def _failed(flight: Window, ended: Attempt, failure: AttemptFailed) -> None:
    """Write a failed attempt, and let its rollout come back into the queue after a while, if it may."""
    owed, kind = ended.owed, failure.kind
    if kind == "unauthorized":
        write(flight, owed, {**ended.row(), "final": False})
        raise EngineError(f"{failure.message}; nothing was given up: mend it and run the command again")
    if kind == "forbidden":
        hold(flight, ended)
        flight.health.attempted(kind, failure.message)
        return
    wait = _wait(owed, failure)
    tries = owed.tries + FAILURES[kind].counted
    late = owed.give_up_at is not None and time.monotonic() + wait > owed.give_up_at
    row = ended.row()
    row["final"] = late or flight.health.is_final(kind, failure.final)
    write(flight, owed, row)
    # What only waited says nothing new of the endpoint: it ends no run.
    flight.health.attempted(kind if failure.asked else "rate_limited", failure.message)
    if row["final"] or tries >= owed.asked.max_attempts:
        settle(flight, owed)
        return
    if not flight.closing:
        await flight.parked.acquire()
    if flight.closing:
        return  # owed to the next run
    owed.attempt, owed.tries, owed.failed_with = owed.attempt + 1, tries, failure.message
    asyncio.get_running_loop().call_later(wait, flight.queue.put_nowait, (owed, True))


def _wait(owed: PendingRollout, failure: AttemptFailed) -> float:
    """Seconds before the next try: what the endpoint asked for, but half of what is left until the deadline at most;
    else doubling with full jitter, a minute at most."""
    doubled = min(60.0, owed.asked.retry_seconds * 2 ** min(owed.attempt - 1, 10))
    if failure.retry_after is None:
        return random.uniform(0, doubled)
    wait = failure.retry_after + random.uniform(0, min(doubled, max(0.25, failure.retry_after / 4)))
    left = math.inf if owed.give_up_at is None else owed.give_up_at - time.monotonic()
    return left / 2 if wait > left > LAST_TRY else wait


async def _seal_now_and_then(flight: Window) -> None:
    """Seal what is due. When the disk fails, or another host is at work, let what is in flight end: its answers may
    still be kept."""
    while True:
        await asyncio.sleep(0.5)
        try:
            flight.journal.flush_if_due()
        except Exception as error:
            fail(flight, error)
        failure = flight.run.refused or flight.journal.failure
        if failure is not None:
            fail(flight, failure)
