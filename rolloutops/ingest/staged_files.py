"""Staged files: rows of any length, of which DuckDB sees the keys alone, and which are read back by their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rolloutops.store import sql

PART_BYTES = 64_000_000
"""Bytes after which a part gets no further task: `collect` has the tasks of a part in memory, and some ahead."""

LARGE = 16_000_000
"""Bytes of a row group that is not read all at once."""


def chosen_rows(con: sql.Connection, query: str, file: Path, key: str) -> Iterator[pa.Table]:
    """Read the rows of a file that a query chooses, a row group at a time: their columns and the query's.

    query: its first column holds the keys, in ascending order, and each once. key: the file's column of keys, which
    ascend. Columns of the file that the query has too are left out.
    """
    keys = _Keys(con, query)
    with pq.ParquetFile(file, pre_buffer=False) as opened:
        for group in range(opened.num_row_groups):
            there = opened.read_row_group(group, [key])[key]
            chosen = keys.until(there[-1].as_py()) if len(there) else None
            if chosen is not None and len(chosen):
                yield _group_rows(opened, group, there, chosen)


def _group_rows(file: pq.ParquetFile, group: int, there: pa.ChunkedArray, chosen: pa.Table) -> pa.Table:
    names = [name for name in file.schema_arrow.names if name not in chosen.column_names]
    rows = _read(file, group, names)
    if len(chosen) < len(rows):
        rows = rows.take(pc.index_in(chosen[0], value_set=there))
    for name, column in zip(chosen.column_names, chosen.columns, strict=True):
        rows = rows.append_column(name, column)
    return rows


def _read(file: pq.ParquetFile, group: int, names: list[str]) -> pa.Table:
    """Read a row group; a large one a column at a time, each without what the one before it was unpacked in."""
    if file.metadata.row_group(group).total_byte_size < LARGE:
        return file.read_row_group(group, names, use_threads=False)
    columns = []
    for name in names:
        columns.append(file.read_row_group(group, [name], use_threads=False)[name])
        pa.default_memory_pool().release_unused()
    return pa.table(columns, names=names)


class _Keys:
    """The rows of a query, read along with a file."""

    def __init__(self, con: sql.Connection, query: str) -> None:
        self._batches = sql.stream(con, query)
        self._held: pa.Table | None = None

    def until(self, last: int) -> pa.Table | None:
        """Take the next rows, those with keys of at most `last`."""
        while self._held is None or not len(self._held) or self._held[0][-1].as_py() <= last:
            batch = next(self._batches, None)
            if batch is None:
                break
            more = pa.Table.from_batches([batch])
            self._held = more if self._held is None else pa.concat_tables([self._held, more])
        if self._held is None:
            return None
        count = pc.sum(pc.less_equal(self._held[0], last)).as_py() or 0
        found, self._held = self._held.slice(0, count), self._held.slice(count)
        return found


def parts_of(tables: Iterable[pa.Table], max_rows: int, max_bytes: int = PART_BYTES) -> Iterator[pa.Table]:
    """Tables cut and joined so that each has max_rows rows, or fewer where rows are very large."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows, size = rows + len(table), size + table.nbytes
        del table  # of a part that is written, nothing is to be in memory when the next table is read
        while rows >= max_rows:
            last = held.pop()
            cut = len(last) - (rows - max_rows)
            held.append(last.slice(0, cut))
            rest = last.slice(cut)
            del last
            yield _joined(held)
            held += [rest] if len(rest) else []
            rows, size = len(rest), rest.nbytes
            del rest
        if size >= max_bytes:
            yield _joined(held)
            rows = size = 0
    if held:
        yield _joined(held)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Join tables, and take them out of their list."""
    whole = pa.concat_tables(tables)
    tables.clear()
    return whole
