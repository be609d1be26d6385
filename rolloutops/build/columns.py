"""The columns of a Parquet file of lines, so that its reader finds each value as the line has it.

A struct takes the union of all keys and fills it with nulls, which chat templates show to the model or fail on. So a
column is of lists and structs only where they give back every line; else it is JSON (`arrow.json`), which `datasets`
decodes since its version 4.7. A step whose loader reads no such column says `-- files: by shape` in its header: lines
of different shape then go to different files, and it is the step that leaves out what no struct holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rolloutops.build.staging import BY_SHAPE
from rolloutops.errors import StepError
from rolloutops.steps.step import Step
from rolloutops.store import sql

Structure = dict[str, Any]
"""column -> its type, as from_json takes it: a name, a list of one type, or an object of names and types."""

JSON = "JSON"


def structure_of(con: sql.Connection, step: Step, group: str, where: str) -> Structure:
    """The types of the columns of a group of lines. group: FROM what has line, its number, and json.

    Raises StepError where lines by shape do not fit their structs.
    """
    large = r"bool_or(regexp_matches(json, '[^\d.]\d{19}'))"  # whole numbers that BIGINT may be too small for
    # The first line of each structure, in order: several threads find the keys in any, and json_group_structure takes
    # no order.
    firsts = (
        f"SELECT arg_min(json, line) AS json, min(line) AS line, {large} AS large {group} GROUP BY json_structure(json)"
    )
    array = "('[' || string_agg(json, ',' ORDER BY line) || ']')::JSON"
    text, unsigned = sql.rows(
        con, f"SELECT (json_structure({array})->'$[0]')::VARCHAR, bool_or(large) FROM ({firsts})"
    )[0]
    text = text if unsigned else re.sub(r'"(UBIGINT|HUGEINT)"(?!:)', '"BIGINT"', text)
    text = re.sub(r'"NULL"(?!:)', '"VARCHAR"', text)
    named = declared(step)
    found = {column: named.get(column, kind) for column, kind in json.loads(text).items()}
    by_shape = step.notes.get("files") == BY_SHAPE
    for column, kind in found.items():
        nested = column not in named and not isinstance(kind, str)
        if nested and (_is_mixed(kind) or not (by_shape or _gives_back(con, group, column, kind))):
            found[column] = JSON
    if by_shape and JSON in found.values():
        column = next(column for column, kind in found.items() if kind == JSON)
        raise StepError(
            f"{where} {step.path}: no Parquet list or struct can hold the values of {column} unchanged, and the "
            "trainer's loader reads nothing else; drop such lines"
        )
    return found


def typed(con: sql.Connection, lines: pa.Array, structure: Structure) -> pa.Table:
    """Lines as rows of a Parquet file; a key that a line lacks is a null of its column."""
    con.register("batch_of_lines", pa.table({"json": lines}))
    kinds = sql.literal(json.dumps(structure, ensure_ascii=False))
    try:
        table = sql.arrow(con, f"SELECT unnest(from_json(json, {kinds})) FROM batch_of_lines")
    finally:
        con.unregister("batch_of_lines")
    for place, (column, kind) in enumerate(structure.items()):
        if kind == JSON:
            table = table.set_column(place, column, table.column(column).cast(pa.json_()))
    return table


def declared(step: Step) -> dict[str, str]:
    """Column -> type, as the step's header says: `-- columns: token_ids INTEGER[], reward DOUBLE`."""
    return dict(part.split(maxsplit=1) for part in step.notes.get("columns", "").split(", ") if part)


def _gives_back(con: sql.Connection, group: str, column: str, kind: Any) -> bool:
    """Whether lists and structs of a type give back each line's value of a column as it was."""
    path, shape = sql.literal(f'$."{column}"'), sql.literal(json.dumps(kind, ensure_ascii=False))
    values = f"SELECT json_extract(json, {path}) AS value {group}"
    pairs = f"SELECT value::VARCHAR AS line, to_json(from_json(value, {shape}))::VARCHAR AS held FROM ({values})"
    return not sql.rows(con, f"SELECT 1 FROM ({pairs}) WHERE line <> held LIMIT 1")


def _is_mixed(kind: Any) -> bool:
    """Whether a structure holds JSON of no one type: values of several types, or an empty object."""
    if isinstance(kind, Mapping):
        return any(map(_is_mixed, kind.values()))
    return _is_mixed(kind[0]) if isinstance(kind, list) else kind == JSON
