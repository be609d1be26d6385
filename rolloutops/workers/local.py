"""Workers on this machine: one process each, with GPUs of its own if it needs some."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rolloutops.collect.machine import gpus
from rolloutops.errors import UsageError
from rolloutops.layout import count, verb
from rolloutops.workers.job import WorkerJob
from rolloutops.workers.supervisor import Supervisor, WorkerEnd

VISIBLE = "CUDA_VISIBLE_DEVICES"


class LocalWorkers:
    """The workers of one command on this machine."""

    says_restarts = True

    def __init__(
        self,
        words: Sequence[str],
        jobs: Sequence[WorkerJob],
        say: Callable[[str], None],
        variables: Sequence[Mapping[str, str]],
    ) -> None:
        """words: of the command line. say: takes each line that a worker writes for the screen. variables: set for
        each worker."""
        self._ends: queue.Queue[WorkerEnd] = queue.Queue()
        self._supervisors = [Supervisor(words, job, say, own) for job, own in zip(jobs, variables, strict=True)]
        for supervisor in self._supervisors:
            threading.Thread(target=self._run, args=(supervisor,), daemon=True).start()

    def wait(self, seconds: float) -> list[WorkerEnd]:
        """Wait at most so long for workers to end; returns those that did."""
        try:
            return [self._ends.get(timeout=seconds)]
        except queue.Empty:
            return []

    def stop(self) -> None:
        """Let all workers end soon; called again, at once."""
        for supervisor in self._supervisors:
            supervisor.interrupt()

    def close(self) -> None:
        """Let go of the workers, which have ended."""

    def _run(self, supervisor: Supervisor) -> None:
        self._ends.put(supervisor.run())


def share_gpus(workers: int, each: int | None) -> list[dict[str, str]]:
    """The variables that give each worker GPUs of its own. Raises UsageError where there are too few."""
    if each is None:
        return [{} for _ in range(workers)]
    found = _visible_gpus()
    if len(found) < workers * each:
        fit = len(found) // each if each else 0
        way = f": start {fit} with --workers={fit}" if fit else ""
        raise UsageError(
            f"{count(workers, 'worker')} with {count(each, 'GPU')} each {verb(workers, 'need')} "
            f"{count(workers * each, 'GPU')}, and this machine has {len(found)}{way}"
        )
    return [{VISIBLE: ",".join(found[each * number : each * (number + 1)])} for number in range(workers)]


def _visible_gpus() -> list[str]:
    """The names of this machine's GPUs: those that CUDA_VISIBLE_DEVICES leaves, else their numbers."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    number = len(gpus()) or len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return [str(one) for one in range(number)]
