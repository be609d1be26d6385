"""One worker's process: started, listened to, and started again when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, NamedTuple

from rolloutops.config.resources import HERE
from rolloutops.workers.job import VARIABLE, WorkerJob, received

RESTARTS = 3
"""Times that a worker is started again."""


class WorkerEnd(NamedTuple):
    """How a worker ended. result: what it did, None where it did not get so far. error: the sentence of the error
    that ended it. died: it was started again too often."""

    number: int
    result: Mapping[str, Any] | None = None
    error: str = ""
    exit_code: int = 0
    died: bool = False


class Supervisor:
    """Keeps one worker at work until it is done. `run` waits for that; `interrupt` may come from another thread."""

    def __init__(
        self,
        words: Sequence[str],
        job: WorkerJob,
        say: Callable[[str], None],
        variables: Mapping[str, str] | None = None,
        folder: str | None = None,
    ) -> None:
        """words: of the command line. say: takes each line that the worker writes for the screen, and what becomes of
        it. variables: set for the worker. folder: where it runs."""
        self._words, self._job, self._say, self._folder = list(words), job, say, folder
        self._variables = dict(variables or {})
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._interrupts = 0
        self._message: dict[str, Any] = {}

    def run(self) -> WorkerEnd:
        """Run the worker to its end, through RESTARTS deaths at most."""
        name = self._job.name
        for death in range(RESTARTS + 1):
            code = self._run_once()
            if self._message:
                return WorkerEnd(name.number, **self._message)
            if self._interrupts:
                return WorkerEnd(name.number, exit_code=130)
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            if death < RESTARTS:
                self._say(f"worker {name.number} of {name.of} {how}; started again ({death + 1} of {RESTARTS})")
        self._say(f"worker {name.number} of {name.of} {how}; it died {RESTARTS + 1} times and is not started again")
        return WorkerEnd(name.number, died=True, exit_code=2)

    def interrupt(self) -> None:
        """Let the worker end soon; called again, at once."""
        with self._lock:
            self._interrupts += 1
            self._pass_on()

    def _pass_on(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # Before it is ready nothing has been done, and nothing in it expects an interrupt.
            self._process.send_signal(signal.SIGINT if self._ready else signal.SIGKILL)

    def _run_once(self) -> int:
        with self._lock:
            if self._interrupts:
                return 130
            self._ready = False
            process = self._process = self._start()
        reader = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
        reader.start()
        code = process.wait()
        with suppress(ProcessLookupError, PermissionError):  # what it started and left, as engines on a GPU
            os.killpg(process.pid, signal.SIGKILL)
        reader.join(5.0)
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        return code

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [] if HERE.parent.name.endswith("-packages") else [str(HERE.parent)]
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rolloutops", *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self._variables, VARIABLE: "1"},
            start_new_session=True,  # a Ctrl-C at the terminal is passed on by this process
        )
        with suppress(BrokenPipeError):  # it ended at once: its exit code says so
            process.stdin.write(self._job.line().encode())  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return process

    def _listen(self, stdout: IO[bytes]) -> None:
        for line in stdout:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            message = received(text)
            if message is None:
                if text.strip():
                    self._say(text)
            elif message.pop("ready", False):
                with self._lock:
                    self._ready = True
            else:
                self._message = message
