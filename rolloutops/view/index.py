"""What the viewer shows of a workspace at one moment: an index of the small columns in memory, the views beside it.

Texts stay on disk. A query of the user's runs in one place, `read`: one SELECT, in a read-only transaction, on a
connection whose configuration is locked to the workspace's folder, with a deadline.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from rolloutops.errors import UsageError
from rolloutops.store import schema, sql
from rolloutops.store.definitions import make_named
from rolloutops.store.labels import LabelRow
from rolloutops.store.parts import Parts
from rolloutops.store.schema import FLAT, TABLES
from rolloutops.store.snapshot import connect_snapshot, take_snapshot
from rolloutops.store.user_query import query_error
from rolloutops.store.workspace import Workspace

COLUMNS = {
    "dataset": "VARCHAR",
    "task_id": "VARCHAR",
    "policy": "VARCHAR",
    "rollout_index": "INTEGER",
    "reward": "DOUBLE",
    "finish_reason": "VARCHAR",
    "turns": "INTEGER",
    "tool_calls": "INTEGER",
    "tool_errors": "INTEGER",
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "reasoning_tokens": "BIGINT",
    "seconds": "DOUBLE",
    "started_at": "TIMESTAMPTZ",
    "model": "VARCHAR",
    "verdict_error": "VARCHAR",
    "run_id": "VARCHAR",
    "attempt_id": "VARCHAR",
    "label": "VARCHAR",
    "label_score": "DOUBLE",
}
"""The small columns of `rollouts` that the index holds, and their types."""

SEPARATOR = "\x1f"
"""Stands between the names of the tools that a rollout called, in the index's column `tools_called`."""

ROLLOUTS = f"""
CREATE OR REPLACE TABLE small AS
SELECT {", ".join(COLUMNS)},
    -- each tool once: a fifth of the time of list_distinct
    array_to_string(
        list_filter(tool_names, lambda name, place: list_position(tool_names, name) = place), '{SEPARATOR}'
    ) AS tools_called
FROM {{source}}
"""

FACTS = """(
SELECT f.*, l.label, l.score AS label_score
FROM rollout_facts AS f
LEFT JOIN labels AS l ON l.dataset = f.dataset AND l.attempt_id = f.attempt_id
)"""
"""Where the workspace has an index of its own, that holds all of it but the labels."""

FEW_VALUES = ("dataset", "policy", "finish_reason", "verdict_error", "tools_called")
"""Columns that are counted by value: as numbers of their values they are counted five times as fast as texts."""

ENUM = """
CREATE TYPE {column}_value AS ENUM (SELECT DISTINCT {column} FROM small WHERE {column} IS NOT NULL ORDER BY {column});
ALTER TABLE small ALTER {column} TYPE {column}_value;
"""

TOOL_SETS = "CREATE TABLE tool_sets AS SELECT DISTINCT tools_called FROM small"
"""A condition on a tool is answered for each set of tools once."""

TWICE = "SELECT count(*) > count(DISTINCT hash(dataset, task_id, policy, rollout_index)) FROM small"
"""Whether a rollout is there twice; two of one hash only cost a second reading."""

BASE_BYTES, ROLLOUT_BYTES = 350_000_000, 150
"""Memory that DuckDB may take, and what of it for each rollout: beyond it, what is not in use goes to the disk."""

FAILED = """
CREATE TABLE failed AS
SELECT dataset, task_id, policy, rollout_index, attempt, error, healed, run_id, started_at, attempt_id
FROM failures
"""

MOST_STALE = 4
"""Tables of matches that stay after their conditions are forgotten."""

DEADLINE = 20.0
"""Seconds after which a query is stopped."""


@dataclass
class Moment:
    """A workspace as it stood when this was made. number: counts moments. seconds: how long it took to make. source:
    the view of its rollouts' texts: `logged` where it is known that no rollout is in the log twice, which is read
    sooner, else `rollouts`.

    labels: how many rows of the labels' log it shows. matches: condition -> the table with the rows of the index that
    it matches, where it names other columns. stale: such tables of conditions that are held no more. lock: who holds it
    may use `con`.
    """

    con: sql.Connection
    number: int
    rollouts: int
    failures: int
    seconds: float
    source: str
    labels: int = 0
    matches: dict[str, str] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    tables: Iterator[int] = field(default_factory=count)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def cursor(self) -> sql.Connection:
        """Return a connection of its own to the moment: one connection answers one thread at a time."""
        with self.lock:
            return self.con.cursor()

    def forget_matches(self, texts: Sequence[str]) -> None:
        """Let conditions be answered anew. The lock is held. Their tables stay for a while: a query may name them."""
        self.stale += [self.matches.pop(text) for text in texts]
        for table in self.stale[:-MOST_STALE]:
            self.con.execute(f"DROP TABLE {table}")
        self.stale = self.stale[-MOST_STALE:]


