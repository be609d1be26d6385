"""Requests and tokens a minute that the user allows, shared by all processes that collect into one workspace.

What may be spent lies in one small file of the workspace's `locks` folder, read and written under its lock for each
request (some ten microseconds). It fills at an even pace, so no 60 seconds ever see more than the minute's budget.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

_STATE = struct.Struct("<ddd")
"""What may be spent now, in requests and in tokens, and when that was so (Unix time)."""


class SharedRate:
    """So many requests and tokens a minute; None is no limit."""

    def __init__(
        self,
        path: Path,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._clock = clock
        self._largest = 1.0
        self._failure: OSError | None = None
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def take(self, tokens: float) -> float:
        """Spend one request and so many tokens. Returns 0 if that was allowed, else the seconds to wait for it.

        Raises OSError if the file cannot be written, now or when an answer came.
        """
        if self._failure is not None:
            raise self._failure
        if self.tokens_per_minute:
            tokens = min(tokens, self.tokens_per_minute / 2)
            self._largest = max(self._largest, tokens)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0.001
        try:
            requests, left = self._refilled()
            wait = max(
                _short(self.requests_per_minute, 1, requests, 1),
                _short(self.tokens_per_minute, tokens, left, self._largest),
            )
            self._write(requests - (wait == 0), left - tokens * (wait == 0))
            return wait
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def settle(self, estimated: float, spent: float) -> None:
        """The estimated tokens of a request turned out to be so many."""
        if not self.tokens_per_minute:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                requests, left = self._refilled()
                self._write(requests, left + min(estimated, self.tokens_per_minute / 2) - spent)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as error:  # the answer is there and is kept; the next request will not be sent
            self._failure = error

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _refilled(self) -> tuple[float, float]:
        now = self._clock()
        state = os.pread(self._fd, _STATE.size, 0)
        if len(state) < _STATE.size:
            return 1.0, self._largest
        requests, tokens, at = _STATE.unpack(state)
        passed = max(0.0, now - at)
        return (
            _fill(self.requests_per_minute, requests, 1, passed),
            _fill(self.tokens_per_minute, tokens, self._largest, passed),
        )

    def _write(self, requests: float, tokens: float) -> None:
        os.pwrite(self._fd, _STATE.pack(requests, tokens, self._clock()), 0)


def _ready(limit: float, unit: float) -> float:
    """What may be saved up: a second's worth, or one request, if that is more."""
    return max(limit / 60, unit)


def _per_second(limit: float, unit: float) -> float:
    """The pace at which savings and a minute's flow together are the limit, and not more."""
    return max(limit / 120, (limit - _ready(limit, unit)) / 60)


def _fill(limit: float | None, left: float, unit: float, passed: float) -> float:
    return 0.0 if limit is None else min(_ready(limit, unit), left + passed * _per_second(limit, unit))


def _short(limit: float | None, wanted: float, left: float, unit: float) -> float:
    return 0.0 if limit is None or left >= wanted else (wanted - left) / _per_second(limit, unit)
