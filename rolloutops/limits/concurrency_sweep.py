"""Measuring what an endpoint bears: throughput at rising concurrency, with pending tasks, and the knee of that curve.

The number in flight doubles from step to step. At each step as many answers as are in flight are awaited first, since
they belong to the step before in part; the following ones are measured. The knee is the least number in flight that
brings most of the best throughput: beyond it, requests wait in the server's queue instead of yours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rolloutops.limits.concurrency import MOST, loop_time
from rolloutops.limits.progress import Progress

FIRST = 4
"""In flight at the first step."""
ROUNDS = 2
"""So many times the answers in flight are measured at a step, and 16 at least."""
SECONDS = 1.0
"""How long a step is measured at least, unless it has answers many times over."""
MANY = 5
"""So many times over, after which the seconds do not matter."""
GAIN = 1.1
"""So many times the throughput a doubling must bring, or it brought nothing."""
FLAT = 2
"""Doublings in a row that bring nothing, after which the knee lies behind."""
NO_MORE = "no more rollouts were pending, so higher concurrency was not measured"
"""Why it ended, unless it came to an end of its own."""
KNEE = 0.9
"""Share of the best throughput that the knee has at least."""


@dataclass(frozen=True)
class Point:
    """One step. in_flight: rollouts in flight. done, failed: attempts that ended while it was measured. per_second:
    rollouts. seconds: what one rollout took, by Little's law. refused: answers 429."""

    in_flight: int
    done: int
    failed: int
    refused: int
    per_second: float
    tokens_per_second: float
    seconds: float


def knee(points: Sequence[Point]) -> Point | None:
    """The point with the fewest in flight that has KNEE of the best throughput; None where nothing was measured.

    Points at which the endpoint refused requests are left out, unless there is no other.
    """
    fine = [point for point in points if not point.refused] or list(points)
    best = max((point.per_second for point in fine), default=0.0)
    return next((point for point in fine if best and point.per_second >= KNEE * best), None)


@dataclass(slots=True)
class ConcurrencySweep:
    """A concurrency limit that measures instead of searching.

    meter: counts what ends. refusals: answers 429 so far. stop: called once when the knee is found, or will not be;
    why: the reason, in a sentence.
    """

    meter: Progress
    most: int = MOST
    now: int = FIRST
    adapts: bool = True
    clock: Callable[[], float] = loop_time
    refusals: Callable[[], int] = lambda: 0
    stop: Callable[[], None] = lambda: None
    points: list[Point] = field(default_factory=list)
    why: str = NO_MORE
    _ended: int = 0
    _since: float | None = None
    _before: tuple[int, int, int, int] = (0, 0, 0, 0)
    _over: bool = False

    def held_back(self) -> None:
        """A request had to wait for the endpoint's limit."""

    def refused(self, open_requests: int, again: bool = False) -> None:
        """The endpoint refused a request: the step shows it."""

    def keep_empty(self, places: int) -> None:
        """Refused requests leave no place empty: the step shows them."""

    def started(self) -> None:
        """A rollout starts."""

    def ended(self, in_flight: int, timed_out: bool = False) -> None:
        """A rollout ended."""
        if self._over:
            return
        self._ended += 1
        if self._since is None:
            if self._ended >= self.now:
                self._since, self._ended, self._before = self.clock(), 0, self._counts()
            return
        seconds = self.clock() - self._since
        enough = max(16, ROUNDS * self.now)
        if self._ended >= enough and (seconds >= SECONDS or self._ended >= MANY * enough):
            self._measured(max(seconds, 1e-6))

    def _counts(self) -> tuple[int, int, int, int]:
        meter = self.meter
        return meter.done, sum(meter.failures.values()), meter.tokens, self.refusals()

    def _measured(self, seconds: float) -> None:
        done, failed, tokens, refused = (a - b for a, b in zip(self._counts(), self._before, strict=True))
        rate = done / seconds
        taken = self.now * seconds / max(self._ended, 1)
        self.points.append(Point(self.now, done, failed, refused, rate, tokens / seconds, taken))
        self.why = self._finding(failed, refused)
        if self.why or self.now >= self.most:
            self.why = self.why or f"{self.now:,} in flight was the highest concurrency to try"
            self._over = True
            self.stop()
            return
        self.why = NO_MORE
        self.now = min(self.most, self.now * 2)
        self._ended, self._since = 0, None

    def _finding(self, failed: int, refused: int) -> str:
        """Why more in flight need not be tried; empty where they are to be."""
        if refused:
            return f"with {self.now:,} in flight the endpoint refused requests (429): it has a limit"
        if failed > self._ended / 2:
            return f"with {self.now:,} in flight most attempts failed"
        rates = [point.per_second for point in self.points]
        if len(rates) > FLAT and all(rate < GAIN * max(rates[:-FLAT]) for rate in rates[-FLAT:]):
            return "throughput stopped increasing"
        return ""
