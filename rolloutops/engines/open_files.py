"""The limit of open files: each request that is in flight needs one, its connection."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rolloutops.errors import EngineError, UsageError

RESERVE = 48
"""Files beside connections and those that are open already: parts that are read, journals, verifier processes."""


def allow_many() -> int | None:
    """Raise this process's limit of open files to what the system allows, and return it; None where there is none."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):  # macOS: the hard limit is more than the kernel gives
            pass
    return None if soft == resource.RLIM_INFINITY else soft


def most_connections() -> tuple[int | None, int]:
    """Connections that may be open at once (None: any number), and the limit of open files that they come from.

    Raises UsageError where it leaves none.
    """
    limit = allow_many()
    if limit is None:
        return None, 0
    room = limit - RESERVE - _open_now()
    if room < 1:
        raise UsageError(f"this process may have {limit} files open (ulimit -n), too few to collect: allow 256 or more")
    return room, limit


def out_of_files(error: BaseException) -> EngineError | None:
    """The end of the run, if an error says that no more files may be opened: no request could be sent any more."""
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    return EngineError(
        "too many open files: lower num_samples_in_parallel, or raise the limit (ulimit -n), and run the command again"
    )


def _open_now() -> int:
    """Files that this process has open."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return len(os.listdir(folder))
    return 32
