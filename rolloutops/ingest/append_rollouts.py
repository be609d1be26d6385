"""Staged rollouts: resolved to tasks and indexes by their keys (sql/import.sql), and appended to the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rolloutops.config.resources import shipped
from rolloutops.ingest.staged_files import chosen_rows, parts_of
from rolloutops.store import schema, sql
from rolloutops.store.workspace import Workspace, connect, write_part

PART_ROWS, PART_BYTES = 5000, 64_000_000

NEW_TASKS = """
SELECT place & 1099511627775 AS ordinal, task_id, version
FROM new_tasks
ORDER BY ordinal
"""
"""The new tasks, in the order of the rows that stand for them."""

HOMES = """
CREATE TABLE homes AS
SELECT task_id, row_hash, part, prompt_hash
FROM known_tasks
UNION ALL
SELECT n.task_id, n.row_hash, s.part, n.prompt_hash
FROM new_tasks AS n
ASOF JOIN starts AS s ON s.number <= n.number
"""
"""The part of each task, in which its rollouts are too."""

NEW_ATTEMPTS = """
SELECT f.ordinal, f.task_id, h.row_hash, f.policy, f.rollout_index, f.attempt, f.attempt_id, h.part,
    h.prompt_hash AS task_prompt, p.params
FROM fresh AS f
JOIN homes AS h ON h.task_id = f.task_id
LEFT JOIN requests AS q ON q.ordinal = f.ordinal
LEFT JOIN asked AS p ON p.place = q.place AND p.params IS NOT NULL
ORDER BY f.ordinal
"""
"""The new attempts, without what their rows hold."""

COUNTS = """
SELECT count(*) FILTER (copy = 1 AND NOT failed) AS rollouts,
    count(*) FILTER (copy = 1 AND failed) AS failures,
    count(*) FILTER (copy > 1) AS duplicates,
    (SELECT count(*) FROM ended) - (SELECT count(*) FROM fresh_rows) AS already_present,
    count(*) FILTER (e.verifier IS NOT NULL) AS verdicts,
    count(*) FILTER (e.verdict_error = 'masked') AS masked,
    count(*) FILTER (copy = 1 AND NOT failed AND e.turns = 0 AND e.verifier IS NULL) AS empty,
    count(*) FILTER (NOT failed AND f.ng_rollout <> f.rollout_index) AS renumbered,
    (SELECT count(*) FROM grown) AS grown
