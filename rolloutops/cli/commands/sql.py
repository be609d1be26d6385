"""`sql`: any query over the views, or the script that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import as_json, say, show, show_csv, show_exactly, show_json
from rolloutops.cli.shared_flags import DATA, JSON, QUERIES, RECIPE
from rolloutops.cli.tables import LONGEST, as_lines, table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.paths import as_file, as_path
from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError

GLANCE = 80
"""Characters of a value that a table shows: a glance at it."""

FORMATS = {
    ".parquet": "FORMAT parquet",
    ".csv": "FORMAT csv, HEADER",
    ".jsonl": "FORMAT json",
    ".json": "FORMAT json, ARRAY",
}
"""Suffix of --output -> the options of DuckDB's COPY."""


def body(parsed: Parsed) -> None:
    """Any query over the views, or the script that makes them."""
    from rolloutops.store.user_query import is_show_tables, tables

    plan, flags = plan_of(parsed), parsed.flags
    if flags.get("print"):
        show_exactly(_views_script(plan))
        return
    if "query" not in parsed.positionals:
        raise UsageError("sql needs a query, as in: sql 'SELECT avg(reward) FROM rollouts', or --print")
    output = as_file(flags["output"]) if "output" in flags else None
    query = parsed.positionals["query"]
    as_values = bool(flags.get("json"))
    columns, rows = (
        tables() if (shows := is_show_tables(query)) and not output else _query(plan, query, output, as_values)
    )
    if output:
        say(f"written to {output}")
    elif as_values:
        show_json(as_json(columns, rows))
    elif flags.get("csv"):
        show_csv(columns, rows)
    elif flags.get("lines"):
        show(as_lines(columns, rows))
    else:
        show(table(columns, rows, LONGEST if shows else GLANCE))


COMMAND = Command(
    "sql",
    body,
    "Run a SQL query over the views",
    (
        DATA,
        RECIPE,
        JSON,
        Flag("csv", bool, "print CSV"),
        Flag("lines", bool, "print whole values, one per line: COLUMN: VALUE"),
        Flag("output", str, "write a .parquet, .csv, .jsonl or .json file"),
        Flag("print", bool, "print the script that creates the views in any DuckDB shell"),
        *QUERIES,
    ),
    (Flag("query", str, "a query, or a .sql file"),),
    group="Inspect and set up",
)


def _query(
    plan: Plan, query: str, output: Path | None = None, json: bool = False
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a query over the views: its columns and rows, or none where it was written to a file. json: with JSON as the
    values that it means."""
    from rolloutops.store import sql
    from rolloutops.store.definitions import make_all
    from rolloutops.store.json_values import json_values
    from rolloutops.store.output import replacing_file
    from rolloutops.store.user_query import query_error
    from rolloutops.store.workspace import connect, open_workspace

    con = connect(open_workspace(plan.data), plan.rows)
    make_all(con)
    file = as_path(query) if query.endswith(".sql") else None
    text = sql.read(file) if file is not None and file.is_file() else query.strip().rstrip(";")
    text = f"\n{text}\n"  # what is put around it stands on lines of its own: a comment may end it, errors show lines
    try:
        if len(con.extract_statements(text)) != 1:
            raise UsageError("sql takes one query, as in: sql 'SELECT avg(reward) FROM rollouts'")
        if output is not None:
            how = _format(output)
            if not output.parent.is_dir():
                raise UsageError(f"the query failed: there is no folder for {output}")
            with replacing_file(output) as path:
                sql.run(con, f"COPY ({text}) TO {sql.literal(str(path))} ({how})")
            return [], []
        kinds = sql.columns(con, text)
        zoned = [f'"{name}"::TIMESTAMP AS "{name}"' for name, kind in kinds.items() if kind.endswith("TIME ZONE")]
        if zoned:  # which DuckDB hands to Python only where pytz is installed; the session's zone is UTC
            text = f"SELECT * REPLACE ({', '.join(zoned)}) FROM ({text})"
        rows = sql.rows(con, text)
        return list(kinds), json_values(con, text, rows) if json else rows
    except sql.Error as error:
        raise query_error(error) from error


def _views_script(plan: Plan) -> str:
    """Write the script that makes the workspace's views in any DuckDB shell."""
    from rolloutops.store.base_views import views_script
    from rolloutops.store.workspace import open_workspace, patterns

    return views_script(patterns(open_workspace(plan.data)), plan.rows)


def _format(output: Path) -> str:
    if output.suffix not in FORMATS:
        raise UsageError(f"--output={output}: the name must end in .parquet, .csv, .jsonl or .json")
    return FORMATS[output.suffix]
