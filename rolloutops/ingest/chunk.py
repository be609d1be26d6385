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
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.plan import Plan
from rolloutops.config.settings import Dataset
from rolloutops.errors import InputError, UsageError
from rolloutops.formats.prompt_template import PromptTemplate
from rolloutops.formats.strict_json import digest, dump
from rolloutops.formats.task_rows import READER
from rolloutops.ingest.batches import batches
from rolloutops.ingest.inputs import RawRow, find_inputs, unparsed_rows
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
from rolloutops.ingest.task_reader import READ, TaskSource, read_in_processes
from rolloutops.ingest.unchanged_input import Unchanged, find_unchanged
from rolloutops.layout import count
from rolloutops.store import schema
from rolloutops.store.scratch import scratch
from rolloutops.store.waiting import wait_for_lock
from rolloutops.store.workspace import Workspace

STAGED = READ.append(pa.field("ordinal", pa.int64()))


@dataclass(frozen=True)
class ChunkReport:
    """What chunk did with one dataset's input. Rows read = tasks of this input + duplicates + rejected.

    edited: tasks with another row, and tasks with the same row and another prompt, which are `changed_prompts`. shapes:
    how the rows were read, if they were. first_prompt: the input's first one, if a prompt file made it. reread: see
    RowShapes. read_by: see `read_by`."""

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
    reread: int
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
    present = read_by(plan.datasets[name], template)
    with changing_tasks(workspace, name), staging_folder(workspace, f"{run_id}-{name}") as staging:
        same = find_unchanged(workspace, name, paths, present) if template is None else None
        if same is not None:
            keep_rejects(workspace, staging, name, 0)
            return _nothing_changed(name, same, present)
        files = ((path, unparsed_rows(path)) for path in paths)
        read, rejected, examples, shapes = stage_rows(staging, name, plan, files, template)
        if not read:
            files_read = ", ".join(map(str, paths))
            raise InputError(f"{name}: only blank lines in {files_read}; regenerate it, or remove it from the input")
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
            reread=shapes.reread,
            read_by=present,
        )


def _nothing_changed(name: str, same: Unchanged, read_by: str) -> ChunkReport:
    """The report on an input whose lines are those of the tasks."""
    return ChunkReport(
        name,
        read=same.lines,
        new=0,
        edited=0,
        removed=0,
        returned=0,
        unchanged=same.tasks,
        duplicates=same.lines - same.tasks,
        rejected=0,
        rejected_file=None,
        examples=[],
        shapes=RowShapes(),
        changed_prompts=None,
        first_prompt=None,
        reread=0,
        read_by=read_by,
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
    files: Iterable[tuple[Path, Iterable[RawRow]]],
    template: PromptTemplate | None,
) -> Staged:
    """Write accepted rows to staged.parquet and the rest to rejected.jsonl. files: each with its rows."""
    source = TaskSource(name, plan.datasets[name], plan.places, template)
    ordinal = rejected = 0
    examples: list[str] = []
    shapes = RowShapes()
    with (
        pq.ParquetWriter(
            staging / "staged.parquet",
            STAGED,
            compression="zstd",
            compression_level=1,
            **schema.encoding_of(STAGED),
        ) as writer,
        (staging / "rejected.jsonl").open("w", encoding="utf-8") as rejects,
        read_in_processes(source, plan.chunk.processes) as processes,
    ):
        for found in processes.map(batches(files)):
            for reject in found.rejected:
                rejects.write(dump(reject._asdict()) + "\n")
            rejected += len(found.rejected)
            examples += [f"{one.origin}:{one.line}: {one.reason}" for one in found.rejected[: 3 - len(examples)]]
            shapes.update(found.shapes)
            ordinals = pa.array(range(ordinal, ordinal + len(found.rows)), pa.int64())
            ordinal += len(found.rows)
            writer.write_table(found.rows.append_column(STAGED.field("ordinal"), ordinals))
            del found
    pa.default_memory_pool().release_unused()
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