FROM fresh AS f
JOIN ended AS e ON e.ordinal = f.ordinal
"""

REASONS = """
SELECT coalesce(e.error, e.finish_reason) AS reason, count(*) AS rollouts
FROM fresh AS f
JOIN ended AS e ON e.ordinal = f.ordinal
WHERE f.copy = 1 AND (f.failed OR e.error_message IS NOT NULL)
GROUP BY reason
ORDER BY rollouts DESC, reason
"""
"""Why rollouts failed, or which finish reason those have that the endpoint refused."""


def resolve_keys(workspace: Workspace, dataset: str, staging: Path) -> sql.Connection:
    """Decide which rows are new, whose rollouts they are and which index each gets: keys only, in sql/import.sql."""
    con = connect(workspace)
    sql.run(con, f"SET memory_limit = '1GB'; SET temp_directory = {sql.literal(str(staging / 'spilled'))}")
    for name in ("asked", "ended"):
        path = sql.literal(str(staging / f"{name}.parquet"))
        sql.run(con, f"CREATE VIEW {name} AS SELECT * FROM read_parquet({path})")
    sql.set_variable(con, "dataset", dataset, "VARCHAR")
    sql.run(con, sql.read(shipped("sql") / "import.sql"))
    return con


def append_rollouts(
    workspace: Workspace, con: sql.Connection, dataset: str, run_id: str, rows_per_part: int, staging: Path
) -> dict[str, Any]:
    """Append tasks, verdicts and attempts, in this order: an attempt that is there has its task and its verdict."""
    first, new = sql.rows(
        con,
        "SELECT (SELECT coalesce(max(part) + 1, 0) FROM task_log WHERE dataset = getvariable('dataset')), "
        "(SELECT count(*) FROM new_tasks)",
    )[0]
    sql.run(con, "CREATE TABLE starts (number BIGINT, part INTEGER)")
    number = 0
    for part, rows in enumerate(
        parts_of(chosen_rows(con, NEW_TASKS, staging / "asked.parquet", "ordinal"), rows_per_part), first
    ):
        sql.run(con, f"INSERT INTO starts VALUES ({number}, {part})")
        number += len(rows)
        same = {"dataset": dataset, "removed": False, "part": part}
        write_part(workspace, "tasks", dataset, f"part-{part:05d}", _conformed(_with(rows, same), schema.TASKS))
        del rows
    sql.run(con, HOMES)
    found = chosen_rows(con, NEW_ATTEMPTS, staging / "ended.parquet", "ordinal")
    for files, rows in enumerate(parts_of(map(_with_request, found), PART_ROWS, PART_BYTES)):
        _append(workspace, dataset, run_id, f"{run_id}-import-{files:04d}", rows)
        del rows
    counts = sql.records(con, COUNTS)[0]
    policies = sql.rows(con, "SELECT DISTINCT policy FROM fresh ORDER BY policy")
    reasons = {reason: int(number) for reason, number in sql.rows(con, REASONS)}
    return {**counts, "tasks": new, "policies": [policy for (policy,) in policies], "reasons": reasons}


def _with(rows: pa.Table, values: dict[str, Any]) -> pa.Table:
    """Rows with columns that have one value each."""
    for name, value in values.items():
        rows = rows.append_column(name, pa.repeat(pa.scalar(value), len(rows)))
    return rows


def _with_request(rows: pa.Table) -> pa.Table:
    """Rollouts with what they were asked: parameters, and prompt and tools where they are not the task's own."""
    own = pc.fill_null(pc.not_equal(rows["prompt_hash"], rows["task_prompt"]), False)
    if pc.any(own).as_py():
        tools = pc.fill_null(_as_text(rows["tools"]), "[]")
        asked = {"prompt": pc.if_else(own, _as_text(rows["prompt"]), None), "tools": pc.if_else(own, tools, None)}
    else:
        asked = {name: pa.nulls(len(rows), pa.string()) for name in ("prompt", "tools")}
    request = _as_text(rows["request"])
    asked["request"] = pc.coalesce(request, rows["params"]) if request.null_count else request
    rows = rows.drop_columns([*asked, "params", "task_prompt"])
    for name, column in asked.items():
        rows = rows.append_column(name, column)
    return rows


VERDICT = {"verdict_error": "error", "verdict_error_message": "error_message"}
"""Columns of a verdict whose names an attempt has too."""


def _append(workspace: Workspace, dataset: str, run_id: str, name: str, rows: pa.Table) -> None:
    """Write a part of attempts, and the verdicts on them before it."""
    same = {"dataset": dataset, "run_id": run_id}
    columns = [
        column for column in rows.column_names if column in schema.VERDICTS.names and column not in VERDICT.values()
    ]
    verified = rows.select([*columns, *VERDICT, "ordinal"]).filter(pc.is_valid(rows["verifier"]))
    if len(verified):
        numbers = pc.utf8_lpad(verified["ordinal"].cast(pa.string()), 8, "0")
        verified = verified.append_column("verdict_id", pc.binary_join_element_wise(f"{run_id}", numbers, "-"))
        verified = verified.rename_columns([VERDICT.get(column, column) for column in verified.column_names])
        verified = _conformed(_with(verified, {**same, "cached": False}), schema.VERDICTS)
        write_part(workspace, "verdicts", dataset, name, verified)
    del verified
    write_part(workspace, "attempts", dataset, name, _conformed(_with(rows, same), schema.ATTEMPTS))


def _conformed(rows: pa.Table, table: pa.Schema) -> pa.Table:
    """Rows as a table of the workspace: its columns, in its types; what is not there is null."""
    columns = []
    for column_of in table:
        storage = pa.string() if column_of.type == schema.JSON else column_of.type
        if column_of.name not in rows.column_names:
            column = pa.nulls(len(rows), storage)
        else:
            column = _as_text(rows[column_of.name]) if storage == pa.string() else rows[column_of.name].cast(storage)
        columns.append(_as_json(column) if column_of.type == schema.JSON else column)
    return pa.Table.from_arrays(columns, schema=table)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts or of JSON as one of texts, without a copy."""
    if column.type != schema.JSON:
        return column.cast(pa.string())
    return pa.chunked_array([chunk.storage for chunk in column.chunks], pa.string())


def _as_json(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as a column of JSON, without a copy."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([pa.ExtensionArray.from_storage(schema.JSON, chunk) for chunk in chunks], schema.JSON)
