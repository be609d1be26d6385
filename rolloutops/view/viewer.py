"""What the server shows: a workspace, its present moment, and the conversations that were read last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError
from rolloutops.store.author import author
from rolloutops.store.compact_beside import CompactBeside
from rolloutops.store.conversation import Conversation
from rolloutops.store.labels import LabelLog, check_changes
from rolloutops.store.removal import beside_writers
from rolloutops.store.workspace import Workspace
from rolloutops.view import conversation
from rolloutops.view.filters import Query, first
from rolloutops.view.index import folder_times, signature, take_moment
from rolloutops.view.labels import find_attempt, require_stored, take_in
from rolloutops.view.tokens import LineTokens, tokenizer_of

HELD = 4
"""Conversations that are held in memory: the pages of a long one are asked for one after the other."""


class Viewer:
    """What the server shows: a workspace, its moment, and the conversations that were read last.

    file: the file whose rollouts the workspace holds, where it was made for one. tokenizer: a folder or a model's name,
    for training lines as tokens (default: that of the recipe's vLLM model on this disk).
    """

    def __init__(self, workspace: Workspace, plan: Plan, file: Path | None = None, tokenizer: str = "") -> None:
        self.workspace, self.plan, self.file = workspace, plan, file
        self.signature = signature(workspace)
        self.labels, self.label_times = LabelLog(workspace), folder_times(workspace.root, "labels")
        self.labels.read_new()
        self.moment = take_moment(workspace, plan.rows, 1, self.labels.rows)
        self.lock, self.label_lock = Lock(), Lock()
        self.beside = CompactBeside(workspace, "labels")
        self.conversations: dict[tuple[str, str], Conversation] = {}
        self.tokens = LineTokens(tokenizer or tokenizer_of(plan))

    def refresh(self) -> bool:
        """Make the moment anew where files have appeared; return whether they have."""
        with self.lock:
            now = signature(self.workspace)
            if now == self.signature:
                return self._refresh_labels()
            with self.label_lock:
                self.labels.read_new()
                known = list(self.labels.rows)
            moment = take_moment(self.workspace, self.plan.rows, self.moment.number + 1, known)
            with self.label_lock:
                take_in(moment, self.labels.rows[moment.labels :])
                moment.number = max(moment.number, self.moment.number + 1)
                self.moment = moment
            self.signature = now
            return True

    def _refresh_labels(self) -> bool:
        """Show the labels that others have written; return whether there are any."""
        times = folder_times(self.workspace.root, "labels")
        if times == self.label_times:
            return False
        with self.label_lock:
            self.labels.read_new()
            new = self.labels.rows[self.moment.labels :]
            take_in(self.moment, new)
            self.label_times = times
            self.conversations.clear()  # a score may be a verdict
            return bool(new)

    def label(self, dataset: str, attempt_id: str, changes: Mapping[str, Any]) -> None:
        """Write what a person says of an attempt, and show it. It is on disk when this returns.

        Raises UsageError where there is no such attempt, or nothing to write it to.
        """
        if self.file is not None:
            raise UsageError(
                f"labels are written to a workspace, and {self.file} has none: make one with rolloutops import "
                f"{self.file} --data=FOLDER, then view that"
            )
        checked = check_changes(changes)
        # What is found is not forgotten meanwhile.
        with beside_writers(self.workspace, alone=False), self.label_lock:
            found = find_attempt(self.moment, dataset, attempt_id)
            if signature(self.workspace) != self.signature:
                require_stored(self.workspace, dataset, attempt_id)
            self.labels.write([found], checked, author())
            take_in(self.moment, self.labels.rows[self.moment.labels :])
            self.conversations.clear()
        self.beside.sealed()

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
