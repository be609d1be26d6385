"""A time limit for one piece of work after the other.

`asyncio.timeout` makes a timer for each block and takes it back at its end, which costs more than the rest of a short
attempt. An alarm keeps one timer: it is set further as time goes on, and looks what the limit is by then when it rings.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadline:
    """Used by one task: `with alarm.within(seconds): ...` raises TimeoutError where the block takes longer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._when: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rang = False
        self._cancelled_before = 0

    def within(self, seconds: float | None) -> Deadline:
        """Let the block that follows take so many seconds; None is no limit."""
        self.when = None if seconds is None else self._loop.time() + seconds
        return self

    @property
    def when(self) -> float | None:
        """The event loop's time at which it will ring, None for never. It may be changed within the block."""
        return self._when

    @when.setter
    def when(self, when: float | None) -> None:
        self._when = when
        if when is None:
            return
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._ring)

    def off(self) -> None:
        """Take the timer back, when there is no more work."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        assert self._task is not None
        self._cancelled_before = self._task.cancelling()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._when = None
        if self._rang:
            self._rang = False
            assert self._task is not None
            if self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _ring(self) -> None:
        self._timer = None
        if self._when is None:
            return
        if self._loop.time() < self._when:
            self._timer = self._loop.call_at(self._when, self._ring)
            return
        self._when, self._rang = None, True
        assert self._task is not None
        self._task.cancel()
