"""The one door to DuckDB, whose Python API differs between 1.5 and 2.0: connections, results, literals, base views."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape, glob
from itertools import chain, groupby, islice
from math import isfinite
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rolloutops.config.query_limits import query_limits
from rolloutops.config.resources import shipped
from rolloutops.errors import StepError, WorkspaceError
from rolloutops.store import schema
from rolloutops.store.damage import damaged, find_damage
from rolloutops.store.definitions import make_named
from rolloutops.store.manifest import MERGED
from rolloutops.store.parsed import files_of_view
from rolloutops.store.refresh import retry_if_gone

Connection = duckdb.DuckDBPyConnection
Error = duckdb.Error

PLAN_COLUMNS = {
    "dataset": "VARCHAR",
    "policy": "VARCHAR",
    "num_repeats": "INTEGER",
    "row_limit": "BIGINT",
    "max_attempts": "INTEGER",
    "verifier": "VARCHAR",
    "verifier_version": "VARCHAR",
    "equal_versions": "VARCHAR[]",
    "shard": "UBIGINT",
    "shards": "UBIGINT",
}
"""The columns of `plan`: what a recipe asks of each dataset and policy."""


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
            f"a query needs more than its memory limit, {size}: raise memory_limit, as "
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
        f"no space is left in {Path(folder).parent}, where queries put what they do not hold in memory: free some, "
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
    """A result's batches, of which the first is read already."""
    reader = iter(con.sql(query).to_arrow_reader(batch_rows))
    return chain(list(islice(reader, 1)), reader)


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


def duckdb_type(kind: pa.DataType) -> str:
    """The DuckDB type of an Arrow type that a table of ours has."""
    if kind == schema.JSON:
        return "JSON"
    if pa.types.is_list(kind):
        return f"{duckdb_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({duckdb_type(kind.key_type)}, {duckdb_type(kind.item_type)})"
    if pa.types.is_struct(kind):
        inner = ", ".join(f"{kind.field(i).name} {duckdb_type(kind.field(i).type)}" for i in range(kind.num_fields))
        return f"STRUCT({inner})"
    names = {
        schema.TEXT: "VARCHAR",
        schema.INT: "INTEGER",
        schema.LONG: "BIGINT",
        schema.REAL: "DOUBLE",
        schema.BOOL: "BOOLEAN",
        schema.TIME: "TIMESTAMP WITH TIME ZONE",
        pa.float32(): "FLOAT",
    }
    return names[kind]


Files = str | list[str] | None
"""A table's files: a glob, or a list of them; None where there are none."""


KEYS = {"attempts": "dataset, attempt_id", "verdicts": "dataset, verdict_id", "runs": "run_id, event"}
"""What a row is known by, of tables that are merged."""

VIEWS = {name: "task_log" if name == "tasks" else name for name in schema.TABLES}


def table_views(
    patterns: Mapping[str, Files],
    beside: Mapping[str, str] | None = None,
    overlapping: Mapping[str, Sequence[str]] | None = None,
    names: Mapping[str, str] = VIEWS,
) -> list[str]:
    """The views of the Parquet tables, each under its own name; `tasks` as task_log, of which the view tasks is made.

    patterns: table -> its files. beside: table -> a relation with the same columns, whose rows are rows of it too.
    overlapping: table -> those of its files that hold rows of others once more. names: table -> another view's name.
    """
    found = []
    for name, view in names.items():
        table = schema.TABLES[name]
        more, files = (beside or {}).get(name), patterns.get(name)
        twice = list((overlapping or {}).get(name, ()))
        if twice and isinstance(files, list):
            script = _table_view(view, table, [file for file in files if file not in twice] or None, more)
            found.append(script.rstrip(";") + _others_rows(table, twice, script, KEYS[name]))
        else:
            found.append(_table_view(view, table, files, more))
    return found


