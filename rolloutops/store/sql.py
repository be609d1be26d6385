"""The one door to DuckDB, whose Python API differs between 1.5 and 2.0: connections, results, literals."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rolloutops.config.query_limits import query_limits
from rolloutops.errors import StepError, WorkspaceError
from rolloutops.store.damage import damaged, find_damage
from rolloutops.store.definitions import make_named
from rolloutops.store.parsed import files_of_view
from rolloutops.store.refresh import retry_if_gone

Connection = duckdb.DuckDBPyConnection
Error = duckdb.Error

CORRUPT = re.compile(
    r"No magic bytes|too small to be|Could not read enough|[Cc]orrupt|TProtocol|[Tt]hrift|Decompress|[Ss]nappy|"
    r"don't know what type|out of range|Failed to read|Invalid Input Error: Failed"
)
"""What DuckDB says of Parquet files that are not whole."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES)


@contextmanager
def _name_damage(con: Connection) -> Iterator[None]:
    """A Parquet file that is not whole is a WorkspaceError that names it; what the disk refuses is an OSError."""
    try:
        yield
    except (Error, pa.ArrowException) as error:
        said = str(error)
        _raise_if_disk(con, error, said)
        if not CORRUPT.search(said):
            raise
        named = re.search(r"""['"]([^'"\n]+\.parquet)['"]""", said)
        for file in [named[1]] if named else _parts_behind(con):
            if (why := find_damage(Path(file))) is not None:
                raise damaged(Path(file), why) from error
        raise


def _raise_if_disk(con: Connection, error: Exception, text: str) -> None:
    """Raise what DuckDB met on the disk as Python's own error; what does not fit into memory, as a sentence."""
    full = os.strerror(errno.ENOSPC) in text
    if isinstance(error, duckdb.OutOfMemoryException):
        if full or "offload" in text or "max_temp_directory_size" in text:
            raise _no_room(con) from error
        memory = query_limits().memory
        size = f"{memory / 10**9:.1f} GB" if memory >= 10**9 else f"{memory // 10**6} MB"
        raise WorkspaceError(
            f"a query needs more than its memory limit, {size}: raise memory_limit, e.g. "
            "with --memory_limit=75%, or lower threads"
        ) from error
    if not isinstance(error, duckdb.IOException):
        return
    if full and "duckdb_temp" in text:
        raise _no_room(con) from error
    for number in DISK:
        if os.strerror(number) in text:
            file = re.search(r"""[Ff]ile \\?["']([^"'\\\n]+)""", text)
            raise OSError(number, os.strerror(number), *([file[1]] if file else [])) from error


def _no_room(con: Connection) -> WorkspaceError:
    """The sentence for a full disk under the folder to which queries spill."""
    folder = con.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]
    return WorkspaceError(
        f"no space is left in {Path(folder).parent}, to which queries spill: free some, "
        "name another folder with temp_directory, or raise memory_limit"
    )


def _parts_behind(con: Connection) -> list[str]:
    """The Parquet files that a connection's views read."""
    views = con.execute("SELECT sql FROM duckdb_views() WHERE NOT internal").fetchall()
    found = {pattern for (text,) in views if "read_parquet" in text for pattern in files_of_view(text)}
    return sorted(file for pattern in found for file in glob(pattern))


def connect(threads: int | None = None, spill: Path | None = None) -> Connection:
    """A fresh in-memory database within the limits of `query_limits`. Results do not depend on `threads`.

    threads: as many, whatever the limits say. spill: the folder for what does not fit into memory, of this connection
    alone; by default `.tmp`, here. DuckDB makes it when it needs it, and takes it away with the connection.
    """
    limits = query_limits()
    con = duckdb.connect()
    con.execute(f"SET enable_progress_bar = false; SET TimeZone = 'UTC'; SET memory_limit = '{limits.memory}B'")
    # Else the few rows that a join or filter leaves of each chunk are put together to 2,048, of texts of any length.
    # Some operators do that still, unless a list is among the columns.
    con.execute("SET enable_caching_operators = false")
    # Else the allocator holds up to 512 MB of what a query took, and the next one's memory comes on top.
    con.execute("SET allocator_bulk_deallocation_flush_threshold = '16MB'")
    if threads or limits.threads:
        con.execute(f"SET threads = {threads or limits.threads}")
    if spill is not None:
        con.execute(f"SET temp_directory = {literal(str(spill))}")
    return con


