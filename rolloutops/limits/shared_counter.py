"""What all processes that collect now have spent together, for a limit over all of them.

It lies in a small file of the workspace's `locks` folder, as the budget a minute does. Who comes when nobody is there
begins it with what the tables tell; who comes later finds it begun.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import NamedTuple

_STATE = struct.Struct("<ddd")


class Spending(NamedTuple):
    """Tokens, their cost (NaN where a price is not known), and the attempts that took them."""

    tokens: float
    cost: float
    attempts: float


class SharedCounter:
    """The file, shared until it is closed. Opening it waits for whoever is about to begin it.

    An error of the disk is raised when the next rollout wants to start (`spent`), not when one has just been paid for.
    """

    def __init__(self, path: Path) -> None:
        self._failure: OSError | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._path = str(path)
        self._fd = os.open(path, flags, 0o666)
        self._users = os.open(path.with_name(f"{path.name}.users"), flags, 0o666)
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._alone = True
        except BlockingIOError:
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self._alone = False

    def begin(self, spent: Spending) -> None:
        """What was spent before; counts where nobody else is there."""
        if self._alone:
            os.pwrite(self._fd, _STATE.pack(*spent), 0)
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def spent(self) -> Spending:
        """What all have spent by now. Raises OSError if something that was spent could not be written."""
        if self._failure is not None:
            raise self._failure
        return Spending(*_STATE.unpack(os.pread(self._fd, _STATE.size, 0)))

    def add(self, more: Spending) -> Spending:
        """Spend so much. Returns what all have spent by now, or only this if the file cannot be read or written."""
        total = more
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                before = Spending(*_STATE.unpack(os.pread(self._fd, _STATE.size, 0)))
                total = Spending(*map(sum, zip(before, more, strict=True)))
                os.pwrite(self._fd, _STATE.pack(*total), 0)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as error:
            self._failure = OSError(error.errno, error.strerror, self._path)
        return total

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
        os.close(self._users)
