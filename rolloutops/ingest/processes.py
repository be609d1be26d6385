"""Work on batches in several processes, in the order of the batches: results do not depend on how many there are.

The first batches are worked on here, as few inputs are worth starting any process.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from rolloutops.environments.child_process import die_with_parent, start_child
from rolloutops.errors import RolloutopsError

HERE = 16
"""Batches that are worked on before processes are started, which takes each about as long."""

AHEAD = 2
"""Batches that a process has: one in hand, and the next."""

MOST = 8
"""Processes that are started where the user sets no number: one process reads and writes for all of them."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_processes() -> int:
    """How many processes this machine is worth."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST)


class Processes(Generic[Item, Result]):
    """Processes that work on batches; a context manager, at whose end there are none.

    target: `module:function`, which is called with `argument` once in each process, and here, and returns the function
    that works on a batch. is_long: whether a batch is worked on here, as it would be in memory twice on its way.
    """

    def __init__(self, target: str, argument: Any, processes: int | None, is_long: Callable[[Item], bool]) -> None:
        self._target, self._argument, self._is_long = target, argument, is_long
        self._processes = default_processes() if processes is None else processes
        self._started: list[_Process] = []

    def __enter__(self) -> Processes[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.end()

    def map(self, batches: Iterable[Item]) -> Iterator[Result]:
        """Work on batches; the results in their order. Raises what the work raises, and RolloutopsError where a
        process ends."""
        here = _function(self._target, self._argument)
        if self._processes < 2:
            yield from map(here, batches)
            return
        waiting: deque[tuple[_Process | None, Item | None]] = deque()
        for number, batch in enumerate(batches):
            if number < HERE:
                yield here(batch)
                continue
            process = None if self._is_long(batch) else self._idle(waiting)
            if process is not None:
                process.send(batch)
            waiting.append((process, batch if process is None else None))
            del batch
            while len(waiting) >= AHEAD * self._processes or waiting[0][0] is None:
                yield _result(here, *waiting.popleft())
                if not waiting:
                    break
        while waiting:
            yield _result(here, *waiting.popleft())

    def _idle(self, waiting: Sequence[tuple[_Process | None, Item | None]]) -> _Process:
        """The process with the fewest batches; a new one where all have some."""
        held = [process for process, _ in waiting]
        if len(self._started) < self._processes and all(process in held for process in self._started):
            self._started.append(_Process(self._target, self._argument))
            return self._started[-1]
        return min(self._started, key=held.count)


def _result(here: Callable[[Any], Any], process: _Process | None, batch: Any) -> Any:
    return here(batch) if process is None else process.receive()


def _function(target: str, argument: Any) -> Callable[[Any], Any]:
    module, _, name = target.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)(argument)
    return function


class _Process:
    """One process, seen from its parent. It answers in the order of what it is sent."""

    def __init__(self, target: str, argument: Any) -> None:
        self._process, self._socket = start_child("rolloutops.ingest.processes")
        self._answers = self._socket.makefile("rb", buffering=1 << 20)
        self.send((target, argument))

    def send(self, item: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # which `receive` tells
            self._socket.sendall(pickle.dumps(item, pickle.HIGHEST_PROTOCOL))

    def receive(self) -> Any:
        try:
            result, error = pickle.load(self._answers)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
            raise RolloutopsError(
                f"a process that reads rows {how}, and nothing was written: run the same command again; if memory was "
                "short, with chunk.processes = 1"
            ) from None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._answers.close()
        self._socket.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


def work() -> None:
    """A process's life: read the function, then work on batches until the parent hangs up. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    parent = socket.socket(fileno=os.dup(0))
    batches: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # A thread takes in what the parent sends: both would wait for each other, each for its answer to be read.
    threading.Thread(target=_take_in, args=(parent, batches), daemon=True).start()
    function = _function(*batches.get())
    while True:
        batch = batches.get()
        try:
            answer: tuple[Any, Exception | None] = function(batch), None
        except Exception as error:
            answer = None, error
        del batch
        try:
            parent.sendall(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        except OSError:
            os._exit(0)
        del answer


def _take_in(parent: socket.socket, batches: queue.SimpleQueue[Any]) -> None:
    with parent.makefile("rb", buffering=1 << 20) as items:
        while True:
            try:
                batches.put(pickle.load(items))
            except (EOFError, OSError):
                os._exit(0)
