"""Compare a dataset's staged tasks with the workspace's, and append what is new, edited, returned or removed.

Only keys are compared, so that memory does not grow with the size of rows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rolloutops.config.settings import Chunk
from rolloutops.errors import InputError
from rolloutops.store import schema, sql
from rolloutops.store.workspace import Workspace, connect, write_part

PART_BYTES = 64_000_000
"""Bytes after which a part gets no further task: `collect` has the tasks of a part in memory, and some ahead."""


@dataclass(frozen=True)
class ChangedPrompts:
    """Tasks that have the same row and another prompt. task_id, before, after: the first one, with its two prompts."""

    tasks: int
    task_id: str
    before: str
    after: str


def compare(workspace: Workspace, name: str, staging: Path) -> sql.Connection:
    """Compare the staged keys with the workspace's tasks: makes the tables newest, firsts and fresh.

    Raises InputError where two different staged rows have one id.
    """
    con = connect(workspace)
    staged = sql.literal(str(staging / "staged.parquet"))
    sql.run(
        con,
        f"""
        SET memory_limit = '1GB';
        SET temp_directory = {sql.literal(str(staging / "spilled"))};
        CREATE VIEW staged AS SELECT * FROM read_parquet({staged});
        CREATE TABLE newest AS
            SELECT task_id, max(version) AS version, arg_max(row_hash, version) AS row_hash,
                arg_max(prompt_hash, version) AS prompt_hash, arg_max(removed, version) AS removed, max(part) AS part
            FROM task_log WHERE dataset = {sql.literal(name)} GROUP BY task_id;
        CREATE TABLE firsts AS
            SELECT task_id, min(ordinal) AS ordinal, arg_min(row_hash, ordinal) AS row_hash,
                arg_min(prompt_hash, ordinal) AS prompt_hash
            FROM staged GROUP BY task_id;
        CREATE VIEW changed AS
            SELECT f.*, n.version, n.removed, split_part(n.row_hash, '/', 1) AS row_before
            FROM firsts AS f LEFT JOIN newest AS n ON n.task_id = f.task_id
            WHERE n.task_id IS NULL OR n.removed OR n.prompt_hash <> f.prompt_hash
                OR n.row_hash NOT IN (f.row_hash, f.row_hash || '/' || f.prompt_hash);
        -- Attempts are of a row's hash. Where it already stands for another prompt of an equal row (as an older reader
        -- made it, or another prompt file), the prompt's hash is added to it, so that those attempts do not count.
        CREATE TABLE taken AS
            SELECT DISTINCT c.task_id
            FROM changed AS c JOIN task_log AS t ON t.task_id = c.task_id AND t.row_hash = c.row_hash
            WHERE c.version IS NOT NULL AND t.dataset = {sql.literal(name)} AND t.prompt_hash <> c.prompt_hash;
        CREATE TABLE fresh AS
            SELECT c.ordinal, coalesce(c.version + 1, 0) AS version, t.task_id IS NOT NULL AS taken,
                CASE WHEN c.version IS NULL THEN 'new' WHEN c.removed THEN 'returned' ELSE 'edited' END AS change,
                coalesce(NOT c.removed AND c.row_before = c.row_hash, false) AS prompt_changed
            FROM changed AS c LEFT JOIN taken AS t ON t.task_id = c.task_id;
        """,
    )
    _refuse_conflicts(con, name)
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
    ordinals, versions, taken = array("q"), array("q"), array("b")
    for batch in sql.stream(con, "SELECT ordinal, version, taken FROM fresh ORDER BY ordinal"):
        for values, column in zip((ordinals, versions, taken), batch.columns, strict=True):
            values.extend(column.to_pylist())
    part = -1 if last is None else last
    for rows in cut_parts(_fresh_rows(staging, ordinals, versions, taken), settings.rows_per_part):
        part += 1
        numbered = rows.append_column("part", pa.array([part] * len(rows), pa.int32())).select(schema.TASKS.names)
        write_part(workspace, "tasks", name, f"part-{part:05d}", numbered.cast(schema.TASKS))
    new, edited, returned = (changes.get(change, 0) for change in ("new", "edited", "returned"))
    return Appended(new, edited, returned, known - new - edited - returned, total - known)


def find_changed_prompts(con: sql.Connection, name: str) -> ChangedPrompts | None:
    """Find the tasks with the same row and another prompt; None if there are none. Call it before `append_tasks`."""
    tasks, ordinal = sql.rows(con, "SELECT count(*), min(ordinal) FROM fresh WHERE prompt_changed")[0]
    if not tasks:
        return None
    task_id, after = sql.rows(con, f"SELECT task_id, prompt::VARCHAR FROM staged WHERE ordinal = {ordinal}")[0]
    of_task = f"dataset = {sql.literal(name)} AND task_id = {sql.literal(task_id)}"
    newest = f"SELECT prompt::VARCHAR FROM task_log WHERE {of_task} ORDER BY version DESC LIMIT 1"
    return ChangedPrompts(tasks, task_id, sql.rows(con, newest)[0][0], after)


def retire_tasks(workspace: Workspace, con: sql.Connection, name: str, run_id: str) -> int:
    """Mark the tasks that the input no longer holds as removed; return how many."""
    gone = sql.rows(
        con,
        "SELECT task_id, row_hash, version, part FROM newest ANTI JOIN staged USING (task_id) "
        "WHERE NOT removed ORDER BY task_id",
    )
    if gone:
        stones = [
            {"dataset": name, "task_id": t, "row_hash": h, "version": v + 1, "removed": True, "part": p}
            for t, h, v, p in gone
        ]
        write_part(workspace, "tasks", name, f"removed-{run_id}", schema.table_of(schema.TASKS, stones))
    return len(gone)


def _refuse_conflicts(con: sql.Connection, name: str) -> None:
    found = sql.rows(
        con,
        """
        WITH torn AS (SELECT task_id FROM staged GROUP BY task_id HAVING min(row_hash) <> max(row_hash)),
        firsts AS (
            SELECT task_id, row_hash, arg_min(origin || ':' || line, ordinal) AS place, min(ordinal) AS ordinal
            FROM staged SEMI JOIN torn USING (task_id) GROUP BY task_id, row_hash
        )
        SELECT task_id, list(place ORDER BY ordinal)[1:2] FROM firsts GROUP BY task_id ORDER BY min(ordinal)
        """,
    )
    if found:
        task_id, (one, other) = found[0]
        more = f" (and {len(found) - 1} more such ids)" if len(found) > 1 else ""
        raise InputError(
            f"{name}: two different rows have the id {task_id!r}: {one} and {other}{more}; "
            "make the ids unique, or leave the id field out of the recipe. Nothing was written"
        )


def _fresh_rows(
    staging: Path, ordinals: array[int], versions: array[int], with_prompt: array[int]
) -> Iterator[pa.Table]:
    """The staged rows with these ordinals, which ascend, with their versions; and where with_prompt is 1, with the
    prompt's hash in the row's."""
    start = 0
    # Row group by row group, which are bounded by bytes: a batch across them would not be.
    with pq.ParquetFile(staging / "staged.parquet", pre_buffer=False) as file:
        for batch in (one for group in range(file.num_row_groups) for one in file.iter_batches(row_groups=[group])):
            low, high = bisect_left(ordinals, start), bisect_left(ordinals, start + len(batch))
            if low < high:
                chosen = pa.array([ordinal - start for ordinal in ordinals[low:high]], pa.int64())
                rows = pa.Table.from_batches([batch]).take(chosen).drop_columns("ordinal")
                both = pc.binary_join_element_wise(rows["row_hash"], rows["prompt_hash"], "/")
                hashes = pc.if_else(pa.array(map(bool, with_prompt[low:high]), pa.bool_()), both, rows["row_hash"])
                rows = rows.set_column(rows.schema.get_field_index("row_hash"), "row_hash", hashes)
                rows = rows.append_column("version", pa.array(versions[low:high].tolist(), pa.int32()))
                yield rows.append_column("removed", pa.array([False] * len(rows), pa.bool_()))
            start += len(batch)


def cut_parts(tables: Iterator[pa.Table], rows_per_part: int) -> Iterator[pa.Table]:
    """Tables cut and joined so that each has rows_per_part rows, or fewer where rows are very large."""
    held: list[pa.Table] = []
    for table in tables:
        while len(table):
            room = rows_per_part - sum(map(len, held))
            held.append(table.slice(0, room))
            table = table.slice(room)
            if sum(map(len, held)) >= rows_per_part or sum(t.nbytes for t in held) >= PART_BYTES:
                yield pa.concat_tables(held)
                held = []
    if held:
        yield pa.concat_tables(held)


def first_prompt(con: sql.Connection) -> str:
    """The prompt of the input's first task, as JSON text."""
    return str(sql.rows(con, "SELECT prompt::VARCHAR FROM staged ORDER BY ordinal LIMIT 1")[0][0])
