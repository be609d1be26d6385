"""What the queries in sql/report stand on, and how they are run.

They see two relations in the schema `report`: `rollouts`, every rollout of the workspace without its payload, and
`used`, one row for each rollout behind each line of a build. `series` names a dataset, a policy, or both, whichever
tells them apart; beyond seven, the small ones are lumped together.
"""

from __future__ import annotations

from typing import Any

from rolloutops.config.resources import shipped
from rolloutops.store import sql
from rolloutops.store.definitions import make_named

Rows = list[dict[str, Any]]

OTHERS = "(others)"
"""The series of what is lumped together."""

VIEWS = """
CREATE SCHEMA IF NOT EXISTS report;
CREATE OR REPLACE TABLE report.names AS
SELECT dataset, policy, CASE
    WHEN place > 6 AND total > 7 THEN '(others)'
    WHEN policies = 1 THEN dataset
    WHEN datasets = 1 THEN policy
    ELSE dataset || ' · ' || policy
END AS series
FROM (
    SELECT dataset, policy, row_number() OVER (ORDER BY count(*) DESC, dataset, policy) AS place,
        count(*) OVER () AS total,
        (SELECT count(DISTINCT policy) FROM selection.rollouts) AS policies,
        (SELECT count(DISTINCT dataset) FROM selection.rollouts) AS datasets
    FROM selection.rollouts
    GROUP BY dataset, policy
);
CREATE OR REPLACE VIEW report.rollouts AS
SELECT s.*, n.series FROM selection.rollouts AS s JOIN report.names AS n USING (dataset, policy);
CREATE OR REPLACE TABLE report.used AS
SELECT split, row, if(role IN ('chosen', 'rejected'), role, 'in the files') AS part, dataset, task_id, policy,
    attempt_id, reward, output_tokens, finish_reason, NULL::BIGINT AS characters
FROM {used};
"""

NOTHING = "(SELECT 0 AS row, '' AS split, '' AS role, * FROM selection.rollouts WHERE false)"

CHARACTERS = """
UPDATE report.used AS u SET characters = length(a.text)
FROM (SELECT dataset, attempt_id, text FROM attempts SEMI JOIN report.used USING (dataset, attempt_id)) AS a
WHERE a.dataset = u.dataset AND a.attempt_id = u.attempt_id
"""


def prepare(con: sql.Connection, used: str = NOTHING) -> None:
    """Make the relations that the figures read. con: has `selection.rollouts`. used: a build's staging.used."""
    sql.run(con, VIEWS.replace("{used}", used))
    options = "part = 'chosen' AND coalesce(output_tokens, 0) = 0"
    if sql.rows(con, f"SELECT 1 FROM report.used WHERE {options} LIMIT 1"):
        sql.run(con, CHARACTERS)


def query(con: sql.Connection, name: str) -> Rows:
    """The rows of sql/report/NAME.sql. Floats are rounded to nine places, so that threads do not matter."""
    text = sql.read(shipped("sql") / "report" / f"{name}.sql")
    make_named(con, text)  # while the connection is in main, where the views' own names are found
    sql.run(con, "SET search_path = 'report,main'")
    try:
        found = sql.records(con, text)
    finally:
        sql.run(con, "RESET search_path")
    return [{key: _rounded(value) for key, value in row.items()} for row in found]


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 9) + 0.0 if isinstance(value, float) else value