def _others_rows(table: pa.Schema, files: list[str], script: str, keys: str) -> str:
    """What a view gets of files whose rows it has in part: those that it lacks, each once."""
    select = script.partition(" AS\n")[2].rstrip(";")
    rows = _table_view("more", table, files, None).partition(" AS\n")[2].rstrip(";")
    return (
        f"\nUNION ALL BY NAME\nSELECT * FROM (SELECT DISTINCT ON ({keys}) * FROM ({rows}))\n"
        f"ANTI JOIN ({select}) USING ({keys});"
    )


def _table_view(name: str, table: pa.Schema, pattern: Files, beside: str | None) -> str:
    """The view of one table; an empty one where no file lies there yet (DuckDB refuses an empty glob)."""
    there = _columns(table, pattern) if pattern is not None else set()
    if isinstance(pattern, list):
        pattern = [escape(file) for file in pattern]  # DuckDB takes each for a glob
    more = f"\nUNION ALL BY NAME SELECT * FROM {beside}" if beside else ""
    if there is None:
        return f"CREATE OR REPLACE VIEW {name} AS\nSELECT * FROM read_parquet({literal(pattern)}){more};"
    columns = ", ".join(
        field.name if field.name in there else f"NULL::{duckdb_type(field.type)} AS {field.name}" for field in table
    )
    files = "WHERE false" if pattern is None else f"FROM read_parquet({literal(pattern)}, union_by_name = true)"
    return f"CREATE OR REPLACE VIEW {name} AS\nSELECT {columns} {files}{more};"


def _columns(table: pa.Schema, pattern: str | list[str]) -> set[str] | None:
    """The columns that any part has; None where all parts have all columns of the table, as this version writes them.

    A folder's parts are named by time, so that the first one of each folder tells whether there are older ones. A
    merged file has the columns of the version that merged it.
    """
    files = sorted(glob(pattern) if isinstance(pattern, str) else pattern)
    merged = [file for file in files if os.path.basename(file).startswith(MERGED)]
    parts = [file for file in files if not os.path.basename(file).startswith(MERGED)]
    first = [next(group) for _, group in groupby(parts, os.path.dirname)] + merged
    if all(set(table.names) <= _columns_of(file) for file in first):
        return None
    return set[str]().union(*map(_columns_of, files))


def _columns_of(file: str) -> set[str]:
    import pyarrow.parquet as pq

    try:
        return set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged(Path(file), find_damage(Path(file)) or "") from error


def plan_view(plan: Sequence[Mapping[str, object]]) -> str:
    """The view `plan`, its rows written out."""
    names = ", ".join(f"{name}::{kind} AS {name}" for name, kind in PLAN_COLUMNS.items())
    values = ",\n    ".join("(" + ", ".join(literal(row.get(name)) for name in PLAN_COLUMNS) + ")" for row in plan)
    head = f"CREATE OR REPLACE VIEW plan AS\nSELECT {names}\nFROM (VALUES\n    "
    none = "(" + ", ".join("NULL" for _ in PLAN_COLUMNS) + ")"
    tail = f"\n) AS given ({', '.join(PLAN_COLUMNS)})"
    return head + (values or none) + tail + ("" if plan else "\nWHERE false") + ";"


def views_script(
    patterns: Mapping[str, Files],
    plan: Sequence[Mapping[str, object]],
    beside: Mapping[str, str] | None = None,
    overlapping: Mapping[str, Sequence[str]] | None = None,
    indexes: Sequence[str] = (),
) -> str:
    """Everything that makes a workspace's views in any DuckDB shell, and what steps share.

    patterns: table -> its files. plan: rows for `plan`. beside, overlapping: as in `table_views`. indexes: statements
    that make the views of indexes; where there are none, all is read from the tables.
    """
    names = ("macros.sql", "views.sql") if indexes else ("no_index.sql", "macros.sql", "views.sql")
    files = [(shipped("sql") / name).read_text(encoding="utf-8") for name in names]
    return "\n\n".join([*table_views(patterns, beside, overlapping), *indexes, plan_view(plan), *files])


def read(path: Path) -> str:
    """A SQL file's text, without a final semicolon, so that it can be in parentheses."""
    return path.read_text(encoding="utf-8").strip().rstrip(";")
