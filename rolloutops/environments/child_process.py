"""A child process that computes: a new interpreter that talks to its parent over one socket, and ends with it.

It is no fork, so it inherits no lock, no thread and no open file of its parent.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys


def start_child(module: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process that runs `work()` of a module; returns it and our end of the socket, which is its descriptor 0.

    It has its own process group, as a Ctrl-C at the terminal is the parent's to decide on. Its standard output is our
    standard error: ours is for data.
    """
    ours, theirs = socket.socketpair()
    program = f"import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {module} import work; work()"
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(sys.path)],
            stdin=theirs.fileno(),
            stdout=2,
            process_group=0,
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )
    return process, ours


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent ends, however it ends; elsewhere the socket's end must do.

    Strictly, when the parent's thread ends that started this process: a pool lives no longer than its event loop.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # 1 is PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def limit_memory(limit: int | None) -> None:
    """Allow `limit` bytes of address space beyond what imports have taken."""
    if limit is None or sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = taken + limit
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
