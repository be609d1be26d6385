"""What a worker is sent on its standard input, and what it sends back on its standard output.

A worker is a plain command of the same words, with the variable ROLLOUTOPS_WORKER set. The first line that it reads is
its job. The pipe then stays open without a word: its end is that of whoever started the worker, which ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rolloutops.limits.progress import WorkerName

VARIABLE = "ROLLOUTOPS_WORKER"
MARK = "\x1erolloutops-worker "
"""Begins the lines of a worker that are for the command that started it."""
LAST = 30.0
"""Seconds after which a worker that nobody started any more ends, whatever it does, beside its grace period."""


@dataclass(frozen=True)
class WorkerJob:
    """One worker's part of a command.

    data: the workspace. recipe, folder: the recipe's file and folder where the worker runs, None where they are as
    typed. place: where the recipe lies for the command that started it, which is what is recorded. stop_at: seconds
    since 1970. versions: name -> version of rolloutops and of each dataset's verifier. keys: variables that have to be
    set. processes: of its verifiers. grace_seconds: what is in flight may take so long after an interrupt.
    """

    name: WorkerName
    data: str
    recipe: str | None = None
    folder: str | None = None
    place: Mapping[str, Any] = field(default_factory=dict)
    stop_at: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    keys: Sequence[str] = ()
    processes: int = 1
    grace_seconds: float = 5.0

    def line(self) -> str:
        """The job as the line that the worker reads."""
        return json.dumps({**asdict(self), "name": self.name._asdict()}) + "\n"


def job_of(line: str | bytes) -> WorkerJob:
    """The job that a line holds."""
    found = json.loads(line)
    return WorkerJob(**{**found, "name": WorkerName(**found["name"])})


def read_job() -> WorkerJob | None:
    """The job of this process, if it is a worker. From then on it ends with whoever started it."""
    if os.environ.pop(VARIABLE, None) is None:
        return None
    job = job_of(_first_line())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs in the background ignores
    threading.Thread(target=_end_with_parent, args=(job.grace_seconds,), daemon=True).start()
    send(ready=True)
    return job


def send(**message: Any) -> None:
    """Send a message to the command that started this worker."""
    os.write(1, f"\n{MARK}{json.dumps(message)}\n".encode())


def received(line: str) -> dict[str, Any] | None:
    """The message that a line of a worker holds; None where it is a line for the screen."""
    _, mark, text = line.partition(MARK)
    return json.loads(text) if mark else None


def _first_line() -> bytes:
    """The first line of standard input, read past no buffer, which a thread that waits for its end would lock."""
    text = b""
    while not text.endswith(b"\n") and (more := os.read(0, 65536)):
        text += more
    return text


def _end_with_parent(grace_seconds: float) -> None:
    """Wait until the pipe ends, then interrupt this process, and end it if it goes on for too long."""
    while os.read(0, 65536):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(grace_seconds + LAST)
    os._exit(130)
