"""Requests and tokens a minute that the user allows, shared by all processes that collect into one workspace.

What may be spent is read and written in one transaction for each request (`counters.py`). It fills at an even pace, so
no 60 seconds ever see more than the minute's budget.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rolloutops.limits.counters import FILE, Counters, CountersBusy

BUSY = 0.001
"""Seconds to wait for another process that is at the counters."""


class SharedRate:
    """So many requests and tokens a minute; None is no limit."""

    def __init__(
        self,
        folder: Path,
        name: str,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """folder: the workspace's `locks`. name: of what has the limit; who names the same shares it."""
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._name, self._clock = name, clock
        self._largest = 1.0
        self._returned = 0.0  # tokens that were estimated too much, or, below 0, too little, and are not written yet
        self._failure: Exception | None = None
        self._counters = Counters(folder / FILE)

    def take(self, tokens: float) -> float:
        """Spend one request and so many tokens. Returns 0 if that was allowed, else the seconds to wait for it.

        Raises OSError if the counters cannot be written, now or when an answer came.
        """
        if self._failure is not None:
            raise self._failure
        if self.tokens_per_minute:
            tokens = min(tokens, self.tokens_per_minute / 2)
            self._largest = max(self._largest, tokens)
        try:
            with self._counters.transaction() as con:
                requests, left = self._refilled(con)
                left += self._returned
                wait = max(
                    _short(self.requests_per_minute, 1, requests, 1),
                    _short(self.tokens_per_minute, tokens, left, self._largest),
                )
                self._write(con, requests - (wait == 0), left - tokens * (wait == 0))
        except CountersBusy:
            return BUSY
        self._returned = 0.0
        return wait

    def settle(self, estimate: float, tokens: float) -> None:
        """Count a request's tokens instead of what was estimated for it."""
        if not self.tokens_per_minute:
            return
        self._returned += min(estimate, self.tokens_per_minute / 2) - tokens
        try:
            with suppress(CountersBusy):  # then the next time
                with self._counters.transaction() as con:
                    requests, left = self._refilled(con)
                    self._write(con, requests, left + self._returned)
                self._returned = 0.0
        except Exception as error:  # the answer is there and is kept; the next request will not be sent
            self._failure = error

    def close(self) -> None:
        """Let go of the file."""
        self._counters.close()

    def _refilled(self, con: sqlite3.Connection) -> tuple[float, float]:
        query = "SELECT requests, tokens, at FROM rates WHERE name = ?"
        found = con.execute(query, (self._name,)).fetchone()
        if found is None:
            return 1.0, self._largest
        requests, tokens, at = found
        passed = max(0.0, self._clock() - at)
        return (
            _fill(self.requests_per_minute, requests, 1, passed),
            _fill(self.tokens_per_minute, tokens, self._largest, passed),
        )

    def _write(self, con: sqlite3.Connection, requests: float, tokens: float) -> None:
        row = (self._name, requests, tokens, self._clock())
        con.execute("INSERT OR REPLACE INTO rates VALUES (?, ?, ?, ?)", row)


def _ready(limit: float, unit: float) -> float:
    """What may be saved up: a second's worth, or one request, if that is more."""
    return max(limit / 60, unit)


def _per_second(limit: float, unit: float) -> float:
    """The pace at which savings and a minute's flow together are the limit, and not more."""
    return max(limit / 120, (limit - _ready(limit, unit)) / 60)


def _fill(limit: float | None, left: float, unit: float, passed: float) -> float:
    return 0.0 if limit is None else min(_ready(limit, unit), left + passed * _per_second(limit, unit))


def _short(limit: float | None, wanted: float, left: float, unit: float) -> float:
    return 0.0 if limit is None or left >= wanted else (wanted - left) / _per_second(limit, unit)
