"""Staged files: rows of any length, of which DuckDB sees the keys alone, and which are read back by their order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rolloutops.store import sql


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
    rows = file.read_row_group(group, names, use_threads=False)
    if len(chosen) < len(rows):
        rows = rows.take(pc.index_in(chosen[0], value_set=there))
    for name, column in zip(chosen.column_names, chosen.columns, strict=True):
        rows = rows.append_column(name, column)
    return rows


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
