"""Staged rollouts: resolved to tasks and indexes by their keys (sql/import.sql), and appended to the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rolloutops.config.resources import shipped
from rolloutops.store import schema, sql
from rolloutops.store.workspace import Workspace, connect, write_part

PART_ROWS, PART_BYTES = 5000, 64_000_000

NEW_TASKS = """
SELECT {dataset} AS dataset, n.task_id, n.version, false AS removed, {part} AS part,
    a.row_hash, a.origin, a.line, a.agent, a.row::VARCHAR AS row, a.prompt::VARCHAR AS prompt,
    a.tools::VARCHAR AS tools, a.prompt_hash, a.answer
FROM new_tasks AS n
JOIN asked AS a ON a.ident = n.ident AND a.place = n.place
WHERE n.number >= {low} AND n.number < {high}
ORDER BY n.number
"""
"""The tasks of one new part."""

NEW_ATTEMPTS = """
SELECT {dataset} AS dataset, f.task_id, h.row_hash, f.policy, f.rollout_index, f.attempt, f.attempt_id, h.part,
    {run_id} AS run_id, {run_id} || format('-{{:08d}}', f.ordinal) AS verdict_id,
    e.* EXCLUDE (policy, request, prompt, tools, twin),
    coalesce(e.request::VARCHAR, p.params::VARCHAR) AS request,
    CASE WHEN e.prompt_hash <> h.prompt_hash THEN e.prompt::VARCHAR END AS prompt,
    CASE WHEN e.prompt_hash <> h.prompt_hash THEN coalesce(e.tools::VARCHAR, '[]') END AS tools,
    false AS cached
FROM ended AS e
JOIN fresh AS f ON f.ordinal = e.ordinal
JOIN homes AS h ON h.task_id = f.task_id
LEFT JOIN requests AS q ON q.ordinal = e.ordinal
LEFT JOIN asked AS p ON p.place = q.place AND p.params IS NOT NULL
"""
"""The new attempts with their verdicts."""

COUNTS = """
SELECT count(*) FILTER (copy = 1 AND NOT failed) AS rollouts,
    count(*) FILTER (copy = 1 AND failed) AS failures,
    count(*) FILTER (copy > 1) AS duplicates,
    (SELECT count(*) FROM ended) - (SELECT count(*) FROM fresh_rows) AS already_present,
    count(*) FILTER (e.verifier IS NOT NULL) AS verdicts,
    count(*) FILTER (e.verdict_error = 'masked') AS masked,
    count(*) FILTER (copy = 1 AND NOT failed AND e.turns = 0 AND e.verifier IS NULL) AS empty,
    count(*) FILTER (NOT failed AND f.ng_rollout <> f.rollout_index) AS renumbered
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
    workspace: Workspace, con: sql.Connection, dataset: str, run_id: str, rows_per_part: int
) -> dict[str, Any]:
    """Append tasks, verdicts and attempts, in this order: an attempt that is there has its task and its verdict."""
    first, new = sql.rows(
        con,
        "SELECT (SELECT coalesce(max(part) + 1, 0) FROM task_log WHERE dataset = getvariable('dataset')), "
        "(SELECT count(*) FROM new_tasks)",
    )[0]
    homes = (
        f"SELECT task_id, row_hash, {first} + (number // {rows_per_part})::INTEGER AS part, prompt_hash FROM new_tasks"
    )
    sql.run(
        con, f"CREATE TABLE homes AS SELECT task_id, row_hash, part, prompt_hash FROM known_tasks UNION ALL {homes}"
    )
    for number in range(-(-new // rows_per_part)):
        low, high = number * rows_per_part, (number + 1) * rows_per_part
        query = NEW_TASKS.format(dataset=sql.literal(dataset), part=first + number, low=low, high=high)
        write_part(
            workspace, "tasks", dataset, f"part-{first + number:05d}", _conformed(sql.arrow(con, query), schema.TASKS)
        )
    held: list[pa.RecordBatch] = []
    files = 0
    query = NEW_ATTEMPTS.format(dataset=sql.literal(dataset), run_id=sql.literal(run_id))
    for batch in sql.stream(con, query, sql.PAYLOAD_ROWS):
        held.append(batch)
        if sum(map(len, held)) >= PART_ROWS or sum(b.nbytes for b in held) >= PART_BYTES:
            _append(workspace, dataset, f"{run_id}-import-{files:04d}", held)
            held, files = [], files + 1
    if held:
        _append(workspace, dataset, f"{run_id}-import-{files:04d}", held)
    counts = sql.records(con, COUNTS)[0]
    policies = sql.rows(con, "SELECT DISTINCT policy FROM fresh ORDER BY policy")
    reasons = {reason: int(number) for reason, number in sql.rows(con, REASONS)}
    return {**counts, "tasks": new, "policies": [policy for (policy,) in policies], "reasons": reasons}


def _append(workspace: Workspace, dataset: str, name: str, batches: Sequence[pa.RecordBatch]) -> None:
    rows = pa.Table.from_batches(batches)
    verified = rows.filter(pc.is_valid(rows["verifier"]))
    if len(verified):
        names = {"verdict_error": "error", "verdict_error_message": "error_message"}
        verified = verified.drop_columns(list(names.values())).rename_columns(
            [names.get(column, column) for column in verified.column_names if column not in names.values()]
        )
        write_part(workspace, "verdicts", dataset, name, _conformed(verified, schema.VERDICTS))
    write_part(workspace, "attempts", dataset, name, _conformed(rows, schema.ATTEMPTS))


def _conformed(rows: pa.Table, table: pa.Schema) -> pa.Table:
    """Rows as a table of the workspace: its columns, in its types; what is not there is null."""
    columns = []
    for column_of in table:
        storage = pa.string() if column_of.type == schema.JSON else column_of.type
        if column_of.name not in rows.column_names:
            column = pa.nulls(len(rows), storage)
        else:
            column = rows[column_of.name].cast(storage)
        columns.append(_as_json(column) if column_of.type == schema.JSON else column)
    return pa.Table.from_arrays(columns, schema=table)


def _as_json(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as a column of JSON, without a copy."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([pa.ExtensionArray.from_storage(schema.JSON, chunk) for chunk in chunks], schema.JSON)
