"""Labels in the viewer: what is said of a rollout, what a person changes of it, and the index that shows it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError
from rolloutops.store import schema, sql
from rolloutops.store.labels import AttemptKey, LabelLog, LabelRow
from rolloutops.store.snapshot import connect_snapshot, take_snapshot
from rolloutops.store.workspace import Workspace
from rolloutops.view.index import Moment, read

UPDATE = """
UPDATE small AS s
SET label = n.label, label_score = n.score, reward = CASE WHEN n.is_reward THEN n.score ELSE s.reward END
FROM (
    SELECT k.dataset, k.attempt_id, l.label, l.score,
        k.dataset IN (SELECT dataset FROM plan WHERE verifier = 'human') AS is_reward
    FROM (SELECT DISTINCT dataset, attempt_id FROM new_labels) AS k
    LEFT JOIN labels AS l ON l.dataset = k.dataset AND l.attempt_id = k.attempt_id
) AS n
WHERE s.dataset = n.dataset AND s.attempt_id = n.attempt_id
"""

ATTEMPT = """
SELECT dataset, task_id, policy, rollout_index, attempt_id
FROM {table}
WHERE attempt_id = {attempt} AND dataset = {dataset}
"""


def take_in(moment: Moment, rows: Sequence[LabelRow]) -> None:
    """Let a moment show labels that were written since it was made."""
    if not rows:
        return
    with moment.lock:
        moment.con.register("new_labels", schema.table_of(schema.LABELS, rows))
        try:
            sql.run(moment.con, f"INSERT INTO journal_labels BY NAME SELECT * FROM new_labels;\n{UPDATE}")
        finally:
            moment.con.unregister("new_labels")
        moment.labels += len(rows)
        moment.number += 1
        moment.forget_matches([text for text, table in moment.matches.items() if table != "small" and "label" in text])


def find_attempt(moment: Moment, dataset: str, attempt_id: str) -> AttemptKey:
    """Find the attempt that an address names, a failed one too. Raises UsageError where there is none."""
    for table in ("small", "failed"):
        query = ATTEMPT.format(table=table, attempt=sql.literal(attempt_id), dataset=sql.literal(dataset))
        if found := read(moment, query):
            return found[0]  # type: ignore[return-value]
    raise UsageError(f"there is no rollout {attempt_id} of {dataset!r}")


def require_stored(workspace: Workspace, dataset: str, attempt_id: str) -> None:
    """Raise UsageError where an attempt is in the workspace no more."""
    query = ATTEMPT.format(table="attempts", attempt=sql.literal(attempt_id), dataset=sql.literal(dataset))
    if not sql.rows(connect_snapshot(workspace, take_snapshot(workspace), ()), query):
        raise UsageError(f"rollout {attempt_id} of {dataset!r} was taken out of the workspace meanwhile")


def label_of(log: LabelLog, dataset: str, attempt_id: str) -> dict[str, Any] | None:
    """What is said of an attempt now, as JSON can hold it; None where nothing is."""
    row = log.newest.get((dataset, attempt_id))
    if row is None or row["withdrawn"]:
        return None
    return {
        **{name: row[name] for name in ("label", "score", "note", "author")},  # type: ignore[literal-required]
        "created_at": row["created_at"] // 1000,
    }


def names(log: LabelLog, plan: Plan) -> list[str]:
    """The labels to choose from: those that steps of the recipe name, then those in use, in the order of first use."""
    used = (row["label"] for row in sorted(log.rows, key=lambda row: (row["created_at"], row["label_id"])))
    now = {row["label"] for row in log.newest.values()}
    return list(dict.fromkeys([*_of_recipe(plan), *(name for name in used if name in now and name is not None)]))


def _of_recipe(plan: Plan) -> Iterable[str]:
    for step in plan.steps:
        if step.use == "filter/labels":
            for key in ("keep", "drop"):
                named = step.settings.get(key)
                yield from (name for name in (named if isinstance(named, list) else ()) if isinstance(name, str))
