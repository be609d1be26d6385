"""The journal: what has ended is on disk at once, and becomes part files later.

Each finished attempt or verdict is one line; what ends in one turn of the event loop is written with one `write`. So a
killed process loses nothing that had ended before. A journal is sealed into one part file for each table and dataset,
named after the journal, and then removed: sealing the same journal twice writes the same files twice. It is locked by
its writer for as long as the writer lives; one that is not locked is an orphan, and the next command seals it.

After an error of `write` or `fdatasync` the file is not trusted any more: the kernel may have dropped what it could not
write, and a second `fdatasync` would say that all is well. So nothing more is written to it. The rows, which are in
memory, are sealed into part files, where that still works, and the run ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from rolloutops.config.redact import holds_key, redacted_row, tell
from rolloutops.errors import WorkspaceError
from rolloutops.layout import count, verb
from rolloutops.store.compact_beside import CompactBeside
from rolloutops.store.disk_errors import write_failed
from rolloutops.store.failpoints import failpoint
from rolloutops.store.journal_lines import Rows, SetAside, read_lines
from rolloutops.store.workspace import Workspace, lock_file, sync

AGAIN = 0.3
"""Seconds after which a part that could not be written is tried once more."""


FLUSH_BYTES = 64_000_000
"""Bytes of rows after which a segment is sealed, however few they are: it is in memory until then."""


@dataclass
class _Segment:
    """One journal file that is being written, what it holds, and what waits for its sealing. fd: None if it could not
    be opened. synced: the folder knows it. size: bytes of its lines. unwritten: rows that are in memory only."""

    path: Path
    fd: int | None
    opened: float
    rows: Rows = field(default_factory=Rows)
    after: list[Callable[[], None]] = field(default_factory=list)
    synced: bool = False
    size: int = 0
    unwritten: int = 0


class Journal:
    """One run's journal. A row is safe from a kill after the turn of the event loop, from a power cut after a second.

    Files are synced and sealed by a thread, so that the caller never waits for the disk, unless it is two segments
    ahead of it. When the disk fails, `failure` says so: the caller should end soon, and what it still appends is kept
    if a part file can be written.
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
        self._lost = 0
        self._io = threading.Lock()
        self._beside = CompactBeside(workspace)
        self._thread = threading.Thread(target=self._sync_and_seal, daemon=True)
        self._thread.start()

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more can be written, for sure; None while all is well."""
        if self._lost and isinstance(self._failure, WorkspaceError):
            return WorkspaceError(f"{self._failure}; {count(self._lost, 'row')} that came after could not be kept")
        return self._failure

    def check(self) -> None:
        """Raise the failure of the disk, if there is one."""
        if (failure := self.failure) is not None:
            raise failure

    def append(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row of a table; it is written at the end of the turn of the event loop."""
        segment = self._segment or self._open()
        line = orjson.dumps({table: row})
        if row.get("error") or holds_key(line):  # an error quotes what was sent, in any spelling
            row = redacted_row(row)
            line = orjson.dumps({table: row})
        self._unwritten.append(line)
        segment.rows.add(table, row)
        segment.size += len(line)
        if len(self._unwritten) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.write)
            except RuntimeError:  # no event loop: nothing else would write it
                self.write()
        if segment.rows.count >= self.flush_rows or segment.size >= FLUSH_BYTES:
            self._rotate()

    def write(self) -> None:
        """Write what was appended now, and not at the end of the turn."""
        segment = self._segment
        if segment is None or not self._unwritten:
            return
        lines, data = len(self._unwritten), b"\n".join(self._unwritten) + b"\n"
        self._unwritten.clear()
        if segment.fd is None or self._failure is not None:
            segment.unwritten += lines
            return
        failpoint("journal-before-line")
        try:
            if os.write(segment.fd, data) != len(data):  # what is torn is left out when the journal is sealed
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            segment.unwritten += lines
            self._fail(error)
        failpoint("journal-after-line")

    def when_sealed(self, action: Callable[[], None]) -> None:
        """Call `action`, in another thread, when all that was appended so far is in part files."""
        (self._segment or self._open()).after.append(action)

    def flush_if_due(self, seconds: float | None = None) -> None:
        """Let what has lain in the journal for so long (default: flush_seconds) be sealed; at once if it failed."""
        due = self.flush_seconds if seconds is None else seconds
        if self._failure is not None:
            due = 0.0
        if self._segment is not None and time.monotonic() - self._segment.opened >= due:
            self._rotate()

    def flush(self) -> None:
        """Seal everything now, and wait for it. Raises WorkspaceError if it could not be sealed."""
        sealed = threading.Event()
        self.when_sealed(sealed.set)
        self._rotate()
        sealed.wait()
        self.check()

    def close(self) -> None:
        """Seal everything and end. Raises WorkspaceError if anything could not be written."""
        self._rotate()
        self._full.put(None)
        self._thread.join()
        self._beside.close()
        self.check()

    def _fail(self, error: BaseException) -> None:
        """Remember the first failure, as a sentence if it is the disk's."""
        if self._failure is None:
            self._failure = write_failed(self.workspace.root, error) if isinstance(error, OSError) else error

    def _open(self) -> _Segment:
        while True:
            path = self.workspace.root / "journals" / f"{self.run_id}-{self._count:04d}.jsonl"
            self._count += 1
            fd = None
            try:
                if self._failure is None:
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
                    if not (lock_file(fd) and path.exists()):
                        os.close(fd)  # before it was locked, another process took it for an orphan
                        continue
            except OSError as error:
                self._fail(error)
            self._segment = _Segment(path, fd, time.monotonic())
            return self._segment

    def _rotate(self) -> None:
        self.write()
        if self._segment is not None:
            with self._io:
                segment, self._segment = self._segment, None
            self._full.put(segment)

    def _sync_and_seal(self) -> None:
        """Sync each second and seal what is full. Nothing ends this thread but `close`: others wait for it."""
        while True:
            try:
                segment = self._full.get(timeout=1.0)
            except queue.Empty:
                try:
                    self._sync()
                except BaseException as error:
                    self._fail(error)
                continue
            if segment is None:
                return
            self._seal(segment)

    def _sync(self) -> None:
        with self._io:
            segment = self._segment
            if segment is None or segment.fd is None or self._failure is not None:
                return
            os.fdatasync(segment.fd)
            if not segment.synced:
                sync(segment.path.parent)
                segment.synced = True

    def _seal(self, segment: _Segment) -> None:
        """Write a segment's part files and remove it; then it is unlocked, and those who wait for it are told."""
        for last in (False, True):
            try:
                failpoint("seal-before")
                segment.rows.write(self.workspace, segment.path.stem)
                failpoint("seal-before-unlink")
                if segment.fd is not None:
                    segment.path.unlink(missing_ok=True)
                failpoint("seal-after-unlink")
                break
            except BaseException as error:
                self._fail(error)
                if last or not isinstance(error, OSError):
                    self._lost += segment.unwritten
                    break
                time.sleep(AGAIN)
        if segment.fd is not None:
            try:
                os.close(segment.fd)
            except OSError as error:  # the descriptor is gone in any case, and the lock with it
                self._fail(error)
        for action in segment.after:
            try:
                action()
            except BaseException as error:
                self._fail(error)
        if self._failure is None:
            self._beside.sealed()


