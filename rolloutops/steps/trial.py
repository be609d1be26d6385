"""A trial of a step on a few made-up rollouts, before there is one: whether it changes what it is handed.

Each stored text has a type of its own there (an ENUM of its made-up values), which DuckDB keeps where a column is
handed on and gives up where a text is made of it. So a change is seen also where no made-up row comes through a filter,
or where none holds what a step replaces; `unchanged.py` compares the real rows when the step runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rolloutops.errors import StepError
from rolloutops.steps.selected import ALL, KEYS, bind, pairs_view, quoted, table_of
from rolloutops.steps.step import Step, bound
from rolloutops.steps.unchanged import MAY_CHANGE, refusal
from rolloutops.store import schema, sql
from rolloutops.store.base_views import views_script
from rolloutops.store.definitions import define

TASKS, REPEATS = 4, 4
"""Made-up tasks, and rollouts of each: the first task is never solved, the last one always."""

SAID = {"finish_reason": "stop", "role": "assistant"}
"""Columns whose values steps compare with words."""

INTEGERS = ("INTEGER", "BIGINT", "UBIGINT")

Columns = Mapping[str, str]
"""Names of columns, and their types."""


def refuse_changes(
    con: sql.Connection,
    step: Step,
    settings: Mapping[str, object],
    where: str,
    start: str,
    plan: Sequence[Mapping[str, object]] = (),
) -> None:
    """Raise StepError where a step would change a stored column.

    con: has the views of a workspace, empty ones too, and the selections that steps before it made. start: the one
    that it reads.
    """
    stored = sql.columns(con, "FROM rollouts")
    before = {} if start == ALL else sql.columns(con, f"SELECT * EXCLUDE (copy) FROM {table_of(start)}")
    added = {name: kind for name, kind in before.items() if name not in KEYS}
    settings = {name: value for name, value in settings.items() if name in step.params}
    for typed in (True, False):  # a few functions take no ENUM for a text: then only values are compared
        with sql.connect(threads=1) as small:
            try:
                handed = _hand_over(small, stored, added, plan, typed)
                if "pairs" in step.reads:
                    sql.run(small, pairs_view())
                with bound(small, step, settings):
                    kinds = sql.columns(small, step.query)
                    names = [name for name in kinds if name.lower() in handed and name.lower() not in MAY_CHANGE]
                    changed = [name.lower() for name in names if kinds[name] != handed[name.lower()]]
                    changed = changed or _differing(small, step, [name.lower() for name in names])
            except StepError:
                continue
        if changed:
            raise StepError(refusal(where, step, changed))
        return


def _hand_over(
    con: sql.Connection, stored: Columns, added: Columns, plan: Sequence[Mapping[str, object]], typed: bool
) -> Columns:
    """Bind `selected` to made-up rollouts. Returns the stored columns with the types that they have there."""
    define(con, views_script(dict.fromkeys(schema.TABLES), plan))
    made_up = [(task, repeat) for task in range(TASKS) for repeat in range(REPEATS)]
    columns = []
    for name, kind in stored.items():
        values = [_value(name, kind, task, repeat) for task, repeat in made_up]
        if typed and kind in ("VARCHAR", "JSON") and name not in KEYS:
            kind = quoted(f"handed {name}")
            sql.run(con, f"CREATE TYPE {kind} AS ENUM ({', '.join(dict.fromkeys(values))})")
        columns.append(f"[{', '.join(values)}][i]::{kind} AS {quoted(name)}")
    made = f"CREATE TABLE selection.rollouts AS SELECT {', '.join(columns)} FROM range(1, {len(made_up) + 1}) AS r (i)"
    sql.run(con, f"CREATE SCHEMA selection; {made}")
    sql.run(con, "CREATE OR REPLACE VIEW rollouts AS FROM selection.rollouts")  # and so of what is made of them
    if added:
        more = ", ".join(f"{_added(name, kind)}::{kind} AS {quoted(name)}" for name, kind in added.items())
        keys = ", ".join(KEYS)
        sql.run(con, f"CREATE TABLE {table_of('before')} AS SELECT {keys}, 0 AS copy, {more} FROM selection.rollouts")
    bind(con, "before" if added else ALL, stored)
    return sql.columns(con, "FROM selection.rollouts")


def _value(name: str, kind: str, task: int, repeat: int) -> str:
    """A made-up value as SQL: of its own for each rollout, or for each task where that is what tasks have."""
    number = task * REPEATS + repeat
    words = {"dataset": "d", "task_id": f"task {task}", "policy": "p", **SAID}
    if kind == "VARCHAR":
        return sql.literal(words.get(name, f"{name} of rollout {number}"))
    if kind == "JSON":
        text = f'[{{"role":"assistant","content":"{name} of rollout {number}"}}]'
        return sql.literal(text)
    if kind == "VARCHAR[]":
        return sql.literal([f"tool {number}"])
    if kind == "MAP(VARCHAR, DOUBLE)":
        return sql.literal({"score": number + 0.5})
    if kind in ("DOUBLE", "FLOAT"):
        share = float(repeat < task) if 0 < task < TASKS - 1 else float(task > 0)
        return f"{share if name == 'reward' else number + 0.5}"
    if kind.startswith("TIMESTAMP"):
        return f"'2026-01-01 00:00:{number:02d}+00'::{kind}"
    if kind in INTEGERS:
        return str(repeat if name == "rollout_index" else number + 10)
    return f"NULL::{kind}"


def _added(name: str, kind: str) -> str:
    """A made-up value of a column that an earlier step made."""
    if name == "role":
        return "if(rollout_index % 2 = 0, 'chosen', 'rejected')"
    if name == "pair":
        return "task_id"
    if kind in ("DOUBLE", "FLOAT"):
        return "reward"
    return {"VARCHAR": "'text'", "BOOLEAN": "true"}.get(kind, "1" if kind in INTEGERS else "NULL")


def _differing(con: sql.Connection, step: Step, names: Sequence[str]) -> list[str]:
    """The columns that differ in a made-up row that comes through. A step may end with an error on such rows."""
    if not names:
        return []
    counts = ", ".join(f"count(*) FILTER (r.{quoted(n)} IS DISTINCT FROM s.{quoted(n)})" for n in names)
    keys = ", ".join(KEYS)
    try:
        found = sql.rows(
            con, f"SELECT {counts} FROM (\n{step.query}\n) AS r JOIN selection.rollouts AS s USING ({keys})"
        )
    except sql.Error:
        return []
    return [name for name, rows in zip(names, found[0], strict=True) if rows]
