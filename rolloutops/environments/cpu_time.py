"""CPU time of a verdict: what tells a verifier that computes from one that waits."""

from __future__ import annotations

import resource
import time
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any


def process_cpu() -> float:
    """CPU seconds of this process with all of its threads, and of its child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class CpuClock:
    """CPU seconds of one coroutine: those of its own steps, not of what else the event loop does in between."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def measured(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """The coroutine, to be awaited: its steps are counted."""
        return self._steps(coroutine)

    @types.coroutine
    def _steps(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step, value = coroutine.send, None
        try:
            while True:
                began = time.thread_time()
                try:
                    awaited = step(value)
                except StopIteration as ended:
                    return ended.value
                finally:
                    self.seconds += time.thread_time() - began
                try:
                    value, step = (yield awaited), coroutine.send
                except GeneratorExit:
                    raise
                except BaseException as error:  # above all CancelledError: it is the coroutine's
                    value, step = error, coroutine.throw
        finally:
            coroutine.close()
