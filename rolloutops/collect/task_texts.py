"""The texts of a part's tasks, read as they are needed: a part may have gigabytes of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.formats.strict_json import read
from rolloutops.store.damage import UNREADABLE, damaged, find_damage

JSON_COLUMNS = ("row", "prompt", "tools")
COLUMNS = (*JSON_COLUMNS, "answer", "origin")
READ_BYTES = 2_000_000
"""Bytes that are read at once, on the average of a row group's rows."""
BUFFER_BYTES = 1_000_000
"""Compressed bytes of a column that are in memory."""


class TaskColumns(NamedTuple):
    """What a task is made of: row, prompt and tools are parsed, each beside the length of its JSON in bytes."""

    row: tuple[Any, int]
    prompt: tuple[Any, int]
    tools: tuple[Any, int]
    answer: str | None
    origin: str


class TaskReader:
    """The tasks of a part file by their position. Reading on is cheap, going back begins anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start, self._rows = 0, list[TaskColumns | None]()
        self._left = self._read(0)
        self._last: tuple[int, TaskColumns] | None = None

    def take(self, position: int) -> TaskColumns:
        """Read a task; only the last one is held, whose other repeats may be asked for next. position: in the file,
        from 0. Raises WorkspaceError for a file that is not whole."""
        if self._last is not None and self._last[0] == position:
            return self._last[1]
        try:
            place = position - self._start
            if place < 0 or (place < len(self._rows) and self._rows[place] is None):
                self._rows, self._left = [], self._read(position)
            while position >= self._start + len(self._rows):
                self._rows = []  # before there are more
                self._start, self._rows = next(self._left)
            place = position - self._start
            task, self._rows[place] = self._rows[place], None
            assert task is not None
            self._last = position, task
            return task
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise damaged(self._path, find_damage(self._path) or "") from error

    def _read(self, position: int) -> Iterator[tuple[int, list[TaskColumns | None]]]:
        """Batches of rows, each with the position of its first; the first batch is of the row group of `position`."""
        with pq.ParquetFile(self._path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            start = 0
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                end = start + group.num_rows
                if end > position:
                    rows = max(1, READ_BYTES * group.num_rows // max(group.total_byte_size, 1))
                    columns = [_column(file, number, name, min(rows, group.num_rows)) for name in COLUMNS]
                    for values in zip(*columns, strict=True):
                        tasks = list(map(TaskColumns._make, zip(*values, strict=True)))
                        del values
                        yield start, [*tasks]
                        start += len(tasks)
                        del tasks
                start = end


def _column(file: pq.ParquetFile, group: int, name: str, rows: int) -> Iterator[list[Any]]:
    """A column of a row group, in lists of so many values. Of a long text there are two copies while it is read, and
    one when it is."""
    left = file.metadata.row_group(group).num_rows
    batches = file.iter_batches(rows, [group], [name], use_threads=False)
    while left:
        column = next(batches).column(0)
        left -= len(column)
        if not left:
            batches.close()  # it holds a page, which may be as large as all of its texts
        if name in JSON_COLUMNS:
            texts, size = column.storage.view(pa.binary()).to_pylist(), column.nbytes
            del column
            if size > READ_BYTES:
                pa.default_memory_pool().release_unused()  # else it keeps what it had for page and column
            yield _parsed(texts)
        else:
            yield column.to_pylist()


def _parsed(texts: list[bytes | None]) -> list[tuple[Any, int]]:
    """JSON with its length; each text is gone when it is parsed."""
    texts.reverse()
    parsed = []
    while texts:
        text = texts.pop()
        parsed.append((read(text), len(text)) if text else (None, 0))
    return parsed
