"""The id of the next run: greater than every id in the workspace, so that later rows win whatever a clock says.

Ids are `YYYYMMDDTHHMMSS-` and a random tail. Which ids are there is read from the names of part files and journals,
which begin with their run's id; only of a part that was given another name is the footer read.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.store.manifest import MERGED, own_covers
from rolloutops.store.workspace import Workspace

STAMP = "%Y%m%dT%H%M%S"
ID = re.compile(r"(?:removed-)?(\d{8}T\d{6}-[0-9a-f]+)(?![0-9a-f])")
WAIT = 10.0
"""Seconds to wait for other commands that are about to begin; each takes some milliseconds."""


@contextmanager
def next_run_id(workspace: Workspace) -> Iterator[str]:
    """Yield an id greater than all that are there; what the block writes, the next command sees before it has its own.

    A command that stands still within the block is waited for no longer than WAIT.
    """
    fd = os.open(workspace.root / "locks" / "runs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + WAIT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    break
                time.sleep(0.002)
        yield following(greatest(workspace), datetime.now(UTC))
    finally:
        os.close(fd)


def following(last: str, now: datetime) -> str:
    """Return an id for a run that begins now, greater than `last`: if the clock is behind it, a second after it."""
    tail = secrets.token_hex(3)
    stamp = now.strftime(STAMP)
    if f"{stamp}-{tail}" <= last:
        stamp = (datetime.strptime(last[:15], STAMP) + timedelta(seconds=1)).strftime(STAMP)
    return f"{stamp}-{tail}"


def greatest(workspace: Workspace) -> str:
    """Return the greatest run id in a workspace; an empty text if there is none."""
    return max((found for found in _ids(workspace.root)), default="")


def _ids(root: Path) -> Iterator[str]:
    for folder in ("runs", "jobs", "journals", "attempts", "verdicts", "tasks", "labels"):
        for path in _files(root / folder):
            name = os.path.basename(path)
            if name.startswith(MERGED):
                yield max(map(_id, (run for run, _ in own_covers(Path(path)) or ())), default="")
            elif found := _id(name):
                yield found
            elif folder not in ("tasks", "journals") and name.endswith(".parquet"):
                yield from _ids_of_part(path)


def _files(folder: Path) -> Iterator[str]:
    """The files of a table, at both depths."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir():
                yield from _files(Path(entry.path))
            else:
                yield entry.path


def _id(text: str) -> str:
    """Return the run id that a name begins with, if it does and its time is one that another can follow."""
    found = ID.match(text)
    if found is None:
        return ""
    try:
        datetime.strptime(found[1][:15], STAMP) + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return ""
    return found[1]


def _ids_of_part(path: str) -> Iterator[str]:
    """The greatest run id of each row group, as the footer tells; none where it cannot be read."""
    if not os.path.isfile(path):
        return
    with suppress(OSError, pa.ArrowException):
        about = pq.read_metadata(path)
        for number in range(about.num_row_groups):
            group = about.row_group(number)
            for column in map(group.column, range(group.num_columns)):
                reported = column.statistics
                if column.path_in_schema == "run_id" and reported is not None and reported.has_min_max:
                    yield _id(str(reported.max))
