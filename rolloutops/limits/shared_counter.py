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
    """The file, shared until it is closed. Opening it waits for whoever is about to begin it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
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
        """What all have spent by now."""
        return Spending(*_STATE.unpack(os.pread(self._fd, _STATE.size, 0)))

    def add(self, more: Spending) -> Spending:
        """Spend so much. Returns what all have spent by now."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            total = Spending(*map(sum, zip(self.spent(), more, strict=True)))
            os.pwrite(self._fd, _STATE.pack(*total), 0)
            return total
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
        os.close(self._users)
