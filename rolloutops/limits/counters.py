"""Counters that the processes of a workspace share: one SQLite file in its `locks` folder.

They say what running commands spend before it is in the tables; nothing that is done or pending depends on them. A
transaction takes some 60 us. It is whole after a kill at any moment, and is not synced to the disk: after a power cut
nothing runs that needs it. No write-ahead log, whose shared memory does not reach other hosts, as file locks may.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rolloutops.errors import WorkspaceError

FILE = "counters.sqlite"
OPENING = 30.0
"""Seconds that opening and closing the file may wait for others."""
PATIENCE = 30.0
"""Seconds after which a file that others have locked all the time cannot be used: one of them may be stopped."""
TABLES = (
    "CREATE TABLE IF NOT EXISTS spending (name TEXT PRIMARY KEY, tokens REAL, cost REAL, attempts REAL)",
    "CREATE TABLE IF NOT EXISTS rates (name TEXT PRIMARY KEY, requests REAL, tokens REAL, at REAL)",
)
"""spending: of a spend limit; cost is null where a price is not known. rates: requests and tokens that may be spent
now, and when that was so (Unix time)."""

NUMBERS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EACCES, sqlite3.SQLITE_PERM: errno.EACCES}
"""SQLite's errors -> the operating system's; others are those of a disk that fails."""


class CountersBusy(OSError):
    """Another process has the file at this moment: what was to be written waits for the next time."""


class Counters:
    """A connection to the file. It never waits for another process, but for opening and closing it.

    Raises OSError where the disk fails, and WorkspaceError where the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._busy_since: float | None = None
        with self._errors():
            self._con = sqlite3.connect(path, timeout=OPENING, isolation_level=None)
            self._con.execute("PRAGMA journal_mode = TRUNCATE")
            self._con.execute("PRAGMA synchronous = OFF")
        with self.transaction() as con:
            for table in TABLES:
                con.execute(table)
        self.wait(0.0)

    def wait(self, seconds: float) -> None:
        """Let what follows wait for other processes, so many seconds at most."""
        self._con.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Keep other processes from writing while the block runs; all that it wrote counts, or nothing.

        Raises CountersBusy where another process does so.
        """
        with self._errors():
            try:
                self._con.execute("BEGIN IMMEDIATE")
                yield self._con
                self._con.execute("COMMIT")
            except BaseException:
                if self._con.in_transaction:
                    self._con.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read without keeping others from writing. Raises CountersBusy where one is about to."""
        with self._errors():
            yield self._con

    def close(self) -> None:
        """Let go of the file."""
        self._con.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's errors into those of the disk."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error
        self._busy_since = None

    def _error(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            now = time.monotonic()
            self._busy_since = self._busy_since or now
            kind = CountersBusy if now - self._busy_since < PATIENCE else OSError
            return kind(errno.EBUSY, os.strerror(errno.EBUSY), str(self._path))
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return WorkspaceError(
                f"{self._path} is damaged ({error}): stop the commands of this workspace, delete the file and run the "
                "command again; it holds only what running commands share"
            )
        number = NUMBERS.get(code, errno.EIO)
        if code == sqlite3.SQLITE_CANTOPEN:  # SQLite does not say why
            number = errno.EACCES if _has_space(self._path.parent) else errno.ENOSPC
        return OSError(number, os.strerror(number), str(self._path))


def _has_space(folder: Path) -> bool:
    found = os.statvfs(folder)
    return bool(found.f_bavail and (found.f_favail or not found.f_files))
