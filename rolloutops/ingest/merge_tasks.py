"""Merge a dataset's tasks of another workspace into this one.

A task is in the merged workspace if either has it now. Where both have it with different rows, the row that the other
one had before is the older one; where neither had the other's, this workspace's stays. Every row that a task ever had
is kept, so that each rollout's task, as it was then, is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape

import pyarrow as pa

from rolloutops.ingest.staged_files import parts_of
from rolloutops.store import schema, sql
from rolloutops.store.parts import find_parts
from rolloutops.store.workspace import Workspace, spill_folder, write_part

LOG = """
CREATE VIEW log AS
SELECT *, list_contains({theirs}, filename) AS theirs
FROM read_parquet({files}, union_by_name = true, filename = true, file_row_number = true)
WHERE dataset = {dataset};
"""
"""All rows of a dataset's tasks, of both workspaces, with the place of each."""

COMPARE = """
CREATE TABLE newest AS
SELECT theirs, task_id, max(version) AS version, arg_max(row_hash, version) AS row_hash,
    arg_max(removed, version) AS removed
FROM log
GROUP BY theirs, task_id;

-- Every row that a task ever had, and where it lies.
CREATE TABLE rows_of_tasks AS
SELECT theirs, task_id, row_hash, max(version) AS version, arg_max(filename, version) AS filename,
    arg_max(file_row_number, version) AS file_row_number
FROM log
WHERE NOT removed
GROUP BY theirs, task_id, row_hash;

CREATE TABLE lacking AS
SELECT t.*
FROM (FROM rows_of_tasks WHERE theirs) AS t
ANTI JOIN (FROM rows_of_tasks WHERE NOT theirs) AS o ON o.task_id = t.task_id AND o.row_hash = t.row_hash;

-- change: what becomes of each of their tasks. winner: whose row counts, theirs or ours.
CREATE TABLE merged AS
SELECT t.task_id, t.version AS their_version, t.row_hash AS their_hash, t.removed AS their_removed,
    o.version AS our_version, o.row_hash AS our_hash, o.removed AS our_removed,
    CASE
        WHEN o.task_id IS NULL AND t.removed THEN 'gone'
        WHEN o.task_id IS NULL THEN 'added'
        WHEN t.removed THEN 'present'
        WHEN o.removed THEN 'returned'
        WHEN o.row_hash = t.row_hash THEN 'present'
        WHEN old.task_id IS NOT NULL AND l.task_id IS NOT NULL THEN 'edited'
        ELSE 'different'
    END AS change,
    change IN ('gone', 'added', 'returned', 'edited') AS theirs
FROM (FROM newest WHERE theirs) AS t
LEFT JOIN (FROM newest WHERE NOT theirs) AS o ON o.task_id = t.task_id
LEFT JOIN (FROM rows_of_tasks WHERE theirs) AS old ON old.task_id = o.task_id AND old.row_hash = o.row_hash
LEFT JOIN lacking AS l ON l.task_id = t.task_id AND l.row_hash = t.row_hash;

-- The rows that do not count, of which this log gets those that it lacks. Of a task that is unknown here they keep
-- their version; else they come after ours.
CREATE TABLE history AS
SELECT l.task_id, l.filename, l.file_row_number,
    coalesce(m.our_version + row_number() OVER (PARTITION BY l.task_id ORDER BY l.version), l.version)::INTEGER
        AS version
FROM lacking AS l
JOIN merged AS m ON m.task_id = l.task_id AND NOT (m.theirs AND NOT m.their_removed AND m.their_hash = l.row_hash);

-- The row that counts follows them, if it is theirs, or where something came after ours.
CREATE TABLE last_rows AS
WITH moved AS (
    SELECT task_id, max(version) AS version
    FROM history
    GROUP BY task_id
)
SELECT m.task_id, m.theirs, if(m.theirs, m.their_hash, m.our_hash) AS row_hash,
    if(m.theirs, m.their_removed, m.our_removed) AS removed,
    if(m.our_version IS NULL, m.their_version, coalesce(v.version, m.our_version) + 1) AS version
FROM merged AS m
LEFT JOIN moved AS v ON v.task_id = m.task_id
WHERE m.theirs OR v.task_id IS NOT NULL;
"""

