"""One task: its prompt, and all repeats of all policies."""

from __future__ import annotations

from typing import Any

from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.view.index import COLUMNS, Moment, read

MOST_REPEATS = 2_000
"""Rollouts of a task that are listed."""


def task(moment: Moment, dataset: str, task_id: str) -> dict[str, Any]:
    """Return the rollouts of a task by policy and repeat, and the failed attempts at it."""
    where = f"dataset = {sql.literal(dataset)} AND task_id = {sql.literal(task_id)}"
    names = ", ".join(name for name in COLUMNS if name != "started_at")
    rollouts = read(
        moment,
        f"SELECT {names} FROM small WHERE {where} ORDER BY policy, rollout_index, attempt_id LIMIT {MOST_REPEATS}",
    )
    failed = read(
        moment,
        "SELECT dataset, policy, rollout_index, attempt, error, healed, attempt_id FROM failed "
        f"WHERE {where} ORDER BY policy, rollout_index, attempt_id LIMIT {MOST_REPEATS}",
    )
    if not rollouts and not failed:
        raise UsageError(f"there is no rollout of task {task_id!r} of {dataset!r}")
    return {"dataset": dataset, "task_id": task_id, "rollouts": rollouts, "failed": failed}
