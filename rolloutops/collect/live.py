"""What a running command shows to other processes: a small file beside its locks, written anew each second.

It is for display alone. Nothing that is done or pending is read from it, and a file that nobody holds the lock of is
what a killed command left.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson

from rolloutops.collect.machine import process_memory
from rolloutops.limits.progress import Progress
from rolloutops.store.workspace import Workspace, lock_file

STALE = 15.0
"""Seconds without news after which a command on another machine, whose lock may not reach here, has ended."""


@contextmanager
def live(workspace: Workspace, run_id: str, meter: Progress) -> Iterator[None]:
    """Show a meter's counts to other processes while the block runs: now, and at each `publish` of the meter."""
    _sweep(workspace)
    path = workspace.root / "locks" / f"{run_id}-{meter.noun}.live"
    began = time.time()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # a full disk is told by what must be written
        yield
        return

    def publish(meter: Progress) -> None:
        with suppress(OSError):
            line = orjson.dumps(_facts(run_id, meter, began))
            os.ftruncate(fd, os.pwrite(fd, line, 0))

    try:
        while not lock_file(fd):  # for a moment, a reader holds it
            time.sleep(0.001)
        meter.publish = publish
        publish(meter)
        yield
    finally:
        meter.publish = _silent
        path.unlink(missing_ok=True)
        os.close(fd)


def running(workspace: Workspace) -> list[dict[str, Any]]:
    """What running commands show, by run."""
    shown = (_read(workspace.root / "locks" / name) for name in sorted(_files(workspace)))
    return [facts for facts in shown if facts is not None]


def _silent(_: Progress) -> None:
    """Show nothing."""


def _facts(run_id: str, meter: Progress, began: float) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "noun": meter.noun,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": began,
        "updated": time.time(),
        "in_flight": meter.in_flight(),
        "done": meter.done,
        "failed": meter.failures.total() + meter.unrewarded.total(),
        "per_second": meter.pace(),
        "tokens_per_second": meter.tokens / max(time.monotonic() - meter.began, 1e-9),
        "memory_bytes": process_memory(),
        "worker": meter.worker._asdict() if meter.worker else None,
        "tokens": meter.tokens,
        "failures": dict(meter.failures),
        "unrewarded": dict(meter.unrewarded),
        "reward_sum": meter.reward_sum,
        "rewarded": meter.rewarded,
    }


def _files(workspace: Workspace) -> list[str]:
    try:
        return [name for name in os.listdir(workspace.root / "locks") if name.endswith(".live")]
    except FileNotFoundError:
        return []


def _read(path: os.PathLike[str]) -> dict[str, Any] | None:
    """The facts of a file whose writer lives; None of any other."""
    with suppress(OSError, ValueError), open(path, "rb") as file:
        facts = orjson.loads(file.read())
        if not isinstance(facts, dict):
            return None
        in_other_processes = facts.get("host") != socket.gethostname()
        if _is_locked(file.fileno()) or (in_other_processes and time.time() - float(facts.get("updated", 0)) < STALE):
            return facts
    return None


def _is_locked(fd: int) -> bool:
    """Whether another process holds the lock of an open file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _sweep(workspace: Workspace) -> None:
    """Take away what killed commands of this machine left."""
    for name in _files(workspace):
        path = workspace.root / "locks" / name
        with suppress(OSError, ValueError), path.open("rb") as file:
            text = file.read()
            if text and orjson.loads(text).get("host") == socket.gethostname() and not _is_locked(file.fileno()):
                path.unlink()
