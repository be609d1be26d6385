"""The feed of a window: the queue from which its workers take rollouts, and what fills it.

It runs across parts and datasets, so that the slowest rollout of a part holds nobody up, and waits for what other
processes work on. What failed and may succeed later waits outside and comes back into the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby, islice

from rolloutops.collect.attempt import PendingRollout
from rolloutops.collect.pending import Part, PendingRollouts, Taken
from rolloutops.collect.recording import Recorder
from rolloutops.config.plan import CollectPlan
from rolloutops.layout import verb
from rolloutops.limits.circuit_breaker import CircuitBreaker
from rolloutops.limits.replica_rate_limit import AnyRateLimit

AHEAD = 64
"""Rollouts that are queued at once, when fewer than these are left: what comes back for another try stands behind no
more than twice as many."""
AHEAD_CHARACTERS = 64_000_000
"""Fewer are queued where their tasks are longer than this together."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks at what other processes work on."""
LOOK_AHEAD = 128
"""Parts that are looked at together, to find those that other processes have finished."""
PARKED = 1000
"""Rollouts that may wait outside the window for another try: memory stays bounded."""


class Feed:
    """A queue of rollouts. `fill` fills it, workers `take` from it and `put_back` what is to be tried again."""

    def __init__(self, recorder: Recorder, rate_limit: AnyRateLimit, breaker: CircuitBreaker) -> None:
        self._recorder, self._rate_limit, self._breaker = recorder, rate_limit, breaker
        # Rollouts, and whether they were tried before; None: there are no more.
        self._queue: asyncio.Queue[tuple[PendingRollout, bool] | None] = asyncio.Queue()
        self._few_queued = asyncio.Event()
        self._parked = asyncio.Semaphore(PARKED)
        self._with_others = 0  # rollouts that only other processes may work on now
        self._closed = False

    def note(self) -> str:
        """Say how many rollouts wait for another process; an empty text if none does."""
        many = self._with_others
        return f"{many:,} {verb(many, 'wait')} for another process" if many else ""

    async def take(self) -> PendingRollout | None:
        """Wait for the next rollout; None where there are no more."""
        item = await self._queue.get()
        if item is None or self._closed:  # what came back for another try is left to the next run
            self._queue.put_nowait(None)  # for the other workers
            return None
        pending, tried_before = item
        if tried_before:
            self._parked.release()
        if self._queue.qsize() < AHEAD:
            self._few_queued.set()
        return pending

    async def put_back(self, pending: PendingRollout, seconds: float) -> None:
        """Let a rollout come back after some seconds, when there is room for one more that waits."""
        if not self._closed:
            await self._parked.acquire()
        if not self._closed:  # else it is left to the next run
            asyncio.get_running_loop().call_later(seconds, self._queue.put_nowait, (pending, True))

    def close(self) -> None:
        """Give out nothing more."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)
        for _ in range(PARKED):  # nobody takes what comes back, and nobody must wait for that
            self._parked.release()

    async def fill(self, pending: PendingRollouts, plan: CollectPlan, parts: Sequence[Part]) -> None:
        """Put the parts' rollouts into the queue, as room allows; wait for those that other processes work on."""
        pending.begin(parts)
        taken_of = dict.fromkeys(parts, 0)  # the parts that are not done
        pause = SHORTEST_PAUSE
        while taken_of:
            taken_now, locked, waiting = 0, False, 0
            in_turn, looked_at = deque(taken_of), frozenset[Part]()
            while in_turn:
                part = in_turn.popleft()
                left, with_others, before = 1, 0, taken_now
                while left:
                    await self._until_queued(max(1, min(AHEAD, self._rate_limit.concurrency.now) // 4))
                    taken = await asyncio.to_thread(pending.take, part, plan)
                    if taken is None:
                        locked, with_others = True, part.pending - taken_of[part]
                        break
                    taken_of[part] += taken.rollouts
                    taken_now += taken.rollouts
                    await self._enqueue(part, taken)
                    left, with_others = taken.left, taken.with_others
                waiting += with_others
                if not with_others:
                    self._end_part(part, taken_of.pop(part))
                if taken_now == before and in_turn and in_turn[0] not in looked_at:
                    looked_at, finished = await self._look_ahead(pending, in_turn)
                    for one in finished:
                        in_turn.remove(one)
                        self._end_part(one, taken_of.pop(one))
            self._with_others = waiting
            if taken_of:
                pause = SHORTEST_PAUSE if taken_now else min(2 * pause, LONGEST_PAUSE)
                await self._wait_for_others(pending, pause, locked)
                self._with_others = 0
        while not self._recorder.is_settled:
            self._recorder.settled.clear()
            await self._recorder.settled.wait()
        self._queue.put_nowait(None)

    async def _look_ahead(
        self, pending: PendingRollouts, in_turn: Iterable[Part]
    ) -> tuple[frozenset[Part], Sequence[Part]]:
        """Look at the next parts, after one in which others have left nothing. Returns which were looked at, and which
        of them others have finished."""
        _, same_dataset = next(groupby(in_turn, key=lambda part: part.dataset))
        ahead = tuple(islice(same_dataset, LOOK_AHEAD))
        return frozenset(ahead), await asyncio.to_thread(pending.finished, ahead)

    async def _wait_for_others(self, pending: PendingRollouts, pause: float, locked: bool) -> None:
        """Wait until other processes have given something back. locked: one held the lock of a part, for a moment."""
        while True:
            if self._recorder.is_settled:  # two processes must not wait for each other's parts
                self._recorder.settle_forbidden(self._breaker, complete=True, failed=False)
            if not self._recorder.has_parts:
                self._recorder.journal.flush_if_due(0.0)  # what is done is claimed until it is sealed
            await asyncio.sleep(pause)
            if locked or await asyncio.to_thread(pending.have_moved):
                return

    def _end_part(self, part: Part, own: int) -> None:
        """Count what other processes have made of a part since it was counted. own: rollouts of it that we took."""
        self._recorder.meter.pending -= part.pending - own
        self._recorder.meter.done_before += part.pending - own

    async def _enqueue(self, part: Part, share: Taken) -> None:
        """Queue a share of a part, as room allows."""
        if not share.rollouts:
            return
        self._recorder.open_part(part, share.rollouts, share.release)
        while rollouts := await asyncio.to_thread(next, share.batches, None):
            ahead = max(1, min(AHEAD, AHEAD_CHARACTERS // max(1, *(rollout.characters for rollout in rollouts))))
            for start in range(0, len(rollouts), ahead):
                await self._until_queued(ahead)
                for rollout in rollouts[start : start + ahead]:
                    self._queue.put_nowait((rollout, False))

    async def _until_queued(self, most: int) -> None:
        """Wait until fewer rollouts than `most` are queued. most: AHEAD at most."""
        while self._queue.qsize() >= most:
            self._few_queued.clear()
            await self._few_queued.wait()
