"""An event loop whose clock jumps: where nothing is ready, it is at once the time of the next timer.

Two minutes of waiting take milliseconds and are the same on each machine. For code that waits for timers alone: a loop
that waits for sockets or threads would not know them to be busy.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Selector(selectors.SelectSelector):
    """A selector that never waits, but moves the clock on by as much as it would have waited."""

    moved = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self.moved += timeout
        return super().select(0)


class VirtualTime(asyncio.SelectorEventLoop):
    """The loop. Its time begins at 0."""

    def __init__(self) -> None:
        self._jumps = _Selector()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.moved


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(main)
