"""Write the rows of many part files into one, checked: every page by its checksum, and every row by its hash."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.errors import WorkspaceError
from rolloutops.formats.strict_json import digest
from rolloutops.layout import count
from rolloutops.store import schema, sql
from rolloutops.store.base_views import KEYS, duckdb_type
from rolloutops.store.damage import UNREADABLE, damaged
from rolloutops.store.failpoints import failpoint
from rolloutops.store.manifest import COVERS, MergedFile, PartName, to_ranges
from rolloutops.store.parts import ID_COLUMNS
from rolloutops.store.workspace import hidden_name, new_file, sync

GROUP_BYTES = 16_000_000
"""Bytes of a row group of a merged file at most, unless one row has more."""
BATCH = 1024
"""Rows that are read at once."""
AT_ONCE = 1000
"""Files that one query compares."""


@dataclass(frozen=True)
class Source:
    """A file whose rows go into a merged one. covers: the parts that it is, or stands for. tier: merges so far."""

    path: Path
    rows: int
    size: int
    covers: frozenset[PartName]
    tier: int = 0


def fits(path: Path, table: str) -> bool:
    """Whether a part has no columns but those of its table. One of a newer version is left as it is."""
    try:
        return set(pq.read_schema(path).names) <= set(schema.TABLES[table].names)
    except UNREADABLE as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise damaged(path, str(error).split("\n")[0][:200]) from error


@dataclass(frozen=True)
class LeftOut:
    """Rows of a dataset that are to be on disk no more. file: a Parquet file with their `table`, `dataset` and `id`.
    spill: where queries over it may spill to."""

    file: Path
    dataset: str
    spill: Path

    def ids(self, table: str) -> str:
        """A query for the ids of the rows of a table."""
        return (
            f"SELECT id FROM read_parquet({sql.literal(escape(str(self.file)))}) "
            f'WHERE "table" = {sql.literal(table)} AND dataset = {sql.literal(self.dataset)}'
        )

    def ids_in(self, path: Path, table: str) -> set[str]:
        """The ids of those that a file holds."""
        column, file = ID_COLUMNS[table], sql.literal([escape(str(path))])
        with sql.connect(threads=1, spill=self.spill) as con:
            found = sql.rows(con, f"SELECT {column} FROM read_parquet({file}) WHERE {column} IN ({self.ids(table)})")
        return {name for (name,) in found}


def merge(
    path: Path, table: str, sources: Sequence[Source], once: bool = False, left_out: LeftOut | None = None
) -> MergedFile:
    """Write a merged file and compare it with what it was made of; it is on disk when this returns.

    once: rows of one name may be in several sources, and come once. left_out: rows that do not come. Raises
    WorkspaceError for a damaged source, and FileNotFoundError for one that is gone.
    """
    covers = frozenset[PartName]().union(*(source.covers for source in sources))
    metadata = {COVERS: json.dumps(to_ranges(covers)).encode()}
    columns = schema.TABLES[table].with_metadata(metadata)
    with new_file(path) as file:
        rows = _write(file, columns, _batches(table, sources, once, left_out))
        failpoint("compact-before-sync")
        file.flush()
        os.fsync(file.fileno())
        _compare(hidden_name(path), table, sources, once, rows, left_out)
        failpoint("compact-before-rename")
    failpoint("compact-after-rename")
    sync(path.parent)
    replaced = digest([[source.path.name, source.rows, source.size] for source in sources])
    tier = max(source.tier for source in sources) + 1
    return MergedFile(table, path.stem, rows, path.stat().st_size, tier, replaced)


def _write(file: BinaryIO, columns: pa.Schema, batches: Iterator[pa.Table]) -> int:
    """Write row groups of as many rows or bytes as they may have. Returns the rows."""
    encoding = schema.encoding_of(columns)
    held: list[pa.Table] = []
    rows = total = size = 0
    with pq.ParquetWriter(file, columns, compression="zstd", write_page_checksum=True, **encoding) as writer:

        def flush() -> None:
            nonlocal rows, size
            if held:
                writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=schema.GROUP_ROWS)
                held.clear()
                rows = size = 0

        for batch in batches:
            if held and (rows + len(batch) > schema.GROUP_ROWS or size + batch.nbytes > GROUP_BYTES):
                flush()
            held.append(batch.replace_schema_metadata(columns.metadata))
            rows, size, total = rows + len(batch), size + batch.nbytes, total + len(batch)
        flush()
    return total


def _batches(table: str, sources: Sequence[Source], once: bool, left_out: LeftOut | None) -> Iterator[pa.Table]:
    """The rows of the sources, in the types of the table."""
    columns, seen = schema.TABLES[table], set[tuple[object, ...]]()
    keys = [name.strip() for name in KEYS[table].split(",")]
    for source in sources:
        gone = left_out.ids_in(source.path, table) if left_out else ()
        try:
            with pq.ParquetFile(source.path, page_checksum_verification=True, pre_buffer=False) as opened:
                for batch in opened.iter_batches(BATCH, use_threads=False):
                    rows = _conformed(batch, columns)
                    if gone:
                        rows = without(rows, ID_COLUMNS[table], gone)
                    if once:
                        names = list(zip(*(rows[key].to_pylist() for key in keys), strict=True))
                        fresh = [name not in seen and not seen.add(name) for name in names]  # type: ignore[func-returns-value]
                        rows = rows.filter(pa.array(fresh, pa.bool_()))
                    yield rows
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            raise damaged(source.path, str(error).split("\n")[0][:200]) from error


def without(rows: pa.Table, column: str, ids: Collection[str]) -> pa.Table:
    """The rows whose column is none of some ids."""
    return rows.filter(pa.array([name not in ids for name in rows[column].to_pylist()], pa.bool_()))


def _conformed(batch: pa.RecordBatch, columns: pa.Schema) -> pa.Table:
    """Rows with all columns of a table, in its types and order; what a part lacks is null."""
    found = []
    for column in columns:
        storage = pa.string() if column.type == schema.JSON else column.type
        if column.name not in batch.schema.names:
            values = pa.nulls(len(batch), storage)
        else:
            values = batch.column(column.name)
            if values.type == column.type:
                found.append(values)
                continue
            values = getattr(values, "storage", values).cast(storage)
        found.append(pa.ExtensionArray.from_storage(schema.JSON, values) if column.type == schema.JSON else values)
    return pa.Table.from_arrays(found, schema=columns)


def _compare(
    path: Path, table: str, sources: Sequence[Source], once: bool, rows: int, left_out: LeftOut | None
) -> None:
    """Make sure that a merged file holds the rows of its sources, each of which is hashed over all columns."""
    files = [str(source.path) for source in sources]
    with sql.connect(threads=1, spill=left_out.spill if left_out else None) as con:
        got = _hash_of(con, table, [str(path)], False, None)
        if once:
            want = _hash_of(con, table, files, True, left_out)
        else:
            found = [
                _hash_of(con, table, files[at : at + AT_ONCE], False, left_out) for at in range(0, len(files), AT_ONCE)
            ]
            want = sum(rows for rows, _ in found), sum(hashes for _, hashes in found)
    if got != want or got[0] != rows:
        raise WorkspaceError(
            f"{count(len(files), 'part file')} of {table} would not be the same once merged (before: "
            f"{count(want[0], 'row')}, after: {got[0]:,}): nothing was changed; run check --deep"
        )


def _hash_of(
    con: sql.Connection, table: str, files: Collection[str], once: bool, left_out: LeftOut | None
) -> tuple[int, int]:
    """How many rows files have that are not left out, and the sum of their hashes."""
    there = set[str]().union(*(pq.read_schema(file).names for file in files))
    kinds = {f.name: "VARCHAR" if f.type == schema.JSON else duckdb_type(f.type) for f in schema.TABLES[table]}
    columns = ", ".join(f"{name if name in there else 'NULL'}::{kind} AS {name}" for name, kind in kinds.items())
    source = f"read_parquet({sql.literal([escape(file) for file in files])}, union_by_name = true)"
    distinct = f"DISTINCT ON ({KEYS[table]})" if once else ""
    kept = f"WHERE coalesce({ID_COLUMNS[table]} NOT IN ({left_out.ids(table)}), true)" if left_out else ""
    query = f"SELECT count(*), coalesce(sum(hash(t)), 0) FROM (SELECT {distinct} {columns} FROM {source} {kept}) AS t"
    found = sql.rows(con, query)[0]
    return int(found[0]), int(found[1])


def merged_part(path: Path, covers: Collection[PartName], tier: int) -> Source:
    """A merged file as a source of the next one."""
    return Source(path, int(pq.read_metadata(path).num_rows), path.stat().st_size, frozenset(covers), tier)
