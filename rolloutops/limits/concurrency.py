"""How many rollouts are in flight: a fixed number, or one that adapts.

It doubles as long as that brings more answers per second, then stays and now and then tries a quarter more. A refusal
halves it, and so do timeouts, if many requests of a round time out: one slow task says nothing about the endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

FIRST = 16
"""Rollouts in flight at first, where the number is to be found."""
MOST = 1024
"""Rollouts in flight at most, where the number is to be found."""
WORTH_DOUBLING = 1.2
"""So many times the throughput twice as many must bring, to be doubled again."""
WORTH_A_QUARTER = 1.06
"""So many times the throughput a quarter more must bring, to be kept."""
PATIENCE = (4, 64)
"""Rounds, least and most, between two trials of a quarter more."""
TIMED_OUT = 0.1
"""Share of a round's requests that time out where the endpoint is asked too much."""


def loop_time() -> float:
    """The time of the event loop that runs."""
    return asyncio.get_running_loop().time()


class Concurrency(Protocol):
    """What says how many rollouts may be in flight: a ConcurrencyLimit, a fleet's sum, or a sweep that measures.

    adapts: the number changes, by what starts and ends. keep_empty: so many places stay free for now.
    """

    @property
    def now(self) -> int: ...

    @property
    def adapts(self) -> bool: ...

    def held_back(self) -> None: ...

    def started(self) -> None: ...

    def ended(self, in_flight: int, timed_out: bool = False) -> None: ...

    def refused(self, open_requests: int, again: bool = False) -> None: ...

    def keep_empty(self, places: int) -> None: ...


@dataclass(slots=True)
class ConcurrencyLimit:
    """now: rollouts that may be in flight. adapts: the number is found by itself. A round is as many answers as are in
    flight."""

    now: int
    adapts: bool = False
    most: int = MOST
    clock: Callable[[], float] = loop_time
    _doubling: bool = True
    _climb_to: int = 0
    _cutting: bool = False
    _empty: int = 0
    _floor: int = 1
    _best: float = 0.0
    _before: int = 0
    _patience: int = PATIENCE[0]
    _rounds: int = 0
    _ended: int = 0
    _timeouts: int = 0
    _full: bool = False
    _held: bool = False
    _began: float | None = None

    def held_back(self) -> None:
        """A request had to wait for the endpoint's limit: more in flight would not help."""
        self._held = True

    def started(self) -> None:
        """A rollout starts."""
        if self._began is None and self.adapts:
            self._begin()

    def ended(self, in_flight: int, timed_out: bool = False) -> None:
        """A rollout ended while so many were in flight, itself included."""
        if not self.adapts:
            return
        self._ended += 1
        self._timeouts += timed_out
        self._full = self._full or in_flight >= 0.8 * self.now
        if self._ended >= self.now:
            self._round()

    def refused(self, open_requests: int, again: bool = False) -> None:
        """The endpoint refused a request: half as many, but not fewer than it is working on. again: a further refusal
        of the same burst. Where the limit held requests back already, it is the limit that was too high."""
        if not again:
            self._cutting = not self._held
        if not self.adapts or not self._cutting:
            return
        self.keep_empty(0)
        if not again:
            self._floor, self._climb_to = max(1, self.now // 2), self.most
        self._doubling, self._before, self._best = False, 0, 0.0
        self.now = max(self._floor, min(self.now, open_requests))
        self._begin()

    def keep_empty(self, places: int) -> None:
        """Start nothing in so many places of refused requests: in a burst, others in their place are refused too."""
        if self.adapts:
            places = min(places, self.now + self._empty - 1)
            self.now, self._empty = self.now + self._empty - places, places

    def _begin(self) -> None:
        self._began, self._ended, self._timeouts, self._full, self._held = self.clock(), 0, 0, False, False

    def _round(self) -> None:
        assert self._began is not None
        rate = self._ended / max(self.clock() - self._began, 1e-6)
        full, held, timed_out = self._full, self._held, self._timeouts > max(1, TIMED_OUT * self._ended)
        self._begin()
        if timed_out:
            self.refused(0)
        elif full and not held:
            self._grow(rate)

    def _grow(self, rate: float) -> None:
        """A round with all places taken and nothing held back ended: is it worth to have more in flight?"""
        if self._doubling:
            if rate >= WORTH_DOUBLING * self._best:
                self._best, self._before, self.now = rate, self.now, min(self.most, self.now * 2)
            else:
                self._doubling, self.now, self._before = False, self._before or self.now, 0
        elif self.now < self._climb_to:
            self.now = min(self._climb_to, self.now + max(1, self.now // 8))
        elif self._before:  # a quarter more was on trial
            if rate >= WORTH_A_QUARTER * self._best:
                self._best, self._patience = rate, PATIENCE[0]
            else:
                self.now, self._patience = self._before, min(PATIENCE[1], self._patience * 2)
            self._before = self._rounds = 0
        else:
            self._best = rate if not self._best else 0.7 * self._best + 0.3 * rate
            self._rounds += 1
            if self._rounds >= self._patience and self.now < self.most:
                self._before, self.now = self.now, min(self.most, self.now + max(1, self.now // 4))
