"""The share of compaction that each process takes which seals parts: in a thread of its own, off the writer's path."""

from __future__ import annotations

import threading

from rolloutops.config.redact import tell
from rolloutops.errors import WorkspaceError
from rolloutops.store.compact import compact_share
from rolloutops.store.workspace import Workspace

SEALS = 16
"""Seals after which a process looks whether there is something to merge."""


class CompactBeside:
    """Merges small files now and then while a journal is written. What fails here fails nothing else.

    only: files of this table alone.
    """

    def __init__(self, workspace: Workspace, only: str = "") -> None:
        self._workspace, self._only = workspace, only
        self._seals = 0
        self._thread: threading.Thread | None = None
        self._failed = False

    def sealed(self) -> None:
        """Count a seal; begin to merge at each SEALS-th, unless it is under way."""
        self._seals += 1
        busy = self._thread is not None and self._thread.is_alive()
        if self._seals % SEALS == 0 and not busy and not self._failed:
            self._thread = threading.Thread(target=self._merge, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait until nothing is merged any more."""
        if self._thread is not None:
            self._thread.join()

    def _merge(self) -> None:
        try:
            compact_share(self._workspace, self._only)
        except (OSError, WorkspaceError) as error:
            self._failed = True
            tell(f"part files were not merged: {error}")
