"""The texts of a part's tasks, read as they are needed: a part may have gigabytes of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.store.damage import UNREADABLE, damaged, find_damage

COLUMNS = ("row", "prompt", "tools", "answer", "origin")
READ_BYTES = 4_000_000
"""Bytes that are read at once, on the average of a row group's rows."""
BUFFER_BYTES = 1_000_000
"""Compressed bytes of a column that are in memory."""


class TaskTexts(NamedTuple):
    """What a task is made of: row, prompt and tools are JSON in UTF-8."""

    row: bytes
    prompt: bytes
    tools: bytes | None
    answer: str | None
    origin: str


class TaskReader:
    """The tasks of a part file by their position. Reading on is cheap, going back begins anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start, self._rows = 0, list[TaskTexts]()
        self._left = self._read(0)

    def at(self, position: int) -> TaskTexts:
        """The texts of a task. position: in the file, from 0. Raises WorkspaceError for a file that is not whole."""
        try:
            if not self._start <= position < self._start + len(self._rows):
                if position < self._start:
                    self._left = self._read(position)
                while position >= self._start + len(self._rows):
                    self._rows = []  # before there are more
                    self._start, self._rows = next(self._left)
            return self._rows[position - self._start]
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise damaged(self._path, find_damage(self._path) or "") from error

    def _read(self, position: int) -> Iterator[tuple[int, list[TaskTexts]]]:
        """Batches of rows, each with the position of its first; the first batch is of the row group of `position`."""
        with pq.ParquetFile(self._path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            start = 0
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                if start + group.num_rows > position:
                    rows = max(1, min(group.num_rows, READ_BYTES * group.num_rows // max(group.total_byte_size, 1)))
                    at = start
                    for batch in file.iter_batches(rows, [number], list(COLUMNS), use_threads=False):
                        yield at, _texts(batch)
                        at += batch.num_rows
                start += group.num_rows


def _texts(batch: pa.RecordBatch) -> list[TaskTexts]:
    stored = [batch.column(name) for name in COLUMNS]
    plain = [column.storage.view(pa.binary()) if isinstance(column, pa.ExtensionArray) else column for column in stored]
    return list(map(TaskTexts._make, zip(*(column.to_pylist() for column in plain), strict=True)))
