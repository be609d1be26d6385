"""A workspace: a folder of append-only Parquet tables. Every file of it is found, written and locked here.

    tasks/<dataset>/part-00000.parquet      attempts/<dataset>/<run>-0000.parquet
    verdicts/<dataset>/<run>-0000.parquet   runs/<run>-start.parquet   jobs/<job>-intended.parquet
    journals/<run>-0000.jsonl               what a running command has not yet sealed into parts
    locks/  rejected/<dataset>.jsonl        who works on what; input lines that are no tasks
    .spill-<host>-<pid>-0/                  what a running query does not hold in memory

A part is written under a name that no reader takes (leading dot and foreign suffix: DuckDB's glob matches dot files,
pyarrow reads `x.parquet.tmp`), locked, synced, and renamed. A reader never sees half a file, and one that nobody holds
the lock of is what a killed writer left.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.errors import WorkspaceError, did_you_mean
from rolloutops.store import schema, sql
from rolloutops.store.definitions import define
from rolloutops.store.failpoints import failpoint


@dataclass(frozen=True)
class Workspace:
    """A workspace's place. Nothing is read or written until a function of this module is called."""

    root: Path


def open_workspace(root: Path, create: bool = False) -> Workspace:
    """The workspace at a folder. Without `create`, one that is not there is an error."""
    if re.match(r"[a-z][a-z0-9+]+:/", str(root)):
        url = str(root).replace(":/", "://", 1)  # as it was before it became a path
        raise WorkspaceError(f"{url} is a URL; a workspace is a folder on this machine (mount the bucket)")
    if create:
        try:
            for folder in (*schema.TABLES, "journals", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(
                f"cannot make the workspace {root}: {error.strerror}; choose another with --data"
            ) from error
    elif not (root / "runs").is_dir():
        raise WorkspaceError(f"there is no workspace at {root}: run chunk first, or name another with --data")
    return Workspace(root)


def patterns(workspace: Workspace) -> dict[str, str | None]:
    """Each table's glob, None for a table without a file."""
    parts = {name: "*.parquet" if name in schema.FLAT else "*/*.parquet" for name in schema.TABLES}
    return {
        name: f"{glob.escape(str(workspace.root))}/{name}/{part}" if any((workspace.root / name).glob(part)) else None
        for name, part in parts.items()
    }


def connect(
    workspace: Workspace, plan: Sequence[Mapping[str, object]] = (), threads: int | None = None
) -> sql.Connection:
    """A DuckDB connection with the workspace's views, as it stands now, and with what steps share."""
    con = sql.connect(threads, spill=_spill(workspace))
    define(con, sql.views_script(patterns(workspace), plan))
    return con


def look_again(con: sql.Connection, workspace: Workspace) -> None:
    """Let a connection's views see the tables that had no file when it was made."""
    sql.run(con, "\n".join(sql.table_views(patterns(workspace))))


CONNECTIONS = count()
"""Numbers the connections of this process: two that spill must not share a folder."""


def _spill(workspace: Workspace) -> Path:
    """A folder for one connection to spill to. What killed processes of this machine left is taken away first."""
    root, prefix = workspace.root.absolute(), f".spill-{socket.gethostname()}-"
    for left in root.glob(f"{prefix}*"):
        try:
            os.kill(int(left.name.removeprefix(prefix).split("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError):
            continue
    return root / f"{prefix}{os.getpid()}-{next(CONNECTIONS)}"


def chunked_datasets(workspace: Workspace) -> list[str]:
    """The data sets that have tasks, in the order of their names."""
    return sorted(folder.name for folder in (workspace.root / "tasks").glob("*") if any(folder.glob("*.parquet")))


def require_tasks(workspace: Workspace, datasets: Iterable[str]) -> None:
    """Raise WorkspaceError where a data set has never been chunked: that nothing of it is owed would mislead."""
    held = chunked_datasets(workspace)
    for name in datasets:
        if name not in held:
            raise WorkspaceError(
                f"{workspace.root} holds no tasks of {name!r}{did_you_mean(name, held)}: run chunk first; "
                f"it holds: {', '.join(held) or 'none'}"
            )


def write_part(workspace: Workspace, table: str, dataset: str | None, name: str, rows: pa.Table) -> Path:
    """Write one part file: hidden name, sync, rename. Returns its path. An equal name is replaced as a whole."""
    folder = workspace.root / table / dataset if dataset else workspace.root / table
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    hidden = folder / f".{name}.parquet.tmp"
    with _locked(hidden) as file:
        try:
            pq.write_table(rows, file, compression="zstd", row_group_size=8192)
            failpoint("part-before-sync")
            file.flush()
            os.fsync(file.fileno())
            failpoint("part-before-rename")
            os.replace(hidden, path)
            failpoint("part-after-rename")
            sync(folder)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
    return path


def _locked(path: Path) -> BinaryIO:
    """A new file, open and locked by this process."""
    while True:
        file = path.open("wb")
        if lock_file(file.fileno()) and path.exists():
            return file
        file.close()  # before it was locked, `sweep` took it for a dead writer's
        time.sleep(0.001)


def sweep(workspace: Workspace) -> None:
    """Take away the half-written files of writers that are no more."""
    for table in schema.TABLES:
        for hidden in (workspace.root / table).rglob(".*.tmp"):
            with suppress(FileNotFoundError), hidden.open("rb") as file:
                if lock_file(file.fileno()):
                    hidden.unlink()


@contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """Within it, a workspace that cannot be written, or a full disk, is a WorkspaceError."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and workspace.root.absolute() not in Path(error.filename).absolute().parents:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise WorkspaceError(
                f"no space is left in {workspace.root}: free some, and run the same command again; nothing is lost"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            reason = os.strerror(error.errno).lower()
            raise WorkspaceError(
                f"{workspace.root} cannot be written ({reason}): make it writable, or name another with --data"
            ) from error
        raise


def sync(path: Path) -> None:
    """Make sure that a file's or folder's content is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def try_lock(workspace: Workspace, name: str) -> Iterator[bool]:
    """Hold a lock while the block runs; yields whether it was free. The lock ends with the process, however it ends."""
    fd = os.open(workspace.root / "locks" / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield lock_file(fd)
    finally:
        os.close(fd)


def lock_file(fd: int) -> bool:
    """Take the lock of an open file, if it is free."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
