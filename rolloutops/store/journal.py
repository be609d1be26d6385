"""The journal: what has ended is on disk at once, and becomes part files later.

Each finished attempt or verdict is one line; what ends in one turn of the event loop is written with one `write`. So a
killed process loses nothing that had ended before. A journal is sealed into one part file for each table and data set,
named after the journal, and then removed: sealing the same journal twice writes the same files twice. It is locked by
its writer for as long as the writer lives; one that is not locked is an orphan, and the next command seals it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from rolloutops.config.redact import holds_key, redacted_row
from rolloutops.errors import WorkspaceError
from rolloutops.store import schema
from rolloutops.store.failpoints import failpoint
from rolloutops.store.workspace import Workspace, lock_file, write_part

CHUNK = 256
"""Rows that Python holds at most before Arrow does: so few still lie in the processor's caches, and soon make room."""


class _Parts:
    """The rows of a journal, by the part files that they will be: (table, data set)."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self._chunks: dict[tuple[str, str], list[pa.Table]] = defaultdict(list)

    def add(self, table: str, row: dict[str, Any]) -> None:
        """One more row of a table."""
        key = table, row["dataset"]
        rows = self._rows[key]
        rows.append(row)
        self.count += 1
        if len(rows) >= CHUNK:
            self._pack(key)

    def write(self, workspace: Workspace, name: str) -> None:
        """Write the part files."""
        for key in sorted(self._rows):
            self._pack(key)
            write_part(workspace, *key, name, pa.concat_tables(self._chunks[key]))
            failpoint("seal-between-parts")

    def _pack(self, key: tuple[str, str]) -> None:
        if rows := self._rows[key]:
            self._chunks[key].append(schema.table_of(schema.TABLES[key[0]], rows))
            rows.clear()


@dataclass
class _Segment:
    """One journal file that is being written, what it holds, and what waits for its sealing."""

    path: Path
    fd: int
    opened: float
    parts: _Parts = field(default_factory=_Parts)
    after: list[Callable[[], None]] = field(default_factory=list)


class Journal:
    """One run's journal. A row is safe from a kill after the turn of the event loop, from a power cut after a second.

    Files are synced and sealed by a thread, so that the caller never waits for the disk, unless it is two segments
    ahead of it.
    """

    def __init__(self, workspace: Workspace, run_id: str, flush_rows: int = 5000, flush_seconds: float = 30.0) -> None:
        self.workspace = workspace
        self.run_id = run_id
        self.flush_rows = flush_rows
        self.flush_seconds = flush_seconds
        self._count = 0
        self._segment: _Segment | None = None
        self._unwritten: list[bytes] = []
        self._full: queue.Queue[_Segment | None] = queue.Queue(maxsize=2)
        self._failure: BaseException | None = None
        self._io = threading.Lock()
        self._thread = threading.Thread(target=self._sync_and_seal, daemon=True)
        self._thread.start()

    def append(self, table: str, row: dict[str, Any]) -> None:
        """One more row of a table; it is written at the end of the turn of the event loop."""
        if self._failure is not None:
            raise self._failure
        segment = self._segment or self._open()
        line = orjson.dumps({table: row})
        if row.get("error") or holds_key(line):  # an error quotes what was sent, in any spelling
            row = redacted_row(row)
            line = orjson.dumps({table: row})
        self._unwritten.append(line)
        segment.parts.add(table, row)
        if len(self._unwritten) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.write)
            except RuntimeError:  # no event loop: nothing else would write it
                self.write()
        if segment.parts.count >= self.flush_rows:
            self._rotate()

    def write(self) -> None:
        """Write what was appended now, and not at the end of the turn. A failure is raised by the next call."""
        segment = self._segment
        if segment is None or not self._unwritten:
            return
        data = b"\n".join(self._unwritten) + b"\n"
        self._unwritten.clear()
        failpoint("journal-before-line")
        try:
            if os.write(segment.fd, data) != len(data):  # what is torn is left out when the journal is sealed
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._failure = WorkspaceError(
                f"cannot write to {self.workspace.root} ({error.strerror}): mend that, then run the same command again"
            )
        failpoint("journal-after-line")

    def when_sealed(self, action: Callable[[], None]) -> None:
        """Call `action`, in another thread, when all that was appended so far lies in part files."""
        (self._segment or self._open()).after.append(action)

    def flush_if_due(self, seconds: float | None = None) -> None:
        """Let what has lain in the journal for so long (default: flush_seconds) be sealed."""
        due = self.flush_seconds if seconds is None else seconds
        if self._segment is not None and time.monotonic() - self._segment.opened >= due:
            self._rotate()

    def flush(self) -> None:
        """Seal everything now, and wait for it."""
        sealed = threading.Event()
        self.when_sealed(sealed.set)
        self._rotate()
        sealed.wait()

    def close(self) -> None:
        """Seal everything and end."""
        self._rotate()
        self._full.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _open(self) -> _Segment:
        while True:
            path = self.workspace.root / "journals" / f"{self.run_id}-{self._count:04d}.jsonl"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._count += 1
            if lock_file(fd) and path.exists():
                self._segment = _Segment(path, fd, time.monotonic())
                return self._segment
            os.close(fd)  # before it was locked, another process took it for an orphan

    def _rotate(self) -> None:
        self.write()
        if self._segment is not None:
            with self._io:
                segment, self._segment = self._segment, None
            self._full.put(segment)

    def _sync_and_seal(self) -> None:
        while True:
            try:
                segment = self._full.get(timeout=1.0)
            except queue.Empty:
                with self._io:
                    if self._segment is not None:
                        os.fdatasync(self._segment.fd)
                continue
            if segment is None:
                return
            try:
                if self._failure is None:
                    failpoint("seal-before")
                    segment.parts.write(self.workspace, segment.path.stem)
                    failpoint("seal-before-unlink")
                    os.unlink(segment.path)
                    failpoint("seal-after-unlink")
            except BaseException as error:
                self._failure = error
            finally:
                os.close(segment.fd)
            for action in segment.after:
                action()


def seal_orphans(workspace: Workspace) -> int:
    """Seal the journals of writers that are no more. Returns how many attempts and verdicts were saved so.

    A torn line, the last of a killed writer, is left out: its rollout is owed again.
    """
    saved = 0
    for path in sorted((workspace.root / "journals").glob("*.jsonl")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not lock_file(fd) or not path.exists():
                continue
            parts = _Parts()
            for text in path.read_bytes().split(b"\n"):
                with suppress(orjson.JSONDecodeError):
                    for table, row in orjson.loads(text).items():
                        parts.add(table, row)
            failpoint("orphan-before")
            parts.write(workspace, path.stem)
            failpoint("orphan-before-unlink")
            path.unlink()
            failpoint("orphan-after-unlink")
            saved += parts.count
        finally:
            os.close(fd)
    return saved