def run(con: Connection, script: str) -> None:
    """Statements for their effect: views, tables, COPY; none at all is fine."""
    if script.strip():
        with _name_damage(con):
            retry_if_gone(con, lambda: make_named(con, script))
            _execute(con, script)


def _execute(con: Connection, script: str) -> None:
    """Run statements one by one, so that one whose file is gone is run again, and what precedes it is not."""
    for statement in con.extract_statements(script):
        retry_if_gone(con, lambda statement=statement: con.execute(statement).fetchall())  # type: ignore[misc]


def rows(con: Connection, query: str) -> list[tuple[Any, ...]]:
    """All rows of a small result, as tuples."""
    return table(con, query)[1]


def records(con: Connection, query: str) -> list[dict[str, Any]]:
    """All rows of a small result, as dicts."""
    names, found = table(con, query)
    return [dict(zip(names, row, strict=True)) for row in found]


def table(con: Connection, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """A small result: its columns and all of its rows, as tuples."""
    with _name_damage(con):
        return retry_if_gone(con, lambda: _table(con, query))


def _table(con: Connection, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    make_named(con, query)
    result = con.execute(query)  # a relation (con.sql) would be bound twice, and its files be opened twice
    return [name for name, *_ in result.description or ()], result.fetchall()


def columns(con: Connection, query: str) -> dict[str, str]:
    """Column name -> DuckDB type of a query, without running it."""
    return {name: kind for name, kind, *_ in rows(con, f"DESCRIBE {query}")}


def names(con: Connection, query: str) -> list[str]:
    """The columns of a query in order, also where two have one name, without running it."""
    return [name for name, *_ in rows(con, f"DESCRIBE {query}")]


def arrow(con: Connection, query: str) -> pa.Table:
    """A result as an Arrow table."""
    with _name_damage(con):
        retry_if_gone(con, lambda: make_named(con, query))
        return retry_if_gone(con, lambda: con.sql(query).to_arrow_table())


PAYLOAD_ROWS = 16
"""Rows of a batch with prompts or completions: a column of Arrow text holds 2 GiB at most, and rows may have 100 MB."""


def stream(con: Connection, query: str, batch_rows: int = 1024) -> Iterator[pa.RecordBatch]:
    """A result in batches, on a cursor of its own: a second query on one connection would cut the first one short.

    A cursor sees the connection's views and tables, but neither its variables nor its temporary tables.
    """
    cursor = con.cursor()
    try:
        with _name_damage(con):
            retry_if_gone(con, lambda: make_named(con, query))
            yield from retry_if_gone(con, lambda: _first_batch(cursor, query, batch_rows))
    finally:
        cursor.close()


@contextmanager
def streaming(con: Connection, as_written: bool = False) -> Iterator[None]:
    """Within it, rows that a query writes need not be in order, so that DuckDB holds few of them.

    as_written: the left side of each join is read row group by row group, the right one is held.
    """
    run(con, "SET preserve_insertion_order = false")
    if as_written:
        run(con, "SET disabled_optimizers = 'join_order,build_side_probe_side'")
    try:
        yield
    finally:
        run(con, "RESET preserve_insertion_order; RESET disabled_optimizers")


def _first_batch(con: Connection, query: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """A result's batches, of which the first is read already; none is held once it was handed over."""
    reader = iter(con.sql(query).to_arrow_reader(batch_rows))
    first = list(islice(reader, 1))
    return chain(map(first.pop, [0] * len(first)), reader)


def literal(value: object) -> str:
    """A Python value as a SQL literal: text, number, bool, None, list, or a dict as a MAP."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value) if isfinite(value) else f"'{value}'::DOUBLE"
    if isinstance(value, Mapping):
        keys, values = list(value.keys()), list(value.values())
        return f"MAP({literal(keys)}, {literal(values)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return "'" + str(value).replace("'", "''") + "'"


def set_variable(con: Connection, name: str, value: object, kind: str) -> None:
    """Bind a step's parameter, as the type that its header declares."""
    try:
        run(con, variable_script(name, value, kind))
    except Error as error:
        raise StepError(f"parameter {name} = {value!r} is not a {kind}") from error


def variable_script(name: str, value: object, kind: str) -> str:
    """The statement that binds a parameter, for any DuckDB shell."""
    return f"SET VARIABLE {name} = CAST({literal(value)} AS {kind});"


def read(path: Path) -> str:
    """A SQL file's text, without a final semicolon, so that it can be in parentheses."""
    return path.read_text(encoding="utf-8").strip().rstrip(";")
