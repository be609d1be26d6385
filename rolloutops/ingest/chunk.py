"""The chunk stage: input files become tasks, in parts.

Rows are staged first and compared as keys, so memory does not grow with the input, and nothing is written where two
rows contradict each other. What the workspace already holds is left alone: only new, edited, removed and returned
tasks are appended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.plan import Plan
from rolloutops.config.settings import Dataset
from rolloutops.errors import InputError, UsageError
from rolloutops.formats.columns import ENVIRONMENT_COLUMNS
from rolloutops.formats.prompt_template import PromptTemplate
from rolloutops.formats.strict_json import digest, dump
from rolloutops.formats.task_rows import (
    READER,
)
from rolloutops.ingest.inputs import Row, find_inputs, open_rows
from rolloutops.ingest.media import media_folder
from rolloutops.ingest.prompt_files import read_template
from rolloutops.ingest.row_shapes import RowShapes
from rolloutops.ingest.task_changes import (
    ChangedPrompts,
    append_tasks,
    compare,
    find_changed_prompts,
    first_prompt,
    retire_tasks,
)
from rolloutops.ingest.task_columns import StructColumns, TaskColumns, columns_of, read_prompt
from rolloutops.layout import count
from rolloutops.store import schema
from rolloutops.store.scratch import scratch
from rolloutops.store.waiting import wait_for_lock
from rolloutops.store.workspace import Workspace

BATCH_ROWS, BATCH_BYTES = 1000, 32_000_000
STAGED = pa.schema(
    [*(f for f in schema.TASKS if f.name not in ("version", "removed", "part")), ("ordinal", pa.int64())]
)


class StagedTask(TaskColumns):
    """A staged task: where its row stands, and the row as received."""

    origin: str
    line: int
    row: bytes
    ordinal: int


@dataclass(frozen=True)
class ChunkReport:
    """What chunk did with one dataset's input. Rows read = tasks of this input + duplicates + rejected.

    edited: tasks with another row, and tasks with the same row and another prompt, which are `changed_prompts`. shapes:
    how the rows were read. first_prompt: the input's first one, if a prompt file made it. read_by: see `read_by`."""

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
    shapes: RowShapes
    changed_prompts: ChangedPrompts | None
    first_prompt: str | None
    read_by: str


class Staged(NamedTuple):
    """What `stage_rows` read."""

    read: int
    rejected: int
    examples: list[str]
    shapes: RowShapes


class Source(NamedTuple):
    """Where a dataset's tasks come from."""

    paths: Sequence[Path]
    template: PromptTemplate | None


def chunk(workspace: Workspace, plan: Plan, sources: Mapping[str, Source], run_id: str) -> list[ChunkReport]:
    """Bring each dataset's tasks up to its input files. sources: from `find_sources`.

    Raises InputError for files that cannot be read, or where two different rows have one id (nothing is written then).
    """
    return [_chunk(workspace, plan, name, source, run_id) for name, source in sources.items()]


def find_sources(plan: Plan) -> dict[str, Source]:
    """dataset -> its input and its prompt file; a dataset without input, whose tasks were imported, is not among them.

    Raises UsageError or InputError where one has none, before anything is written.
    """
    if not plan.datasets:
        raise UsageError("the recipe names no dataset: add [datasets.NAME] with input = …, or give --input=FILE")
    imported = {name for name in plan.datasets if (plan.data / "tasks" / name).is_dir()}
    for name, dataset in plan.datasets.items():
        if not dataset.input and name not in imported:
            raise UsageError(f"dataset {name!r} has no input: add input = … to [datasets.{name}], or give --input=FILE")
    return {
        name: Source(find_inputs(dataset.input, *plan.places), read_template(name, dataset, plan.places))
        for name, dataset in plan.datasets.items()
        if dataset.input
    }