def take_moment(
    workspace: Workspace, plan: Sequence[Mapping[str, object]], number: int, labels: Sequence[LabelRow]
) -> Moment:
    """Read the index of a workspace as it stands now, and lock the connection to its folder.

    labels: those that are known, which are held in memory, so that more can be put beside them.
    """
    began = time.perf_counter()
    found = take_snapshot(workspace)
    held = {**found.journals, "labels": schema.table_of(schema.LABELS, labels)}
    con = connect_snapshot(
        workspace, replace(found, parts={**found.parts, "labels": Parts([], [], {})}, journals=held), plan
    )
    ((attempts,),) = sql.rows(con, "SELECT count(*) FROM attempts")
    con.execute(f"SET memory_limit = '{(BASE_BYTES + ROLLOUT_BYTES * attempts) // 1_000_000}MB'")
    con.execute("SET preserve_insertion_order = false")  # each query of a page has an order of its own
    if any(parts.indexes for parts in found.parts.values()):
        source = "rollouts"
        sql.run(con, ROLLOUTS.format(source=FACTS))
    else:
        source = "logged"
        sql.run(con, ROLLOUTS.format(source=source))
        if sql.rows(con, TWICE)[0][0]:
            source = "rollouts"
            sql.run(con, ROLLOUTS.format(source=source))
    for column in FEW_VALUES:
        if sql.rows(con, f"SELECT count({column}) FROM small")[0][0]:
            sql.run(con, ENUM.format(column=column))
    sql.run(con, TOOL_SETS)
    any_failed = sql.rows(con, "SELECT count(*) > 0 FROM attempts WHERE error IS NOT NULL")[0][0]
    sql.run(con, FAILED if any_failed else f"{FAILED}LIMIT 0")
    ((rollouts, failures),) = sql.rows(con, "SELECT (SELECT count(*) FROM small), (SELECT count(*) FROM failed)")
    _lock(con, workspace.root)
    return Moment(con, number, rollouts, failures, time.perf_counter() - began, source, len(labels))


def _lock(con: sql.Connection, root: Path) -> None:
    """Keep a connection from other files, and from having that changed."""
    folder = sql.literal([f"{root.absolute()}/", f"{root.resolve()}/"])
    con.execute(f"SET allowed_directories = {folder}; SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def read(
    moment: Moment, query: str, seconds: float = DEADLINE, variables: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Run one SELECT and return its rows. Raises UsageError, a sentence with the place, where it cannot be run.

    variables: name -> a SQL expression, for getvariable().
    """
    with reading(moment, seconds) as cursor:
        _require_select(cursor, query)
        for name, expression in (variables or {}).items():
            cursor.execute(f"SET VARIABLE {name} = {expression}")
        result = cursor.execute(query)
        names = [name for name, *_ in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@contextmanager
def reading(moment: Moment, seconds: float = DEADLINE) -> Iterator[sql.Connection]:
    """Hold a cursor that can write nothing, and that is interrupted after some seconds."""
    cursor, late = moment.cursor(), threading.Event()

    def stop() -> None:
        late.set()
        cursor.interrupt()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        yield cursor
    except sql.Error as error:
        if late.is_set():
            raise UsageError(f"the query was stopped after {seconds:g} s: make it narrower") from error
        raise query_error(error) from error
    finally:
        timer.cancel()
        cursor.close()


def _require_select(cursor: sql.Connection, query: str) -> None:
    statements = cursor.extract_statements(query)
    if len(statements) != 1 or not str(statements[0].type).endswith("SELECT"):
        raise UsageError("a filter is one condition, as in: reward > 0.5 AND policy = 'careful'")


def make_views(moment: Moment, text: str) -> None:
    """Make the views that a text names, before a cursor binds it."""
    with moment.lock:
        make_named(moment.con, text)


def signature(workspace: Workspace) -> tuple[object, ...]:
    """What changes when anything but a label is added to a workspace: a look at its folders."""
    root = workspace.root
    times = tuple(time for table in TABLES if table != "labels" for time in folder_times(root, table))
    try:
        journals = tuple(sorted((e.name, e.stat().st_size) for e in os.scandir(root / "journals")))
    except FileNotFoundError:  # there is none, or one was sealed between the two looks
        journals = ()
    return times + journals


def folder_times(root: Path, table: str) -> list[tuple[str, int]]:
    """When something was last added to each folder of a table, or taken away."""
    folders = [root / table, *([] if table in FLAT else _folders(root / table))]
    return [(str(folder), _changed(folder)) for folder in folders]


def _folders(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