CURRENT = """
SELECT log.* EXCLUDE (filename, file_row_number, theirs) REPLACE (n.version AS version)
FROM last_rows AS n
JOIN rows_of_tasks AS r ON r.theirs = n.theirs AND r.task_id = n.task_id AND r.row_hash = n.row_hash
JOIN log ON log.filename = r.filename AND log.file_row_number = r.file_row_number
WHERE NOT n.removed
ORDER BY log.part, log.line, log.task_id
"""

HISTORY = """
SELECT log.* EXCLUDE (filename, file_row_number, theirs) REPLACE (h.version AS version)
FROM history AS h
JOIN log ON log.filename = h.filename AND log.file_row_number = h.file_row_number
ORDER BY log.task_id, h.version
"""


@dataclass(frozen=True)
class MergedTasks:
    """What became of another workspace's tasks of one dataset.

    added: unknown here. edited: their row is the newer one. returned: removed here, but not there. present: the same
    here, or removed there. different: they have another row, and the one here counts; example: one of these.
    """

    added: int = 0
    edited: int = 0
    returned: int = 0
    present: int = 0
    different: int = 0
    example: str = ""


def merge_tasks(source: Workspace, into: Workspace, dataset: str, rows_per_part: int, name: str) -> MergedTasks:
    """Append what this workspace lacks of a dataset's tasks. The caller holds the lock of `changing_tasks`.

    name: of this merge and this source, for its files.
    """
    ours, theirs = (_task_files(workspace, dataset) for workspace in (into, source))
    con = sql.connect(spill=spill_folder(into))
    files = sql.literal([escape(file) for file in (*ours, *theirs)])
    sql.run(con, LOG.format(theirs=sql.literal(theirs), files=files, dataset=sql.literal(dataset)))
    sql.run(con, COMPARE)
    [[first]] = sql.rows(con, "SELECT coalesce(max(part), -1) + 1 FROM log WHERE NOT theirs")
    for number, rows in enumerate(parts_of(_tables(con, CURRENT), rows_per_part), first):
        of_part = rows.set_column(
            rows.schema.get_field_index("part"), "part", pa.array([number] * len(rows), pa.int32())
        )
        write_part(into, "tasks", dataset, f"part-{number:05d}", of_part)
    # Under names of their own: `collect` reads a task's row from the file of its part, which has each task once.
    for number, rows in enumerate(parts_of(_tables(con, HISTORY), rows_per_part)):
        write_part(into, "tasks", dataset, f"history-{name}-{number:04d}", rows)
    removed = sql.records(
        con, "SELECT task_id, row_hash, version, removed FROM last_rows WHERE removed ORDER BY task_id"
    )
    if removed:
        rows = schema.table_of(schema.TASKS, [{**row, "dataset": dataset} for row in removed])
        write_part(into, "tasks", dataset, f"removed-{name}", rows)
    counts = dict(sql.rows(con, "SELECT change, count(*) FROM merged WHERE change <> 'gone' GROUP BY change"))
    [[example]] = sql.rows(con, "SELECT coalesce(min(task_id), '') FROM merged WHERE change = 'different'")
    return MergedTasks(**counts, example=example)


def count_tasks(source: Workspace, dataset: str) -> int:
    """How many tasks of a dataset a workspace has now."""
    con = sql.connect()
    files = sql.literal([escape(file) for file in _task_files(source, dataset)])
    query = f"""
        WITH newest AS (SELECT arg_max(removed, version) AS removed FROM read_parquet({files}) GROUP BY task_id)
        SELECT count(*) FROM newest WHERE NOT removed
    """
    return int(sql.rows(con, query)[0][0])


def _task_files(workspace: Workspace, dataset: str) -> list[str]:
    folder = str(workspace.root / "tasks" / dataset)
    return [file for file in find_parts(workspace.root, "tasks").files if file.startswith(f"{folder}/")]


def _tables(con: sql.Connection, query: str) -> Iterator[pa.Table]:
    for batch in sql.stream(con, query, sql.PAYLOAD_ROWS):
        yield pa.Table.from_batches([batch]).select(schema.TASKS.names).cast(schema.TASKS)
