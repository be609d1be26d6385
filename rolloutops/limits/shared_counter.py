"""What all processes that collect now have spent together, for a limit over all of them.

The first process begins the counter with what the tables tell; who comes while it runs finds it begun. Whether one is
there says a lock file, whose lock ends with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rolloutops.limits.counters import FILE, OPENING, Counters, CountersBusy


class Spending(NamedTuple):
    """Tokens, their cost (None where a price is not known), and the attempts that took them."""

    tokens: float
    cost: float | None
    attempts: float

    def plus(self, more: Spending) -> Spending:
        """Both together."""
        cost = None if self.cost is None or more.cost is None else self.cost + more.cost
        return Spending(self.tokens + more.tokens, cost, self.attempts + more.attempts)


NOTHING = Spending(0.0, 0.0, 0.0)


class SharedCounter:
    """One spend limit's counter, shared until it is closed. Opening it waits for whoever is about to begin it.

    What is added is written by `flush`, many at once. An error of the disk is raised when the next rollout wants to
    start (`total`), not when one has just been paid for.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """folder: the workspace's `locks`."""
        self._name = name
        self._failure: Exception | None = None
        self._total, self._unwritten = NOTHING, NOTHING
        self._lock = os.open(folder / f"{name}.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._counters = Counters(folder / FILE)
            self._counters.wait(OPENING)
            self._alone = self._join()
            self._counters.wait(0.0)
        except BaseException:
            os.close(self._lock)
            raise

    def _join(self) -> bool:
        """Share the counter with whoever uses it; True where nobody does, and it is to be begun."""
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with self._counters.transaction() as con:  # what an earlier command left
                    con.execute("DELETE FROM spending WHERE name = ?", (self._name,))
                return True
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            with self._counters.reading() as con:
                total = self._read(con)
            if total is not None:
                self._total = total
                return False
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # who was about to begin it ended before

    def begin(self, spending: Spending) -> None:
        """Set what was spent before; counts where nobody else is there."""
        if self._alone:
            self._counters.wait(OPENING)
            with self._counters.transaction() as con:
                con.execute("INSERT INTO spending VALUES (?, ?, ?, ?)", (self._name, *spending))
            self._counters.wait(0.0)
            self._total = spending
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def add(self, spending: Spending) -> Spending:
        """Spend so much. Returns what all have spent, as far as is known here."""
        self._unwritten = self._unwritten.plus(spending)
        return self._total.plus(self._unwritten)

    def flush(self) -> None:
        """Write what was added; where another process writes now, the next time."""
        if self._unwritten == NOTHING or self._failure is not None:
            return
        try:
            with suppress(CountersBusy):
                with self._counters.transaction() as con:
                    con.execute(
                        "UPDATE spending SET tokens = tokens + ?, cost = cost + ?, attempts = attempts + ?"
                        " WHERE name = ?",
                        (*self._unwritten, self._name),
                    )
                    total = self._read(con)
                self._total, self._unwritten = total or self._total.plus(self._unwritten), NOTHING
        except Exception as error:
            self._failure = error

    def total(self) -> Spending:
        """What all have spent by now. Raises OSError if something that was spent could not be written."""
        if self._unwritten != NOTHING:
            self.flush()
        else:
            with suppress(CountersBusy), self._counters.reading() as con:
                self._total = self._read(con) or self._total
        if self._failure is not None:
            raise self._failure
        return self._total.plus(self._unwritten)

    def close(self) -> None:
        """Write what was added, and let go of the file."""
        with suppress(Exception):  # what could not be written was told by `total`, or is in the tables
            self._counters.wait(OPENING)
            self.flush()
        self._counters.close()
        os.close(self._lock)

    def _read(self, con: sqlite3.Connection) -> Spending | None:
        """What all have spent; None where nobody has begun the counter."""
        query = "SELECT tokens, cost, attempts FROM spending WHERE name = ?"
        found = con.execute(query, (self._name,)).fetchone()
        return None if found is None else Spending(*found)
