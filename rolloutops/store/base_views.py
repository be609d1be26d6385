"""The views on which all others stand: a workspace's tables as they lie on disk, and the plan of a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from glob import escape, glob
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from rolloutops.config.resources import shipped
from rolloutops.store import schema, sql
from rolloutops.store.damage import damaged, find_damage
from rolloutops.store.manifest import MERGED
from rolloutops.store.parsed import created

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


HUMAN = "human"
"""The verifier whose rewards are the scores of people."""
HUMAN_VERDICTS = "human_verdicts"
"""The view of these scores as rows of `verdicts`."""

Files = str | list[str] | None
"""A table's files: a glob, or a list of them; None where there are none."""


KEYS = {
    "attempts": "dataset, attempt_id",
    "verdicts": "dataset, verdict_id",
    "labels": "dataset, label_id",
    "runs": "run_id, event",
}
"""What a row is known by, of tables that are merged."""

VIEWS = {**{name: name for name in schema.TABLES}, "tasks": "task_log", "labels": "label_log"}
"""Table -> the view of its rows. What counts of tasks and labels are views of their own."""


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
        return f"CREATE OR REPLACE VIEW {name} AS\nSELECT * FROM read_parquet({sql.literal(pattern)}){more};"
    columns = ", ".join(
        field.name if field.name in there else f"NULL::{duckdb_type(field.type)} AS {field.name}" for field in table
    )
    files = "WHERE false" if pattern is None else f"FROM read_parquet({sql.literal(pattern)}, union_by_name = true)"
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
    values = ",\n    ".join("(" + ", ".join(sql.literal(row.get(name)) for name in PLAN_COLUMNS) + ")" for row in plan)
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
    that make the views of indexes, which some views read in place of the tables then (`sql/index.sql`).
    """
    beside = beside_tables(plan, beside)
    names = ("macros.sql", "views.sql", "index.sql") if indexes else ("macros.sql", "views.sql")
    files = [(shipped("sql") / name).read_text(encoding="utf-8") for name in names]
    people = []
    if "verdicts" in beside and HUMAN_VERDICTS in beside["verdicts"]:  # `verdicts` stands on these, so they come first
        own = created(files[names.index("views.sql")])
        people = [
            *table_views(patterns, beside, overlapping, {"labels": VIEWS["labels"]}),
            plan_view(plan),
            *(own[name] for name in ("labels", HUMAN_VERDICTS)),
        ]
    return "\n\n".join([*people, *table_views(patterns, beside, overlapping), *indexes, plan_view(plan), *files])


def beside_tables(plan: Sequence[Mapping[str, object]], beside: Mapping[str, str] | None = None) -> dict[str, str]:
    """Add to what lies beside the tables the scores of people, where a plan takes them for verdicts."""
    found = dict(beside or {})
    if any(row.get("verifier") == HUMAN for row in plan) and HUMAN_VERDICTS not in found.get("verdicts", ""):
        more = found.get("verdicts")
        found["verdicts"] = f"(FROM {more} UNION ALL BY NAME FROM {HUMAN_VERDICTS})" if more else HUMAN_VERDICTS
    return found