def _chunk(workspace: Workspace, plan: Plan, name: str, source: Source, run_id: str) -> ChunkReport:
    paths, template = source
    with changing_tasks(workspace, name), staging_folder(workspace, f"{run_id}-{name}") as staging:
        rows = ((path, row) for path in paths for row in open_rows(path))
        read, rejected, examples, shapes = stage_rows(staging, name, plan, rows, template)
        if not read:
            raise InputError(f"{name}: only blank lines in {', '.join(map(str, paths))}")
        if read == rejected:
            raise InputError(f"{name}: none of {count(read, 'line')} is a task; the first: {examples[0]}")
        con = compare(workspace, name, staging)
        changed_prompts = find_changed_prompts(con, name)
        report = append_tasks(workspace, con, name, plan.chunk, staging)
        removed = retire_tasks(workspace, con, name, run_id)
        rejects = keep_rejects(workspace, staging, name, rejected)
        return ChunkReport(
            *(name, read),
            **report._asdict(),
            removed=removed,
            rejected=rejected,
            rejected_file=rejects,
            examples=examples,
            shapes=shapes,
            changed_prompts=changed_prompts,
            first_prompt=first_prompt(con) if template is not None else None,
            read_by=read_by(plan.datasets[name], template),
        )


def read_by(dataset: Dataset, template: PromptTemplate | None) -> str:
    """Name what makes tasks of rows: the reader's version, and the dataset's settings that it heeds."""
    settings = [dataset.id, dataset.needs_prompt, dataset.last_turn, dataset.media_root, dataset.max_media_bytes]
    return digest([READER, *settings, template and template.hash()])


def changing_tasks(workspace: Workspace, name: str) -> AbstractContextManager[None]:
    """Hold the lock under which a dataset's tasks are changed, after waiting for who has it."""
    return wait_for_lock(workspace, f"{name}.chunk", f"reads the input of {name}")


def staging_folder(workspace: Workspace, name: str) -> AbstractContextManager[Path]:
    """Make a folder for what is not yet part of the workspace; it is gone when the block ends."""
    return scratch(workspace.root / "staging" / name)


def stage_rows(
    staging: Path,
    name: str,
    plan: Plan,
    rows: Iterable[tuple[Path, Row]],
    template: PromptTemplate | None,
) -> Staged:
    """Write accepted rows to staged.parquet and the rest to rejected.jsonl."""
    dataset = plan.datasets[name]
    folder_of = cache(partial(media_folder, dataset, places=plan.places))
    ordinal = rejected = 0
    examples: list[str] = []
    shapes, structs = RowShapes(), StructColumns()
    read = (dataset.id or "", *ENVIRONMENT_COLUMNS.get(dataset.environment or "", ()))

    def task_of(path: Path, line: int, row: dict[str, Any]) -> TaskColumns:
        found = read_prompt(dataset, row if template is None else template.fill(row), structs.of(path))
        task = columns_of(name, dataset, row, found.prompt, folder_of(path))
        shapes.add(found, f"{path}:{line}", read)
        return task

    batch: list[StagedTask] = []
    size = 0
    with (
        pq.ParquetWriter(
            staging / "staged.parquet",
            STAGED,
            compression="zstd",
            compression_level=1,
            **schema.encoding_of(STAGED),
        ) as writer,
        (staging / "rejected.jsonl").open("w", encoding="utf-8") as rejects,
    ):
        for path, row in rows:
            task, reason = None, row.reason
            if row.value is not None:
                try:
                    task = task_of(path, row.line, row.value)
                except ValueError as error:
                    reason = str(error)
            if task is None:
                rejected += 1
                text = row.raw[:2000].decode("utf-8", "replace")
                rejects.write(dump({"origin": str(path), "line": row.line, "reason": reason, "text": text}) + "\n")
                if len(examples) < 3:
                    examples.append(f"{path}:{row.line}: {reason}")
                continue
            batch.append({**task, "origin": str(path), "line": row.line, "row": row.raw, "ordinal": ordinal})
            ordinal += 1
            size += len(row.raw)
            del row  # its value, which may be large, is not needed while the batch is written
            if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                writer.write_table(schema.table_of(STAGED, batch))
                batch, task, size = [], None, 0
        writer.write_table(schema.table_of(STAGED, batch))
    return Staged(ordinal + rejected, rejected, examples, shapes)


def keep_rejects(workspace: Workspace, staging: Path, name: str, rejected: int) -> Path | None:
    """The rejected lines of the newest input, for the user to mend; none is kept where there are none."""
    path = workspace.root / "rejected" / f"{name}.jsonl"
    if not rejected:
        path.unlink(missing_ok=True)
        return None
    path.parent.mkdir(exist_ok=True)
    os.replace(staging / "rejected.jsonl", path)
    return path
