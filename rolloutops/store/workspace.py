"""A workspace: a folder of append-only Parquet tables. Every file of it is found, written and locked here.

    tasks/<dataset>/part-00000.parquet      attempts/<dataset>/<run>-0000.parquet
    verdicts/<dataset>/<run>-0000.parquet   runs/<run>-start.parquet   jobs/<job>-intended.parquet
    compacted/datasets/<dataset>/00000001.json   what lies in attempts/<dataset>/merged-00000001-4be1c2.parquet, …
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
from weakref import WeakKeyDictionary, ref

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.query_limits import query_limits
from rolloutops.errors import WorkspaceError, did_you_mean
from rolloutops.store import schema, sql
from rolloutops.store.base_views import beside_tables, table_views, views_script
from rolloutops.store.definitions import define, redefine
from rolloutops.store.disk_errors import refusal
from rolloutops.store.failpoints import failpoint
from rolloutops.store.index import index_views
from rolloutops.store.manifest import FOLDER
from rolloutops.store.parts import find_tables
from rolloutops.store.refresh import list_with


@dataclass(frozen=True)
class Workspace:
    """A workspace's place. Nothing is read or written until a function of this module is called."""

    root: Path


def open_workspace(root: Path, create: bool = False) -> Workspace:
    """The workspace at a folder. Without `create`, one that is not there is an error."""
    if re.match(r"[a-z][a-z0-9+]+:/", str(root)):
        url = str(root).replace(":/", "://", 1)  # as it was before it became a path
        raise WorkspaceError(f"{url} is a URL: a workspace must be a local folder")
    place = str(root.absolute())
    if any("\ud800" <= c <= "\udfff" for c in place):
        raise WorkspaceError(
            f"{place} is not UTF-8 text, as DuckDB wants a path: rename that folder, or work in another"
        )
    if create:
        try:
            for folder in (*schema.TABLES, "journals", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(
                f"cannot create the workspace {root}: {error.strerror}; choose another with --data"
            ) from error
    elif not (root / "runs").is_dir():
        raise WorkspaceError(f"there is no workspace at {root}: run chunk first, or name another with --data")
    return Workspace(root)


def patterns(workspace: Workspace) -> dict[str, str | list[str] | None]:
    """Each table's glob, None for a table without a file. Where a file lies there under two names, or parts are merged,
    a list of the files that count: each row counts once."""
    found = find_tables(workspace.root)
    parts = {name: "*.parquet" if name in schema.FLAT else "*/*.parquet" for name in schema.TABLES}
    return {
        name: None
        if not found[name].files
        else found[name].files
        if len(found[name].files) < len(found[name].sizes) or found[name].covered
        else f"{glob.escape(str(workspace.root))}/{name}/{part}"
        for name, part in parts.items()
    }


def connect(
    workspace: Workspace, plan: Sequence[Mapping[str, object]] = (), threads: int | None = None
) -> sql.Connection:
    """A DuckDB connection with the workspace's views, as it stands now, and with what steps share."""
    con = sql.connect(threads, spill=spill_folder(workspace))
    define(con, views_of(workspace, plan))
    PLANS[con], held = plan, ref(con)

    def look() -> None:
        if (alive := held()) is not None:
            look_again(alive, workspace)

    list_with(con, look)
    return con


def views_of(workspace: Workspace, plan: Sequence[Mapping[str, object]], tables_only: bool = False) -> str:
    """The script that makes the views of the files that are there now."""
    beside = beside_tables(plan)
    while True:
        found = find_tables(workspace.root)
        files = {name: parts.files or None for name, parts in found.items()}
        overlapping = {name: parts.overlapping for name, parts in found.items()}
        try:
            indexes = index_views(workspace.root, found, beside)
            if tables_only:
                return "\n".join([*table_views(files, beside, overlapping), *indexes])
            return views_script(files, plan, overlapping=overlapping, indexes=indexes)
        except FileNotFoundError:  # merged since it was listed
            continue


def look_again(con: sql.Connection, workspace: Workspace) -> None:
    """Let the views of a connection that `connect` made see the files that are there now."""
    redefine(con, views_of(workspace, PLANS.get(con, ()), tables_only=True))


PLANS: WeakKeyDictionary[sql.Connection, Sequence[Mapping[str, object]]] = WeakKeyDictionary()
"""Connection -> the rows of its view `plan`."""

CONNECTIONS = count()
"""Numbers the connections of this process: two that spill must not share a folder."""


def spill_folder(workspace: Workspace) -> Path:
    """A folder for one connection to spill to. What killed processes of this machine left is taken away first."""
    root, prefix = query_limits().spill or workspace.root.absolute(), f".spill-{socket.gethostname()}-"
    for left in root.glob(f"{prefix}*"):
        try:
            os.kill(int(left.name.removeprefix(prefix).split("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError):
            continue
    return root / f"{prefix}{os.getpid()}-{next(CONNECTIONS)}"


def chunked_datasets(workspace: Workspace) -> list[str]:
    """The datasets that have tasks, in the order of their names."""
    return sorted(folder.name for folder in (workspace.root / "tasks").glob("*") if any(folder.glob("*.parquet")))


def require_tasks(workspace: Workspace, datasets: Iterable[str]) -> None:
    """Raise WorkspaceError where a dataset has never been chunked: that nothing of it is pending would mislead."""
    held = chunked_datasets(workspace)
    for name in datasets:
        if name not in held:
            raise WorkspaceError(
                f"{workspace.root} holds no tasks of {name!r}{did_you_mean(name, held, most=3)}: run chunk first; "
                f"it holds: {', '.join(held) or 'none'}"
            )


def write_part(workspace: Workspace, table: str, dataset: str | None, name: str, rows: pa.Table) -> Path:
    """Write one part file: hidden name, sync, rename. Returns its path. An equal name is replaced as a whole."""
    if dataset is not None and not is_folder_name(dataset):
        raise WorkspaceError(f"dataset {dataset!r} cannot be a name: nothing is written outside {workspace.root}")
    folder = workspace.root / table / dataset if dataset else workspace.root / table
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    with new_file(path) as file:
        pq.write_table(
            rows,
            file,
            compression="zstd",
            row_group_size=schema.rows_of_group(rows),
            write_batch_size=schema.rows_of_page(rows),
            write_page_checksum=True,
            **schema.encoding_of(rows.schema),
        )
        failpoint("part-before-sync")
        file.flush()
        os.fsync(file.fileno())
        failpoint("part-before-rename")
    failpoint("part-after-rename")
    sync(folder)
    return path


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that bears its name only once the block has ended well. The block syncs it; the folder is not synced."""
    hidden = hidden_name(path)
    with _locked(hidden) as file:
        try:
            yield file
            os.replace(hidden, path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise


def hidden_name(path: Path) -> Path:
    """What a file is called until it is whole."""
    return path.with_name(f".{path.name}.tmp")


def _locked(path: Path) -> BinaryIO:
    """A new file, open and locked by this process. What another one has under that name is not truncated."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb")
        if lock_file(file.fileno()) and path.exists():
            file.truncate()
            return file
        file.close()  # before it was locked, `sweep` took it for a dead writer's
        time.sleep(0.001)


def sweep(workspace: Workspace) -> None:
    """Take away the half-written files of writers that are no more."""
    for folder in (*schema.TABLES, FOLDER, "rejected"):
        for hidden in (workspace.root / folder).rglob(".*.tmp"):
            with suppress(FileNotFoundError), hidden.open("rb") as file:
                if lock_file(file.fileno()):
                    hidden.unlink()


@contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """Within it, a disk that is full, refuses or fails is a WorkspaceError."""
    try:
        yield
    except OSError as error:
        said = refusal(workspace.root, error)
        if said is None:
            raise
        raise said from error


def is_folder_name(name: object) -> bool:
    """Whether a dataset's name is that of a folder in the workspace, and of nothing outside of it."""
    return isinstance(name, str) and 0 < len(name) < 200 and name[0] != "." and not set("/\\\0") & set(name)


def sync(path: Path) -> None:
    """Make sure that a file's or folder's content is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:  # SMB and some FUSE mounts cannot sync a folder; a rename is as durable there as it gets
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP) or not path.is_dir():
            raise
    finally:
        os.close(fd)


@contextmanager
def try_lock(workspace: Workspace, name: str, shared: bool = False) -> Iterator[bool]:
    """Hold a lock while the block runs; yields whether it was free. The lock ends with the process, however it ends.

    shared: together with others who share it."""
    try:
        fd = os.open(workspace.root / "locks" / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise refusal(workspace.root, error) or error from error
    try:
        yield lock_file(fd, shared)
    finally:
        os.close(fd)


def lock_file(fd: int, shared: bool = False) -> bool:
    """Take the lock of an open file, if it is free."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
