"""The chunk stage: input files become tasks, in parts.

Rows are staged first and compared as keys, so memory does not grow with the input, and nothing is written where two
rows contradict each other. What the workspace already holds is left alone: only new, edited, removed and returned
tasks are appended.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.plan import Plan
from rolloutops.config.settings import Chunk, Dataset
from rolloutops.errors import InputError, UsageError
from rolloutops.formats.nemo_gym import agent_of
from rolloutops.formats.strict_json import digest, dump
from rolloutops.formats.task_rows import Prompt, answer_of_row, prompt_of_row
from rolloutops.ingest.inputs import Row, find_inputs, open_rows
from rolloutops.layout import count
from rolloutops.store import schema, sql
from rolloutops.store.scratch import scratch
from rolloutops.store.waiting import wait_for_lock
from rolloutops.store.workspace import Workspace, connect, write_part

BATCH_ROWS, BATCH_BYTES = 1000, 32_000_000
PART_BYTES = 256_000_000
STAGED = pa.schema(
    [*(f for f in schema.TASKS if f.name not in ("version", "removed", "part")), ("ordinal", pa.int64())]
)


@dataclass(frozen=True)
class ChunkReport:
    """What became of one dataset's input. Rows read = tasks of this input + duplicates + rejected."""

    dataset: str
    read: int
    new: int
    edited: int
    removed: int
    returned: int
    unchanged: int
    duplicates: int
    rejected: int
    rejected_file: Path | None
    examples: list[str]


def chunk(workspace: Workspace, plan: Plan, run_id: str) -> list[ChunkReport]:
    """Bring each dataset's tasks up to its input files.

    Raises InputError for files that cannot be read, or where two different rows have one id (nothing is written then).
    """
    return [_chunk(workspace, plan, name, paths, run_id) for name, paths in find_sources(plan).items()]


def find_sources(plan: Plan) -> dict[str, list[Path]]:
    """dataset -> its input files; a dataset without any, whose tasks were imported, is not among them.

    Raises UsageError or InputError where one has none, before anything is written.
    """
    if not plan.datasets:
        raise UsageError("the recipe names no dataset: add [datasets.NAME] with input = …, or give --input=FILE")
    imported = {name for name in plan.datasets if (plan.data / "tasks" / name).is_dir()}
    for name, dataset in plan.datasets.items():
        if not dataset.input and name not in imported:
            raise UsageError(f"dataset {name!r} has no input: add input = … to [datasets.{name}], or give --input=FILE")
    return {n: find_inputs(dataset.input, *plan.places) for n, dataset in plan.datasets.items() if dataset.input}


def _chunk(workspace: Workspace, plan: Plan, name: str, paths: Sequence[Path], run_id: str) -> ChunkReport:
    with changing_tasks(workspace, name), staging_folder(workspace, f"{run_id}-{name}") as staging:
        rows = ((path, row) for path in paths for row in open_rows(path))
        read, rejected, examples = stage_rows(staging, name, plan.datasets[name], rows)
        if not read:
            raise InputError(f"{name}: only blank lines in {', '.join(map(str, paths))}")
        if read == rejected:
            raise InputError(f"{name}: none of {count(read, 'line')} is a task; the first: {examples[0]}")
        con = compare(workspace, name, staging)
        report = append_tasks(workspace, con, name, plan.chunk, staging)
        removed = _retire(workspace, con, name, run_id)
        rejects = keep_rejects(workspace, staging, name, rejected)
        return ChunkReport(
            name, read, removed=removed, rejected=rejected, rejected_file=rejects, examples=examples, **report
        )


def changing_tasks(workspace: Workspace, name: str) -> AbstractContextManager[None]:
    """Hold the lock under which a dataset's tasks are changed, after waiting for who has it."""
    return wait_for_lock(workspace, f"{name}.chunk", f"reads the input of {name}")


def staging_folder(workspace: Workspace, name: str) -> AbstractContextManager[Path]:
    """Make a folder for what is not yet part of the workspace; it is gone when the block ends."""
    return scratch(workspace.root / "staging" / name)


def stage_rows(
    staging: Path, name: str, dataset: Dataset, rows: Iterable[tuple[Path, Row]]
) -> tuple[int, int, list[str]]:
    """Write accepted rows to staged.parquet and the rest to rejected.jsonl; count rows read and rejected."""
    ordinal = rejected = 0
    examples: list[str] = []
    batch: list[dict[str, Any]] = []
    size = 0
    with (
        pq.ParquetWriter(staging / "staged.parquet", STAGED, compression="zstd", compression_level=1) as writer,
        (staging / "rejected.jsonl").open("w", encoding="utf-8") as rejects,
    ):
        for path, row in rows:
            task, reason = None, row.reason
            if row.value is not None:
                try:
                    task = task_columns(name, dataset, row.value)
                except ValueError as error:
                    reason = str(error)
            if task is None:
                rejected += 1
                text = row.raw[:2000].decode("utf-8", "replace")
                rejects.write(dump({"origin": str(path), "line": row.line, "reason": reason, "text": text}) + "\n")
                if len(examples) < 3:
                    examples.append(f"{path}:{row.line}: {reason}")
                continue
            task |= {"origin": str(path), "line": row.line, "row": row.raw, "ordinal": ordinal}
            ordinal += 1
            batch.append(task)
            size += len(row.raw)
            del row  # its value, which may be large, is not needed while the batch is written
            if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                writer.write_table(schema.table_of(STAGED, batch))
                batch, task, size = [], None, 0
        writer.write_table(schema.table_of(STAGED, batch))
    return ordinal + rejected, rejected, examples


