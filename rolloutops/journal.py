"""The journal: what has ended is on disk at once, and becomes part files later.

Each finished attempt or verdict is one line, written with one `write` and no buffer of ours, so a killed process loses
nothing that had ended. A journal is sealed into one part file for each table and data set, named after the journal,
and then removed: sealing the same journal twice writes the same files twice. It is locked by its writer for as long as
the writer lives; one that is not locked is an orphan, and the next command seals it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from rolloutops import schema
from rolloutops.errors import WorkspaceError
from rolloutops.workspace import Workspace, lock_file, write_part

Line = dict[str, dict[str, Any]]
"""table -> row: what one line of a journal holds."""


@dataclass
class _Segment:
    """One journal file that is being written, what it holds, and what waits for its sealing."""

    path: Path
    fd: int
    opened: float
    lines: list[Line] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)


class Journal:
    """One run's journal. `append` is safe against a kill at once, against a power cut within a second.

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
        self._full: queue.Queue[_Segment | None] = queue.Queue(maxsize=2)
        self._failure: BaseException | None = None
        self._io = threading.Lock()
        self._thread = threading.Thread(target=self._sync_and_seal, daemon=True)
        self._thread.start()

    def append(self, table: str, row: dict[str, Any]) -> None:
        """Write one row of a table."""
        if self._failure is not None:
            raise self._failure
        segment = self._segment or self._open()
        line = {table: row}
        data = orjson.dumps(line) + b"\n"
        written = os.write(segment.fd, data)
        if written != len(data):
            os.ftruncate(segment.fd, os.lseek(segment.fd, 0, os.SEEK_END) - written)
            raise WorkspaceError(f"no space left in {self.workspace.root}: free some, then run the same command again")
        segment.lines.append(line)
        if len(segment.lines) >= self.flush_rows:
            self._rotate()

    def when_sealed(self, action: Callable[[], None]) -> None:
        """Call `action`, in another thread, when all that was appended so far lies in part files."""
        (self._segment or self._open()).after.append(action)

    def flush_if_due(self) -> None:
        """Let what has lain in the journal for long enough be sealed."""
        if self._segment is not None and time.monotonic() - self._segment.opened >= self.flush_seconds:
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
        path = self.workspace.root / "journals" / f"{self.run_id}-{self._count:04d}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        lock_file(fd)
        self._segment = _Segment(path, fd, time.monotonic())
        self._count += 1
        return self._segment

    def _rotate(self) -> None:
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
                    _seal(self.workspace, segment.path.stem, segment.lines)
                    os.unlink(segment.path)
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
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not lock_file(fd) or not path.exists():
                continue
            lines = []
            for text in path.read_bytes().split(b"\n"):
                try:
                    lines.append(orjson.loads(text))
                except orjson.JSONDecodeError:
                    continue
            _seal(workspace, path.stem, lines)
            path.unlink()
            saved += len(lines)
        finally:
            os.close(fd)
    return saved


def _seal(workspace: Workspace, name: str, lines: list[Line]) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        for table, row in line.items():
            groups[table, row["dataset"]].append(row)
    for (table, dataset), rows in sorted(groups.items()):
        write_part(workspace, table, dataset, name, schema.table_of(schema.TABLES[table], rows))
