"""The workers of one command: waited for, stopped together, and their ends put together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rolloutops.config.redact import tell
from rolloutops.errors import WorkerFailed
from rolloutops.limits.progress import Progress, show_progress
from rolloutops.store.workspace import Workspace
from rolloutops.workers.supervisor import WorkerEnd
from rolloutops.workers.watch import Watch

REMEMBERED = 1000
"""Lines of workers that are remembered, so that what each of them says is shown once."""


class Workers(Protocol):
    """Workers that run somewhere. says_restarts: they say of each that is started again that it is."""

    says_restarts: bool

    def wait(self, seconds: float) -> list[WorkerEnd]:
        """Wait at most so long for workers to end; returns those that did."""

    def stop(self) -> None:
        """Let all workers end soon; called again, at once."""

    def close(self) -> None:
        """Let go of the workers, which have ended."""


class Screen:
    """Shows what workers write, each line once: eight of them say the same eight times."""

    def __init__(self) -> None:
        self._lines: set[str] = set()
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Show a line, unless it was shown."""
        with self._lock:
            if line in self._lines:
                return
            if len(self._lines) < REMEMBERED:
                self._lines.add(line)
        tell("", line)


def wait_for_workers(
    workspace: Workspace, group: str, workers: Workers, count: int, meter: Progress, screen: Screen, grace: float
) -> list[Mapping[str, Any]]:
    """Wait for all workers of a group while the meter's line is shown. Returns what each of them did.

    grace: seconds that rollouts in flight get after Ctrl-C. Raises KeyboardInterrupt after Ctrl-C, and WorkerFailed
    where one ended with an error, which ends the others, or where none is left of those that died.
    """
    ends: list[WorkerEnd] = []
    interrupts = stops = 0
    watch = Watch(workspace, group, meter, None if workers.says_restarts else screen.say)

    def interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1

    try:
        with show_progress(meter, lambda: None, after=0.0), _signals(interrupt):
            while len(ends) < count:
                ends += workers.wait(0.2)
                if interrupts > stops or (stops == 0 and any(end.error for end in ends)):
                    if interrupts == 1:
                        screen.say(
                            f"stopping: up to {grace:g} s for running rollouts to finish; Ctrl-C again stops at once"
                        )
                    stops += 1
                    workers.stop()
            watch.finish(ends)
    finally:
        workers.close()
    failed = next((end for end in ends if end.error), None)
    if failed is not None:
        raise WorkerFailed(f"worker {failed.number} of {count}: {failed.error}", failed.exit_code)
    if interrupts:
        raise KeyboardInterrupt
    if all(end.died for end in ends):
        raise WorkerFailed("all workers died (see above): fix the cause and run the same command again", 2)
    return [end.result for end in ends if end.result is not None]


@contextmanager
def _signals(interrupt: Any) -> Iterator[None]:
    """Call a function at Ctrl-C and SIGTERM while the block runs, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
