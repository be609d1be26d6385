"""The window: rollouts in flight, each attempt of them, and what comes next.

As many workers as rollouts may be in flight take one after the other from the feed. Whatever ends a window, what is in
flight gets a while to end, and what has come is kept: it is paid for.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from rolloutops.collect.agent import attempt
from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.collect.event_loop import on_interrupt
from rolloutops.collect.feed import Feed
from rolloutops.collect.pending import Part, PendingRollouts
from rolloutops.collect.recording import Recorder, Unverified
from rolloutops.collect.verify import Verifier
from rolloutops.config.plan import CollectPlan
from rolloutops.config.redact import tell
from rolloutops.errors import FAILURES, AttemptFailed, EngineError
from rolloutops.limits.circuit_breaker import CircuitBreaker
from rolloutops.limits.progress import report
from rolloutops.limits.replica_rate_limit import AnyRateLimit
from rolloutops.limits.stop_time import StopTime
from rolloutops.types import Engine

AWAITED = 1000
"""Verdicts that may be awaited at once."""
LAST_TRY = 1.0
"""Seconds before its deadline in which a rollout is not tried again."""
BRIEF = 0.001
"""Seconds of a verdict after which the event loop has a turn, to read and send."""


class Window:
    """The rollouts in flight at one engine. `run` sends them, `stop` lets those in flight end.

    stopped: why it was stopped, in a sentence; empty while it runs.
    """

    def __init__(
        self,
        engine: Engine,
        verifiers: Mapping[str, Verifier],
        recorder: Recorder,
        rate_limit: AnyRateLimit,
        breaker: CircuitBreaker,
        grace_seconds: float = 5.0,
        stop_time: StopTime | None = None,
    ) -> None:
        """grace_seconds: what is in flight may take so long after Ctrl-C or an error. stop_time: when all has to have
        ended."""
        self._engine, self._verifiers, self._recorder = engine, verifiers, recorder
        self._rate_limit, self._breaker, self._grace_seconds = rate_limit, breaker, grace_seconds
        self.stopped = ""
        self._stop_time = stop_time
        self._closing = False
        self._error: BaseException | None = None
        self._in_flight = 0
        self._workers = 0
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None
        self._feed = Feed(recorder, rate_limit, breaker)
        self._verifying = asyncio.Semaphore(AWAITED)

    async def run(
        self, pending: PendingRollouts, plan: CollectPlan, parts: Sequence[Part], stopping: asyncio.Event
    ) -> None:
        """Keep rollouts in flight until the parts are settled, the engine dies, the budget is spent, or Ctrl-C.

        stopping: set by Ctrl-C, for what would come after this window.
        """
        self._show_progress()
        watching = [
            asyncio.create_task(report(self._recorder.meter)),
            asyncio.create_task(self._seal_now_and_then()),
            asyncio.create_task(self._stop_in_time()),
        ]
        with on_interrupt(partial(self._interrupt, stopping)):
            try:
                async with self._group:
                    self._feeder = self._spawn(self._feed.fill(pending, plan, parts))
                    self._start_workers()
                self._recorder.write_ended()
                failed = self._error is not None
                self._recorder.settle_forbidden(self._breaker, complete=not self._closing, failed=failed)
                if self._error is not None:
                    raise self._error
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                for task in watching:
                    task.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
                self._recorder.close()

    def stop(self, why: str) -> None:
        """Let what is in flight end, and start nothing new. why: in a sentence; the first one counts."""
        if not self.stopped:
            self.stopped = why
            self._start_no_more()

    def _show_progress(self) -> None:
        meter, spend_limit = self._recorder.meter, self._recorder.spend_limit
        meter.in_flight = lambda: self._in_flight
        meter.notes = [
            lambda: spend_limit.note(meter.pending - meter.done),
            self._rate_limit.note,
            self._feed.note,
        ]

    def _interrupt(self, stopping: asyncio.Event) -> None:
        """End soon at the first Ctrl-C or SIGTERM, at once at the second one."""
        if stopping.is_set():
            self._cancel_all()
            return
        stopping.set()
        grace = f"up to {self._grace_seconds:g} s for running rollouts to finish"
        tell("", f"stopping: {grace}; Ctrl-C again stops at once")
        self._end_soon()

    # What ends a window.

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the window. What it raises ends the window, and not at once."""
        task = self._group.create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End with an error; the first one counts. The other rollouts' answers are on their way: they are kept."""
        if self._error is None:
            self._error = error
            self._end_soon()

    def _end_soon(self) -> None:
        self._start_no_more()
        asyncio.get_running_loop().call_later(self._grace_seconds, self._cancel_all)

    async def _stop_in_time(self) -> None:
        """Start nothing new shortly before the time at which all has to have ended, and end what then still runs."""
        if self._stop_time is None:
            return
        while not self._stop_time.is_due():
            await asyncio.sleep(0.2)
        if self._in_flight:
            tell("", f"stopping in time: running rollouts may finish until {self._stop_time.last_call()}")
        self._start_no_more()
        await asyncio.sleep(self._stop_time.seconds_left())
        self._cancel_all()

    def _start_no_more(self) -> None:
        self._closing = True
        if self._feeder is not None:
            self._feeder.cancel()
        self._feed.close()

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    # What is sent.

    def _start_workers(self) -> None:
        """As many as rollouts may be in flight; those that are too many leave by themselves."""
        while self._workers < self._rate_limit.concurrency.now:
            self._workers += 1
            self._spawn(self._work())

    async def _work(self) -> None:
        """Try one rollout after the other, until there are none, or too many workers."""
        try:
            while self._workers <= self._rate_limit.concurrency.now:
                pending = await self._feed.take()
                if pending is None:
                    return
                if not self._recorder.spend_limit.allows(self._in_flight):
                    self.stop(self._recorder.spend_limit.why(self._in_flight))
                    return
                await self._try(pending)
                del pending  # else each worker that waits holds the prompt of its last rollout
        finally:
            self._workers -= 1

    async def _try(self, pending: PendingRollout) -> None:
        """Make one attempt, and record how it ended."""
        concurrency, verifier = self._rate_limit.concurrency, self._verifiers.get(pending.task.dataset)
        environment = verifier.environment if verifier else None
        self._in_flight += 1
        concurrency.started()
        began = time.monotonic()
        try:
            done = await attempt(pending, self._engine, environment, self._rate_limit)
        finally:
            self._in_flight -= 1
            if self._stop_time is not None:
                self._stop_time.count(time.monotonic() - began)
        if concurrency.adapts:
            concurrency.ended(self._in_flight + 1, timed_out=done.kind == "timeout")
            self._start_workers()
        if done.failure is not None:
            await self._take_failure(done, done.failure)
        else:
            await self._take_success(done, verifier)

    # What has ended.

    async def _take_failure(self, done: Attempt, failure: AttemptFailed) -> None:
        """Write a failed attempt, and let its rollout come back into the queue after a while, if it may."""
        pending, kind, recorder = done.pending, failure.kind, self._recorder
        if kind == "unauthorized":
            recorder.write(pending, {**done.row(), "final": False})
            raise EngineError(f"{failure.message}. No rollout was given up; fix the cause and rerun")
        if kind == "forbidden":
            recorder.hold_forbidden(done)
            self._breaker.attempted(kind, failure.message)
            return
        wait = _wait(pending, failure)
        tries = pending.tries + FAILURES[kind].counted
        late = pending.give_up_at is not None and time.monotonic() + wait > pending.give_up_at
        row = done.row()
        row["final"] = late or self._breaker.is_final(kind, failure.final)
        recorder.write(pending, row)
        # What only waited says nothing new of the endpoint: it ends no run.
        self._breaker.attempted(kind if failure.asked else "rate_limited", failure.message)
        if row["final"] or tries >= pending.settings.max_attempts:
            recorder.settle(pending)
            return
        pending.attempt, pending.tries, pending.failed_with = pending.attempt + 1, tries, failure.message
        await self._feed.put_back(pending, wait)

    async def _take_success(self, done: Attempt, verifier: Verifier | None) -> None:
        """When this returns the rollout is written, together with all that ended in the same turn of the event loop, so
        that a kill costs each worker one rollout at most; it is verified after the workers have sent what is next."""
        if self._error is None:
            self._recorder.give_up_forbidden(done.started)
        self._breaker.attempted(None, None)
        if self._recorder.add_success(done, verifier):
            self._spawn(self._write_and_verify())
        await asyncio.sleep(0)  # in which `_write_and_verify` comes first
        if self._verifying.locked():
            async with self._verifying:  # the verifiers are behind
                pass

    async def _write_and_verify(self) -> None:
        unverified = self._recorder.write_ended()
        await asyncio.sleep(0)
        for one in unverified:
            verdict = one.verifier.at_once(one.pending.task, one.rollout)
            if verdict is None:
                self._spawn(self._verify(one))
                continue
            self._recorder.write_verdict(one, verdict)
            if verdict.seconds > BRIEF:
                await asyncio.sleep(0)

    async def _verify(self, one: Unverified) -> None:
        """Verify what takes time, outside of the window."""
        async with self._verifying:
            self._recorder.write_verdict(one, await one.verifier.verify(one.pending.task, one.rollout))

    async def _seal_now_and_then(self) -> None:
        """Seal what is due. When the disk fails, or another host is at work, let what is in flight end: its answers may
        still be kept."""
        while True:
            await asyncio.sleep(0.5)
            try:
                self._recorder.journal.flush_if_due()
            except Exception as error:
                self._fail(error)
            failure = self._recorder.run.refused or self._recorder.journal.failure
            if failure is not None:
                self._fail(failure)


def _wait(pending: PendingRollout, failure: AttemptFailed) -> float:
    """Seconds before the next try: what the endpoint asked for, but half of what is left until the deadline at most;
    else doubling with full jitter, a minute at most."""
    doubled = min(60.0, pending.settings.retry_seconds * 2 ** min(pending.attempt - 1, 10))
    if failure.retry_after is None:
        return random.uniform(0, doubled)
    wait = failure.retry_after + random.uniform(0, min(doubled, max(0.25, failure.retry_after / 4)))
    left = math.inf if pending.give_up_at is None else pending.give_up_at - time.monotonic()
    return left / 2 if wait > left > LAST_TRY else wait
