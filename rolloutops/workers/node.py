"""One worker on a node of a cluster, with nothing but the shared workspace and what was sent.

The command that started it has a file in the workspace's `locks`, which is there as long as that command runs, and says
how often it was interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rolloutops.workers.job import WorkerJob
from rolloutops.workers.supervisor import Supervisor, WorkerEnd

LOOKING = 10.0
"""Seconds in which a file that another machine has just written may not be seen yet."""


@dataclass(frozen=True)
class NodeJob:
    """A worker's job on another machine. words: of the command line. files: absolute path where the command was started
    -> content. folder: in which it was started; recipe_folder: the recipe's."""

    job: WorkerJob
    words: Sequence[str]
    files: Mapping[str, bytes]
    folder: str
    recipe_folder: str


def sign_of(data: str, group: str) -> Path:
    """The file that says that the command of a group runs."""
    return Path(data, "locks", f"workers-{group}")


def run_on_node(node_job: NodeJob) -> tuple[WorkerEnd, list[str]]:
    """Run a worker to its end. Returns that, and what it wrote for the screen."""
    job, lines = node_job.job, list[str]()
    if problem := _problem(job):
        return WorkerEnd(job.name.number, error=problem, exit_code=2), lines
    root = tempfile.mkdtemp(prefix="rolloutops-")
    try:
        for path, content in node_job.files.items():
            target = Path(root + path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        folder = root + node_job.folder
        os.makedirs(folder, exist_ok=True)
        moved = dataclasses.replace(
            job, recipe=root + job.recipe if job.recipe else None, folder=root + node_job.recipe_folder
        )
        supervisor = Supervisor(node_job.words, moved, lines.append, folder=folder)
        with _interrupting(supervisor, sign_of(job.data, job.name.group)):
            return supervisor.run(), lines
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _problem(job: WorkerJob) -> str:
    """Why the worker cannot run here; empty where it can."""
    host, sign, until = socket.gethostname(), sign_of(job.data, job.name.group), time.monotonic() + LOOKING
    if missing := [name for name in job.keys if not os.environ.get(name)]:
        return (
            f"the variable {', '.join(missing)} is not set on {host}: set it where Ray is started there; keys are not "
            "sent to other machines"
        )
    while not sign.exists():
        if time.monotonic() > until:
            return (
                f"{job.data} is not the same folder on {host} as where the command was started: put the workspace on "
                "a file system that all nodes share, under one path"
            )
        time.sleep(0.5)
    return ""


@contextmanager
def _interrupting(supervisor: Supervisor, sign: Path) -> Iterator[None]:
    """Interrupt a worker as often as its command was, and once that is gone."""
    ended = threading.Event()

    def look() -> None:
        passed_on = 0
        while not ended.wait(0.5):
            interrupts = 1
            with suppress(FileNotFoundError):
                interrupts = int(sign.read_text() or 0)
            if interrupts > passed_on:
                passed_on = interrupts
                supervisor.interrupt()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
