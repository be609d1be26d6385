"""What the server shows: a workspace, its present moment, and the conversations that were read last."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from rolloutops.config.plan import Plan
from rolloutops.store.conversation import Conversation
from rolloutops.store.workspace import Workspace
from rolloutops.view import conversation
from rolloutops.view.filters import Query, first
from rolloutops.view.index import signature, take_moment

HELD = 4
"""Conversations that are held in memory: the pages of a long one are asked for one after the other."""


class Viewer:
    """What the server shows: a workspace, its moment, and the conversations that were read last.

    file: the file whose rollouts the workspace holds, where it was made for one.
    """

    def __init__(self, workspace: Workspace, plan: Plan, file: Path | None = None) -> None:
        self.workspace, self.plan, self.file = workspace, plan, file
        self.signature = signature(workspace)
        self.moment = take_moment(workspace, plan.rows, 1)
        self.lock = Lock()
        self.conversations: dict[tuple[str, str], Conversation] = {}

    def refresh(self) -> bool:
        """Make the moment anew where files have appeared; return whether they have."""
        with self.lock:
            now = signature(self.workspace)
            if now == self.signature:
                return False
            self.moment = take_moment(self.workspace, self.plan.rows, self.moment.number + 1)
            self.signature = now
            return True

    def conversation(self, query: Query) -> Conversation:
        """Return the rollout that an address names."""
        key = first(query, "of"), first(query, "attempt")
        held = self.conversations.pop(key, None) or conversation.load(self.moment, self.workspace, *key)
        if not held.has_texts and self.refresh():
            held = conversation.load(self.moment, self.workspace, *key)
        self.conversations[key] = held
        for old in list(self.conversations)[:-HELD]:
            self.conversations.pop(old, None)
        return held