_REPORTED: set[Path] = set()
"""Journals of which this process has said that they cannot be read: they are met again at each part that is taken."""


def seal_orphans(workspace: Workspace) -> int:
    """Seal the journals of writers that are no more. Returns how many attempts and verdicts were saved so.

    A torn line, the last of a killed writer, is left out: its rollout is pending again. Lines that are not rows of a
    table are kept in `rejected/`, counted and told; a journal that cannot be opened is told, and left where it is.
    """
    saved = 0
    for path in sorted((workspace.root / "journals").glob("*.jsonl")):
        with _orphan(path) as fd:
            if fd is None:
                continue
            rows = Rows()
            try:
                with os.fdopen(os.dup(fd), "rb") as file:
                    aside = list(read_lines(file, rows))
            except OSError as error:  # a bad sector must not block all other rows
                _tell(path, error)
                continue
            failpoint("orphan-before")
            if aside:
                _keep(workspace, path, aside)
            rows.write(workspace, path.stem, keep_longer=True)
            failpoint("orphan-before-unlink")
            path.unlink()
            failpoint("orphan-after-unlink")
            saved += rows.count
    return saved


def has_journal(workspace: Workspace, run_id: str) -> bool:
    """Whether rows of a run are in a journal, and can be read there."""
    return any(path not in _REPORTED for path in (workspace.root / "journals").glob(f"{run_id}-*.jsonl"))


@contextmanager
def _orphan(path: Path) -> Iterator[int | None]:
    """Open and lock a journal that nobody writes; None for any other, or if it is not a file that can be read."""
    fd = None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a file")
        free = lock_file(fd) and path.exists()
    except FileNotFoundError:
        free = False
    except OSError as error:
        free = False
        _tell(path, error)
    try:
        yield fd if free else None
    finally:
        if fd is not None:
            os.close(fd)


def _tell(journal: Path, error: OSError) -> None:
    """Say once that a journal cannot be read; it stays where it is."""
    if journal not in _REPORTED:
        _REPORTED.add(journal)
        why = (error.strerror or str(error)).lower()
        tell(f"{journal} cannot be read ({why}): the rows that it may hold do not count until it can")


def _keep(workspace: Workspace, journal: Path, aside: list[SetAside]) -> None:
    """Keep the lines of a journal that are not rows, as they are, and say so. They are on disk when this returns."""
    path = workspace.root / "rejected" / f"journal-{journal.stem}.lines"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.writelines(one.line for one in aside)
        file.flush()
        os.fsync(file.fileno())
    with suppress(OSError):
        sync(path.parent)
    what = f"{count(len(aside), 'line')} {verb(len(aside), 'are')} not {'a row' if len(aside) == 1 else 'rows'}"
    tell(
        f"{what} of a table in the journal of an interrupted run, and kept in {path} "
        f"(line {aside[0].number}: {aside[0].reason}); what they held is pending again"
    )
