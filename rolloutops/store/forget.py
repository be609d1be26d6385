"""Which rows go when rollouts are forgotten, and what is asked again once they are gone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rolloutops.errors import UsageError, did_you_mean
from rolloutops.store import sql
from rolloutops.store.find_rollouts import require_condition
from rolloutops.store.journal import seal_orphans
from rolloutops.store.removal import remove
from rolloutops.store.user_query import query_error
from rolloutops.store.without_rows import pending_again
from rolloutops.store.workspace import Workspace, connect

KEY = ("dataset", "task_id", "policy", "rollout_index")

STORED = """
CREATE VIEW stored_verdicts AS
FROM verdicts
ANTI JOIN human_verdicts USING (dataset, verdict_id);
CREATE VIEW stray_labels AS
SELECT *, regexp_extract(attempt_id, '^(.*)-[^-]*$', 1) AS run_id
FROM label_log
ANTI JOIN attempts USING (dataset, attempt_id);
"""
"""The verdicts without the scores of people, which are labels; labels of no attempt, with the run that its id names."""

BY_CONDITION = """
CREATE TABLE keys AS
SELECT DISTINCT dataset, task_id, policy, rollout_index
FROM (
SELECT * FROM rollouts WHERE (
{condition}
))
WHERE {filters};
CREATE TABLE gone_attempts AS
SELECT dataset, attempt_id, task_id, policy, rollout_index FROM attempts SEMI JOIN keys USING ({key});
CREATE TABLE gone_verdicts AS
SELECT dataset, verdict_id, policy FROM stored_verdicts SEMI JOIN keys USING ({key})
UNION
SELECT dataset, verdict_id, policy FROM stored_verdicts SEMI JOIN gone_attempts USING (dataset, attempt_id);
CREATE TABLE gone_labels AS
SELECT dataset, label_id, policy FROM label_log SEMI JOIN keys USING ({key})
UNION
SELECT dataset, label_id, policy FROM label_log SEMI JOIN gone_attempts USING (dataset, attempt_id)
"""
"""All attempts at the rollouts that a condition matches, also those that failed or stand for an earlier form of a task;
`{condition}` has a line of its own, so that DuckDB's errors show the user's text."""

BY_FILTERS = """
CREATE TABLE gone_attempts AS
SELECT dataset, attempt_id, task_id, policy, rollout_index FROM attempts WHERE {filters};
CREATE TABLE gone_verdicts AS
SELECT dataset, verdict_id, policy FROM stored_verdicts WHERE {filters}
UNION
SELECT dataset, verdict_id, policy FROM stored_verdicts SEMI JOIN gone_attempts USING (dataset, attempt_id);
CREATE TABLE gone_labels AS
SELECT dataset, label_id, policy FROM stray_labels WHERE {filters}
UNION
SELECT dataset, label_id, policy FROM label_log SEMI JOIN gone_attempts USING (dataset, attempt_id)
"""
"""The attempts of runs, datasets or policies, with all verdicts and labels on them; the verdicts such runs made."""

COUNTS = """
WITH counted AS (
    SELECT dataset, policy, 0 AS rollouts, 1 AS attempts, 0 AS verdicts, 0 AS labels FROM gone_attempts
    UNION ALL
    SELECT dataset, policy, 0, 0, 1, 0 FROM gone_verdicts
    UNION ALL
    SELECT dataset, policy, 0, 0, 0, 1 FROM gone_labels
    UNION ALL
    SELECT dataset, policy, 1, 0, 0, 0 FROM rollout_facts SEMI JOIN gone_attempts USING (dataset, attempt_id)
)
SELECT dataset, policy, sum(rollouts)::BIGINT AS rollouts, sum(attempts)::BIGINT AS attempts,
    sum(verdicts)::BIGINT AS verdicts, sum(labels)::BIGINT AS labels
FROM counted
GROUP BY dataset, policy
ORDER BY dataset, policy
"""

GOING = """
SELECT DISTINCT 'attempts' AS "table", dataset, attempt_id AS id FROM gone_attempts
UNION ALL
SELECT DISTINCT 'verdicts', dataset, verdict_id FROM gone_verdicts
UNION ALL
SELECT DISTINCT 'labels', dataset, label_id FROM gone_labels
UNION ALL
SELECT DISTINCT 'lines', file, line FROM gone_lines
"""


@dataclass(frozen=True)
class Choice:
    """What a user wants forgotten; of several conditions all must hold. where: a SQL condition over `rollouts`."""

    runs: Sequence[str] = ()
    datasets: Sequence[str] = ()
    policies: Sequence[str] = ()
    where: str | None = None

    @property
    def filters(self) -> str:
        """The condition on the columns that attempts, verdicts and rollouts all have."""
        named = {"run_id": self.runs, "dataset": self.datasets, "policy": self.policies}
        parts = [f"list_contains({sql.literal(list(names))}, {column})" for column, names in named.items() if names]
        return " AND ".join(parts) or "true"


@dataclass
class Forgettable:
    """What would go, by dataset and policy: rollouts (that count), attempts, verdicts, labels, pending (asked again
    afterwards). lines: of journals, set aside since they are no rows."""

    con: sql.Connection
    counts: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing would go."""
        return not self.counts and not self.lines


