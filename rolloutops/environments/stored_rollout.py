"""A rollout as the tables hold it, to be verified."""

from __future__ import annotations

from typing import NamedTuple

from rolloutops.formats.strict_json import read
from rolloutops.types import Rollout, Task


class StoredRollout(NamedTuple):
    """A task and its rollout as the tables hold them; their JSON is read only where they are verified."""

    dataset: str
    task_id: str
    row: str
    prompt: str
    tools: str | None
    answer: str | None
    completion: str
    text: str
    finish_reason: str | None

    def read(self) -> tuple[Task, Rollout]:
        """What verify is given."""
        tools = read(self.tools) if self.tools else None
        task = Task(self.dataset, self.task_id, read(self.row), read(self.prompt), tools, self.answer)
        return task, Rollout(read(self.completion), self.text, self.finish_reason)
