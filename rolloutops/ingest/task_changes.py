"""Compare a dataset's staged tasks with the workspace's, and append what is new, edited, returned or removed.

Only keys are compared, so that memory does not grow with the size of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rolloutops.config.settings import Chunk
from rolloutops.errors import InputError
from rolloutops.ingest.staged_files import chosen_rows, parts_of
from rolloutops.store import schema, sql
from rolloutops.store.workspace import Workspace, connect, write_part

MEMORY, THREADS = "128MB", 2
"""What DuckDB may use to compare keys; more rows are spilled. Each thread needs its share of the memory."""

PROMPT_MEMORY = "2GB"
"""What it may use to read one prompt."""


@dataclass(frozen=True)
class ChangedPrompts:
    """Tasks that have the same row and another prompt. task_id, before, after: the first one, with its two prompts."""

    tasks: int
    task_id: str
    before: str
    after: str


COMPARE = """
SET memory_limit = {memory};
SET threads = {threads};
SET temp_directory = {spilled};
CREATE MACRO key_of(text) AS (hash(text) >> 1)::BIGINT;
CREATE VIEW staged AS SELECT * FROM read_parquet({staged});
CREATE VIEW own_log AS
    SELECT md5_number(task_id) AS id, * FROM task_log WHERE dataset = {dataset};
CREATE TABLE newest AS
    SELECT id, max(version) AS version, arg_max(key_of(row_hash), version) AS row_key,
        arg_max(key_of(split_part(row_hash, '/', 1)), version) AS row_before,
        arg_max(key_of(prompt_hash), version) AS prompt_key,
        arg_max(removed::BIGINT, version) = 1 AS removed, max(part) AS part
    FROM own_log GROUP BY id;
CREATE TABLE firsts AS
    SELECT md5_number(task_id) AS id, min(ordinal) AS ordinal, arg_min(key_of(row_hash), ordinal) AS row_key,
        arg_min(key_of(row_hash || '/' || prompt_hash), ordinal) AS both_key,
        arg_min(key_of(prompt_hash), ordinal) AS prompt_key,
        min(key_of(row_hash)) <> max(key_of(row_hash)) AS torn
    FROM staged GROUP BY id;
"""
"""Keys of both sides: texts as numbers, as DuckDB spills groups of numbers and keeps those of texts in memory. An id
becomes 128 bits, of which no two are ever equal by chance; hashes, compared only under one id, become 63."""

CHANGES = """
CREATE VIEW changed AS
    SELECT f.*, n.version, n.removed, n.row_before
    FROM firsts AS f LEFT JOIN newest AS n ON n.id = f.id
    WHERE n.id IS NULL OR n.removed OR n.prompt_key <> f.prompt_key OR n.row_key NOT IN (f.row_key, f.both_key);
-- Attempts are of a row's hash. Where it already stands for another prompt of an equal row (as an older reader
-- made it, or another prompt file), the prompt's hash is added to it, so that those attempts do not count.
CREATE TABLE taken AS
    SELECT DISTINCT c.id
    FROM (SELECT id, row_key, prompt_key FROM changed WHERE version IS NOT NULL) AS c
    JOIN own_log AS t ON t.id = c.id AND key_of(t.row_hash) = c.row_key
    WHERE key_of(t.prompt_hash) <> c.prompt_key AND t.prompt_hash IS NOT NULL;
CREATE TABLE fresh AS
    SELECT c.ordinal, coalesce(c.version + 1, 0) AS version, t.id IS NOT NULL AS taken,
        CASE WHEN c.version IS NULL THEN 'new' WHEN c.removed THEN 'returned' ELSE 'edited' END AS change,
        coalesce(NOT c.removed AND c.row_before = c.row_key, false) AS prompt_changed
    FROM changed AS c LEFT JOIN taken AS t ON t.id = c.id;
"""


def compare(workspace: Workspace, name: str, staging: Path) -> sql.Connection:
    """Compare the staged keys with the workspace's tasks: makes the tables newest, firsts and fresh.

    Raises InputError where two different staged rows have one id.
    """
    con = connect(workspace)
    texts = {"memory": MEMORY, "spilled": staging / "spilled", "staged": staging / "staged.parquet", "dataset": name}
    literals = {key: sql.literal(str(text)) for key, text in texts.items()}
    sql.run(con, COMPARE.format(threads=THREADS, **literals))
    _refuse_conflicts(con, name)
    sql.run(con, CHANGES)
    return con


class Appended(NamedTuple):
    """How many of the input's tasks were appended, by reason, how many are unchanged, and how many rows are double."""

    new: int
    edited: int
    returned: int
    unchanged: int
    duplicates: int