def find_forgettable(workspace: Workspace, plan: Sequence[Mapping[str, object]], choice: Choice) -> Forgettable:
    """Decide which rows go. Journals that nobody writes are sealed first.

    Raises UsageError for a condition that cannot be answered, and for names that the workspace does not have.
    """
    seal_orphans(workspace)
    con = connect(workspace, plan)
    _require_names(con, choice)
    _choose(con, choice)
    lines = list(_lines(workspace, con, choice))
    sql.run(con, "CREATE TABLE gone_lines (file VARCHAR, line VARCHAR)")
    if lines:
        con.executemany("INSERT INTO gone_lines VALUES (?, ?)", lines)
    counts = sql.records(con, COUNTS)
    again = pending_again(workspace, plan, con, GOING) if counts else {}
    for row in counts:
        row["pending"] = again.get((row["dataset"], row["policy"]), 0)
    return Forgettable(con, counts, len(lines))


def forget(workspace: Workspace, rows: Forgettable) -> None:
    """Take out what was found; it is nowhere in the workspace when this returns. No other command may write meanwhile.

    Raises WorkspaceError where a journal or a batch may hold some of it.
    """
    remove(workspace, rows.con, GOING)


def _require_names(con: sql.Connection, choice: Choice) -> None:
    """Raise UsageError for a name that is in no table: a mistyped one would forget nothing."""
    for what, names, query in (
        (
            "run",
            choice.runs,
            "SELECT run_id FROM runs UNION SELECT run_id FROM attempts UNION SELECT run_id FROM verdicts",
        ),
        ("dataset", choice.datasets, "SELECT dataset FROM task_log UNION SELECT dataset FROM attempts"),
        ("policy", choice.policies, "SELECT policy FROM plan UNION SELECT policy FROM attempts"),
    ):
        known = {str(name) for (name,) in sql.rows(con, query)} if names else set()
        for name in names:
            if name not in known:
                raise UsageError(f"the workspace has no {what} {name!r}{did_you_mean(name, sorted(known), most=3)}")


def _choose(con: sql.Connection, choice: Choice) -> None:
    """Make the tables gone_attempts, gone_verdicts and gone_labels."""
    sql.run(con, STORED)
    if choice.where is None:
        sql.run(con, BY_FILTERS.format(filters=choice.filters))
        return
    try:
        require_condition(con, choice.where)
        sql.run(con, BY_CONDITION.format(filters=choice.filters, condition=choice.where, key=", ".join(KEY)))
    except sql.Error as error:
        raise query_error(error) from error


def _lines(workspace: Workspace, con: sql.Connection, choice: Choice) -> Iterator[tuple[str, str]]:
    """(file, SHA-256) of the lines of journals that were set aside and belong to what goes."""
    keys = set(sql.rows(con, f"SELECT DISTINCT {', '.join(KEY)} FROM gone_attempts"))
    for path in sorted((workspace.root / "rejected").glob("journal-*.lines")):
        with path.open("rb") as lines:
            for line in lines:
                if _belongs(path, line, choice, keys):
                    yield path.name, hashlib.sha256(line).hexdigest()


def _belongs(path: Path, line: bytes, choice: Choice, keys: set[tuple[Any, ...]]) -> bool:
    """Whether a line of a journal is of what goes, as far as it can be read."""
    if choice.where is not None:
        return tuple(_value(line, name) for name in KEY) in keys
    found = {"run_id": _value(line, "run_id"), "dataset": _value(line, "dataset"), "policy": _value(line, "policy")}
    named = {"run_id": choice.runs, "dataset": choice.datasets, "policy": choice.policies}
    return all(
        found[column] in names or (column == "run_id" and any(path.name.startswith(f"journal-{run}-") for run in names))
        for column, names in named.items()
        if names
    )


def _value(line: bytes, name: str) -> Any:
    """A value of a line that may not be JSON; None where it cannot be read. Quotes in texts are escaped."""
    found = re.search(rb'"' + name.encode() + rb'":\s*("(?:[^"\\]|\\.)*"|\d+)', line)
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None