def task_columns(name: str, dataset: Dataset, row: dict[str, Any]) -> dict[str, Any]:
    """The columns that a row itself decides. Raises ValueError where it holds no prompt or no id."""
    try:
        prompt = prompt_of_row(row)
    except ValueError:
        if dataset.needs_prompt:
            raise
        prompt = Prompt([], None, {})
    row_hash = digest(row)
    messages = dump(prompt.messages)
    tools = dump(prompt.tools) if prompt.tools else None
    return {
        "dataset": name,
        "task_id": row_hash if dataset.id is None else _own_id(row, dataset.id),
        "row_hash": row_hash,
        "agent": agent_of(row),
        "prompt": messages,
        "tools": tools,
        "prompt_hash": digest([prompt.messages, prompt.tools or None]),
        "answer": answer_of_row(row),
    }


def _own_id(row: dict[str, Any], field_name: str) -> str:
    value: Any = row
    for step in field_name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"the id field {field_name!r} is missing, or neither text nor a whole number")
    return str(value)


def compare(workspace: Workspace, name: str, staging: Path) -> sql.Connection:
    """Compare the staged keys with the tasks at hand: the tables newest, firsts and fresh of the connection.

    Raises InputError where two different staged rows have one id.
    """
    con = connect(workspace)
    staged = sql.literal(str(staging / "staged.parquet"))
    sql.run(
        con,
        f"""
        SET memory_limit = '1GB';
        SET temp_directory = {sql.literal(str(staging / "spilled"))};
        CREATE VIEW staged AS SELECT task_id, row_hash, ordinal, origin, line FROM read_parquet({staged});
        CREATE TABLE newest AS
            SELECT task_id, max(version) AS version, arg_max(row_hash, version) AS row_hash,
                arg_max(removed, version) AS removed, max(part) AS part
            FROM task_log WHERE dataset = {sql.literal(name)} GROUP BY task_id;
        CREATE TABLE firsts AS
            SELECT task_id, min(ordinal) AS ordinal, arg_min(row_hash, ordinal) AS row_hash
            FROM staged GROUP BY task_id;
        CREATE TABLE fresh AS
            SELECT f.ordinal, coalesce(n.version + 1, 0) AS version,
                CASE WHEN n.task_id IS NULL THEN 'new' WHEN n.removed THEN 'returned' ELSE 'edited' END AS change
            FROM firsts AS f LEFT JOIN newest AS n ON n.task_id = f.task_id
            WHERE n.task_id IS NULL OR n.removed OR n.row_hash <> f.row_hash;
        """,
    )
    _refuse_conflicts(con, name)
    return con


def append_tasks(
    workspace: Workspace, con: sql.Connection, name: str, settings: Chunk, staging: Path
) -> dict[str, int]:
    """Append the tasks that are new, edited or returned; how many of each."""
    changes = dict(sql.rows(con, "SELECT change, count(*) FROM fresh GROUP BY change"))
    known, total, last = sql.rows(
        con, "SELECT (SELECT count(*) FROM firsts), (SELECT count(*) FROM staged), (SELECT max(part) FROM newest)"
    )[0]
    ordinals, versions = array("q"), array("q")
    for batch in sql.stream(con, "SELECT ordinal, version FROM fresh ORDER BY ordinal"):
        ordinals.extend(batch.column(0).to_pylist())
        versions.extend(batch.column(1).to_pylist())
    part = -1 if last is None else last
    for rows in _parts(_fresh_rows(staging, ordinals, versions), settings.rows_per_part):
        part += 1
        numbered = rows.append_column("part", pa.array([part] * len(rows), pa.int32())).select(schema.TASKS.names)
        write_part(workspace, "tasks", name, f"part-{part:05d}", numbered.cast(schema.TASKS))
    counts = {change: changes.get(change, 0) for change in ("new", "edited", "returned")}
    return {**counts, "unchanged": known - sum(counts.values()), "duplicates": total - known}


def _retire(workspace: Workspace, con: sql.Connection, name: str, run_id: str) -> int:
    """Append that the tasks which the input no longer holds are removed; how many."""
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


def _fresh_rows(staging: Path, ordinals: array[int], versions: array[int]) -> Iterator[pa.Table]:
    """The staged rows whose ordinals are wanted, in order, with their version."""
    start = 0
    # Row group by row group, which hold about BATCH_BYTES: a batch across them would hold BATCH_ROWS of any size.
    with pq.ParquetFile(staging / "staged.parquet", pre_buffer=False) as file:
        for batch in (one for group in range(file.num_row_groups) for one in file.iter_batches(row_groups=[group])):
            low, high = bisect_left(ordinals, start), bisect_left(ordinals, start + len(batch))
            if low < high:
                chosen = pa.array([ordinal - start for ordinal in ordinals[low:high]], pa.int64())
                rows = pa.Table.from_batches([batch]).take(chosen).drop_columns("ordinal")
                rows = rows.append_column("version", pa.array(versions[low:high].tolist(), pa.int32()))
                yield rows.append_column("removed", pa.array([False] * len(rows), pa.bool_()))
            start += len(batch)


def _parts(tables: Iterator[pa.Table], rows_per_part: int) -> Iterator[pa.Table]:
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


def keep_rejects(workspace: Workspace, staging: Path, name: str, rejected: int) -> Path | None:
    """The rejected lines of the newest input, for the user to mend; none is kept where there are none."""
    path = workspace.root / "rejected" / f"{name}.jsonl"
    if not rejected:
        path.unlink(missing_ok=True)
        return None
    path.parent.mkdir(exist_ok=True)
    os.replace(staging / "rejected.jsonl", path)
    return path
