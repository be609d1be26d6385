"""What filter, reward, mix and pair steps must leave as it is: the stored columns of a rollout, its text above all.

A selection is stored as keys and added columns, so a step that returns another text under the name `text` would have no
effect, and who redacts that way would ship what was to be hidden. So what a step returns under the name of a column
that it was handed is compared with what it was handed: at run time by a hash of these columns for each row, and before
there is a rollout on a few made-up rows (`trial.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.errors import StepError
from rolloutops.steps.selected import KEYS, PAYLOAD, quoted, selected_query
from rolloutops.steps.step import Step
from rolloutops.store import sql
from rolloutops.store.parsed import tree

MAY_CHANGE = (*KEYS, "copy", "reward")
"""Columns of rollouts that are checked elsewhere (keys must be among those handed over), or that a step may change."""

SEEN = "rolloutops_seen"
"""The column that holds, while a step's result is checked, the hash of what it returned of the columns handed to it."""

PASSES_ON = {"INNER": "left right", "LEFT": "left", "SEMI": "left", "ANTI": "left"}
"""Joins whose rows on these sides hold what they held before, whole."""


def stored_columns(con: sql.Connection) -> set[str]:
    """The names of a rollout's own columns, as a step may name them."""
    return {*sql.columns(con, "FROM selection.rollouts"), *PAYLOAD}


def refuse_names(query: Sequence[str], stored: set[str], step: Step, where: str) -> None:
    """Raise StepError where a step returns two columns of one name, of which DuckDB takes the first.

    query: the names that it returns, in order; no name differs by its case alone. A key may be there twice, as after a
    join. stored: those of rollouts.
    """
    lower = [name.lower() for name in query]
    for name in dict.fromkeys(lower):
        if lower.count(name) == 1 or name in KEYS:
            continue
        if name in stored - {"reward"}:
            raise StepError(refusal(where, step, [name], "returns twice (s.* alone returns it once)"))
        raise StepError(
            f"{where} {step.path} returns two columns named {name}, of which only the first would count: write "
            f"SELECT s.* REPLACE (… AS {name}), or give the new one another name"
        )


def refusal(where: str, step: Step, columns: Sequence[str], verb: str = "changes", example: str = "") -> str:
    """The sentence for a step that changes columns. example: the rollout in which it was seen."""
    what = f"the column {columns[0]}" if len(columns) == 1 else f"the columns {', '.join(columns)}"
    seen = f" (rollout {example})" if example else ""
    kind = where.strip("[").partition(".")[0]
    return (
        f"{where} {step.path} {verb} {what}{seen}. A {kind} step selects rows, may change `reward` and may add columns "
        "of other names; what it returns as a stored column is not used. Leave rows out with WHERE, or with a reason "
        "in a column `dropped`. Change text in a custom build step, which writes the lines of the training file"
    )


def compared(con: sql.Connection, step: Step) -> list[str]:
    """The columns of a step's result that have to be compared with what it was handed, row by row.

    Empty for shipped steps, whose tests say so, and for those that are a SELECT s.* of `selected`: to hash a text that
    is otherwise not carried through a window would cost more than the step.
    """
    if step.ships or passes_on(con, step.query):
        return []
    stored = stored_columns(con).difference(MAY_CHANGE)
    return [name for name in sql.names(con, step.query) if name.lower() in stored]


def refuse_changes(
    con: sql.Connection, step: Step, name: str, columns: Sequence[str], payload: Sequence[str], where: str
) -> None:
    """Raise StepError where the rows that a step kept, under its name and with SEEN, differ from what it was handed."""
    handed = selected_query(con, name, payload)
    query = f"SELECT {', '.join(KEYS)} FROM (\n{handed}\n) WHERE {SEEN} <> {hash_of(columns)} LIMIT 1"
    if rows := sql.records(con, query):
        key = rows[0]
        example = "/".join(str(value) for value in key.values())
        raise StepError(refusal(where, step, _differing(con, step, columns, handed, key), example=example))


def hash_of(columns: Sequence[str]) -> str:
    """The expression for one number that stands for all these columns of a row."""
    return f"hash({', '.join(map(quoted, columns))})"


def _differing(
    con: sql.Connection, step: Step, columns: Sequence[str], handed: str, key: Mapping[str, Any]
) -> Sequence[str]:
    """Those of the columns that differ in one rollout. All, where a step makes something else each time."""
    names = ", ".join(map(quoted, columns))
    same = " AND ".join(f"{name} = {sql.literal(value)}" for name, value in key.items())
    before = sql.rows(con, f"SELECT {names} FROM (\n{handed}\n) WHERE {same} LIMIT 1")[0]
    after = sql.rows(con, f"SELECT {names} FROM (\n{step.query}\n) WHERE {same}")
    pairs = [zip(columns, before, row, strict=True) for row in after]
    found = dict.fromkeys(column for row in pairs for column, old, new in row if old != new)
    return list(found) or columns


def passes_on(con: sql.Connection, query: str) -> bool:
    """Whether a query's form alone, SELECT s.*, shows that it returns the stored columns of `selected` as they are.

    DuckDB's own parser reads it. False where the form does not show it, which does not mean that it changes one.
    """
    try:
        node = tree(query)
        if node["type"] != "SELECT_NODE" or "selected" in {entry["key"].lower() for entry in node["cte_map"]["map"]}:
            return False
        sources = _sources(node["from_table"])
        stored = {name.lower() for name in stored_columns(con)} - {"reward"}
        read = {_read(item, stored) for item in node["select_list"]} - {""}
        if read == {"*"} and node["from_table"]["type"] == "BASE_TABLE":
            read = set(sources)
        return len(read) == 1 and read <= set(sources)
    except (KeyError, IndexError, TypeError, AttributeError, sql.Error):  # another version's tree: rows are compared
        return False


def _sources(table: Mapping[str, Any]) -> list[str]:
    """The names under which a FROM clause has `selected`, where it hands on rows of it whole."""
    if table["type"] == "BASE_TABLE":
        plain = not (table["schema_name"] or table["catalog_name"] or table["column_name_alias"])
        named = plain and table["table_name"].lower() == "selected"
        return [(table["alias"] or "selected").lower()] if named else []
    if table["type"] == "JOIN":
        return [name for side in PASSES_ON.get(table["join_type"], "").split() for name in _sources(table[side])]
    return []


def _read(item: Mapping[str, Any], stored: set[str]) -> str:
    """The table that an item of a SELECT's list takes stored columns from as they are; empty for an item that returns
    none. `*` for a star of all tables, `?` where it returns one that may be another."""
    if item["class"] == "STAR":
        replaced = {entry["key"].lower() for entry in item["replace_list"]}
        plain = not (item["columns"] or item["expr"] or item.get("rename_list") or replaced & stored)
        return (item["relation_name"].lower() or "*") if plain else "?"
    alias = item["alias"].lower()
    if item["class"] == "COLUMN_REF":
        *table, name = (part.lower() for part in item["column_names"])
        if (alias or name) == name:
            return table[0] if len(table) == 1 else "?"
    return "?" if not alias or alias in stored else ""
