"""Rows of input files as tables of tasks, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from rolloutops.config.settings import Dataset
from rolloutops.formats.columns import ENVIRONMENT_COLUMNS
from rolloutops.formats.prompt_template import PromptTemplate
from rolloutops.ingest.batches import is_long
from rolloutops.ingest.inputs import RawRow, parse_row
from rolloutops.ingest.media import media_folder
from rolloutops.ingest.processes import Processes
from rolloutops.ingest.row_shapes import RowShapes
from rolloutops.ingest.task_columns import StructColumns, TaskColumns, columns_of, read_prompt
from rolloutops.store import schema

READ = pa.schema([field for field in schema.TASKS if field.name not in ("version", "removed", "part")])
"""What of a task its row decides."""

Batch = list[tuple[Path, RawRow]]


class Rejected(NamedTuple):
    """A line that is not a task, as it is kept for the user."""

    origin: str
    line: int
    reason: str
    text: str


class ReadTasks(NamedTuple):
    """What a batch became."""

    rows: pa.Table
    rejected: Sequence[Rejected]
    shapes: RowShapes


class TaskSource(NamedTuple):
    """A dataset whose rows are read. places: where relative names of its media start."""

    name: str
    dataset: Dataset
    places: Sequence[Path]
    template: PromptTemplate | None


def read_in_processes(source: TaskSource, processes: int | None) -> Processes[Batch, ReadTasks]:
    """Processes that make tasks of batches."""
    return Processes(f"{__name__}:reader", source, processes, is_long)


def reader(source: TaskSource) -> Callable[[Batch], ReadTasks]:
    """The function that makes tasks of batches."""
    return TaskReader(source).read


class TaskReader:
    """Reads the rows of a dataset's input."""

    def __init__(self, source: TaskSource) -> None:
        self.name, self.dataset, places, self.template = source
        self._folder_of = cache(partial(media_folder, self.dataset, places=places))
        self._structs = StructColumns()
        self._read = (self.dataset.id or "", *ENVIRONMENT_COLUMNS.get(self.dataset.environment or "", ()))

    def read(self, batch: Batch) -> ReadTasks:
        """Make tasks of a batch, which is emptied: a long row is not held beside what is made of it."""
        shapes, rejected = RowShapes(), list[Rejected]()
        tasks: list[dict[str, Any]] = []
        batch.reverse()
        while batch:
            path, raw_row = batch.pop()
            line, raw, value, reason = parse_row(raw_row)
            del raw_row
            if value is not None:
                try:
                    task = self._task_of(path, line, value, shapes)
                    tasks.append({**task, "origin": str(path), "line": line, "row": raw})
                    del value, raw, task
                    continue
                except ValueError as error:
                    reason = str(error)
            text = raw[:2000].decode("utf-8", "replace")
            rejected.append(Rejected(str(path), line, reason or "", text))
        return ReadTasks(schema.drained_table(READ, tasks), rejected, shapes)

    def _task_of(self, path: Path, line: int, row: dict[str, Any], shapes: RowShapes) -> TaskColumns:
        filled = row if self.template is None else self.template.fill(row)
        found = read_prompt(self.dataset, filled, self._structs.of(path))
        task = columns_of(self.name, self.dataset, row, found.prompt, self._folder_of(path))
        shapes.add(found, f"{path}:{line}", self._read)
        return task