def append_tasks(workspace: Workspace, con: sql.Connection, name: str, settings: Chunk, staging: Path) -> Appended:
    """Append the tasks that are new, edited or returned."""
    changes = dict(sql.rows(con, "SELECT change, count(*) FROM fresh GROUP BY change"))
    known, total, last = sql.rows(
        con, "SELECT (SELECT count(*) FROM firsts), (SELECT count(*) FROM staged), (SELECT max(part) FROM newest)"
    )[0]
    following = 0 if last is None else last + 1
    for part, rows in enumerate(parts_of(_fresh_rows(con, staging), settings.rows_per_part), following):
        numbered = rows.append_column("part", pa.array([part] * len(rows), pa.int32())).select(schema.TASKS.names)
        write_part(workspace, "tasks", name, f"part-{part:05d}", numbered.cast(schema.TASKS))
    new, edited, returned = (changes.get(change, 0) for change in ("new", "edited", "returned"))
    return Appended(new, edited, returned, known - new - edited - returned, total - known)


def find_changed_prompts(con: sql.Connection, name: str) -> ChangedPrompts | None:
    """Find the tasks with the same row and another prompt; None if there are none. Call it before `append_tasks`."""
    tasks, ordinal = sql.rows(con, "SELECT count(*), min(ordinal) FROM fresh WHERE prompt_changed")[0]
    if not tasks:
        return None
    task_id, after = _long_row(con, f"SELECT task_id, prompt::VARCHAR FROM staged WHERE ordinal = {ordinal}")
    of_task = f"dataset = {sql.literal(name)} AND task_id = {sql.literal(task_id)}"
    newest = f"SELECT prompt::VARCHAR FROM task_log WHERE {of_task} ORDER BY version DESC LIMIT 1"
    return ChangedPrompts(tasks, task_id, _long_row(con, newest)[0], after)


def _long_row(con: sql.Connection, query: str) -> tuple[Any, ...]:
    """One row that holds a prompt, of any length."""
    sql.run(con, f"SET memory_limit = {sql.literal(PROMPT_MEMORY)}")
    (row,) = sql.rows(con, query)
    sql.run(con, f"SET memory_limit = {sql.literal(MEMORY)}")
    return row


def retire_tasks(workspace: Workspace, con: sql.Connection, name: str, run_id: str) -> int:
    """Mark the tasks that the input no longer holds as removed; return how many."""
    gone = sql.rows(
        con,
        """
        WITH gone AS (SELECT * FROM newest ANTI JOIN firsts USING (id) WHERE NOT removed)
        SELECT DISTINCT ON (task_id) t.task_id, t.row_hash, t.version, g.part
        FROM own_log AS t JOIN gone AS g ON g.id = t.id AND g.version = t.version
        ORDER BY task_id
        """,
    )
    if gone:
        stones = [
            {"dataset": name, "task_id": t, "row_hash": h, "version": v + 1, "removed": True, "part": p}
            for t, h, v, p in gone
        ]
        write_part(workspace, "tasks", name, f"removed-{run_id}", schema.table_of(schema.TASKS, stones))
    return len(gone)


def _refuse_conflicts(con: sql.Connection, name: str) -> None:
    if not sql.rows(con, "SELECT 1 FROM firsts WHERE torn LIMIT 1"):
        return
    found = sql.rows(
        con,
        """
        WITH torn AS (SELECT id FROM firsts WHERE torn),
        places AS (
            SELECT task_id, row_hash, arg_min(origin || ':' || line, ordinal) AS place, min(ordinal) AS ordinal
            FROM staged SEMI JOIN torn ON torn.id = md5_number(staged.task_id) GROUP BY task_id, row_hash
        )
        SELECT task_id, list(place ORDER BY ordinal)[1:2] FROM places GROUP BY task_id ORDER BY min(ordinal)
        """,
    )
    if found:
        task_id, (one, other) = found[0]
        more = f" (and {len(found) - 1} more such ids)" if len(found) > 1 else ""
        raise InputError(
            f"{name}: two different rows have the id {task_id!r}: {one} and {other}{more}; "
            "make the ids unique, or leave the id field out of the recipe. Nothing was written"
        )


def _fresh_rows(con: sql.Connection, staging: Path) -> Iterator[pa.Table]:
    """The staged rows that are fresh, with their versions; the prompt's hash is in the row's where that is taken."""
    query = "SELECT ordinal, version, taken FROM fresh ORDER BY ordinal"
    return map(_versioned, chosen_rows(con, query, staging / "staged.parquet", "ordinal"))


def _versioned(rows: pa.Table) -> pa.Table:
    both = pc.binary_join_element_wise(rows["row_hash"], rows["prompt_hash"], "/")
    hashes = pc.if_else(rows["taken"], both, rows["row_hash"])
    rows = rows.set_column(rows.schema.get_field_index("row_hash"), "row_hash", hashes)
    return rows.append_column("removed", pa.array([False] * len(rows), pa.bool_()))


def first_prompt(con: sql.Connection) -> str:
    """The prompt of the input's first task, as JSON text."""
    return str(_long_row(con, "SELECT prompt::VARCHAR FROM staged WHERE ordinal = 0")[0])
