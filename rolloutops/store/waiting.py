"""Waiting for a lock: two commands that do the same thing to a workspace do it one after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from rolloutops.config.redact import tell
from rolloutops.store.workspace import Workspace, try_lock

POLL_SECONDS = 0.1
SILENT_SECONDS = 1.0
"""A wait that is shorter is not mentioned: most are, and there is nothing to do about it."""


@contextmanager
def wait_for_lock(workspace: Workspace, name: str, work: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock while the block runs, after waiting for the process that has it. work: what that one does. shared: as
    in try_lock."""
    for seconds in _patience(work):
        with try_lock(workspace, name, shared) as free:
            if free:
                yield
                return
        time.sleep(seconds)


@asynccontextmanager
async def await_lock(workspace: Workspace, name: str, work: str) -> AsyncIterator[None]:
    """Do the same without blocking the event loop."""
    for seconds in _patience(work):
        with try_lock(workspace, name) as free:
            if free:
                yield
                return
        await asyncio.sleep(seconds)


def _patience(work: str) -> Iterator[float]:
    """Seconds until each further look, without end. Says once what is waited for."""
    began, silent = time.monotonic(), True
    while True:
        yield POLL_SECONDS
        if silent and time.monotonic() - began >= SILENT_SECONDS:
            silent = False
            tell(f"waiting: another command {work}")
