"""Rollouts by what a person has in hand: a key or a part of it, the id of an attempt, a SQL condition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.store.conversation import RELATIONS, Conversation, load
from rolloutops.store.definitions import make_all, make_named
from rolloutops.store.snapshot import connect_snapshot, take_snapshot
from rolloutops.store.user_query import is_condition, query_error
from rolloutops.store.workspace import Workspace

KEY = "concat_ws('/', dataset, task_id, policy, rollout_index)"

KEY_SLASHES = 3
"""Slashes in a key, at least: a task's id may have more."""

KEYED = f"""
WITH counted AS (
    SELECT dataset, task_id, policy, rollout_index, attempt_id FROM rollouts
),
-- What has no rollout that counts is named by its last attempt: it failed, or its task has changed since.
others AS (
    SELECT dataset, task_id, policy, rollout_index, max(attempt_id) AS attempt_id
    FROM attempts
    ANTI JOIN counted USING (dataset, task_id, policy, rollout_index)
    GROUP BY ALL
),
keyed AS (
    SELECT *, {KEY} AS key FROM (FROM counted UNION ALL FROM others)
)
SELECT dataset, task_id, policy, rollout_index, attempt_id
FROM keyed
WHERE {{condition}}
ORDER BY dataset, task_id, policy, rollout_index, attempt_id
"""

ATTEMPT = """
SELECT dataset, task_id, policy, rollout_index, attempt_id
FROM attempts
WHERE attempt_id = {attempt_id}
"""


class Rollouts:
    """The rollouts of a workspace at one moment, those in journals included."""

    def __init__(self, workspace: Workspace, plan: Sequence[Mapping[str, object]]) -> None:
        self.workspace, self.plan = workspace, plan
        self.con = connect_snapshot(workspace, take_snapshot(workspace), plan)

    def read(self, query: str) -> list[dict[str, Any]]:
        """Run a query; its rows, column -> value."""
        return sql.records(self.con, query)

    def load(self, one: Mapping[str, Any]) -> Conversation:
        """Read the conversation of a rollout that was found."""
        make_named(self.con, RELATIONS)
        found = load(self.read, self.workspace, one["dataset"], one["attempt_id"])
        if not found.has_texts:  # its journal may have become a part file since
            self.con = connect_snapshot(self.workspace, take_snapshot(self.workspace), self.plan)
            make_named(self.con, RELATIONS)
            found = load(self.read, self.workspace, one["dataset"], one["attempt_id"])
        return found


def key_of(one: Mapping[str, Any]) -> str:
    """Write the key of a rollout."""
    return "/".join(str(one[name]) for name in ("dataset", "task_id", "policy", "rollout_index"))


def find(rollouts: Rollouts, text: str, exact: bool = False) -> list[dict[str, Any]]:
    """Return the rollouts that a text names: by attempt_id; else by their whole key, by whole parts of it in a row, by
    the beginnings of such parts. The first of these that fits any rollout counts.

    exact: what is as long as a whole key names that rollout, or none.
    """
    if found := rollouts.read(ATTEMPT.format(attempt_id=sql.literal(text))):
        return found
    plain = text.strip("/")
    whole, begun = sql.literal(f"/{plain}/"), "[^/]*/".join(map(re.escape, plain.split("/")))
    conditions = [f"key = {sql.literal(plain)}", f"contains('/' || key || '/', {whole})"]
    if not exact or plain.count("/") < KEY_SLASHES:
        conditions.append(
            f"regexp_matches(key, {sql.literal(f'(^|/){begun}')}) OR starts_with(attempt_id, {sql.literal(plain)})"
        )
    for condition in conditions:
        if plain and (found := rollouts.read(KEYED.format(condition=condition))):
            return found
    return []


def require_condition(con: sql.Connection, condition: str) -> None:
    """Raise UsageError, or sql.Error, for a text that is not one condition on rows of the view `rollouts`."""
    matches = f"SELECT 1 FROM rollouts WHERE (\n{condition}\n)"
    if not is_condition(condition) or len(con.extract_statements(matches)) != 1:
        raise UsageError("--where takes one condition, as in: reward > 0.5 AND policy = 'careful'")
    make_all(con)


def matching(rollouts: Rollouts, condition: str, limit: int | None) -> tuple[list[dict[str, Any]], int]:
    """Return the first rollouts that a user's condition on the view `rollouts` matches, by key, and how many match.

    Raises UsageError, a sentence with the place, for what is not a condition or cannot be answered.
    """
    matches = f"FROM rollouts WHERE (\n{condition}\n)"
    names = "dataset, task_id, policy, rollout_index, attempt_id"
    most = "" if limit is None else f"LIMIT {limit}"
    try:
        require_condition(rollouts.con, condition)
        ((total,),) = sql.rows(rollouts.con, f"SELECT count(*) {matches}")
        return rollouts.read(f"SELECT {names} {matches} ORDER BY {names} {most}"), total
    except sql.Error as error:
        raise query_error(error) from error
