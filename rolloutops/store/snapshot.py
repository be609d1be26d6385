"""A workspace at one moment: its part files, and the rows that are in journals.

A journal becomes part files of its name and is then removed. So journals are read first and files are listed after
them: a row that moves in between is in both, and counts as the journal's; none is in neither. Where nothing moved
between two looks at the folders, which is the rule, all of it is of one moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from rolloutops.store import schema, sql
from rolloutops.store.base_views import beside_tables, views_script
from rolloutops.store.definitions import define
from rolloutops.store.index import index_views
from rolloutops.store.manifest import part_name
from rolloutops.store.parts import Parts, find_tables
from rolloutops.store.workspace import Workspace, spill_folder

LOOKS = 5
"""Looks at a workspace whose files keep moving; the last one counts rows once anyway."""
PAYLOAD = {"request", "response", "prompt", "tools", "completion", "text", "token_turns", "details"}
"""Columns that are not read from journals: nothing counts by them."""


@dataclass(frozen=True)
class Snapshot:
    """parts: of each table. journals: rows by table that are in journals alone, without payload. journal_bytes:
    the size of all journals."""

    parts: Mapping[str, Parts]
    journals: Mapping[str, pa.Table]
    journal_bytes: int


def take_snapshot(workspace: Workspace) -> Snapshot:
    """Read where a workspace stands, while others write to it."""
    parts = find_tables(workspace.root)
    for _ in range(LOOKS):
        before = {table: found.files for table, found in parts.items()}, _journals(workspace)
        texts = {path.stem: text for path in before[1] if (text := _read(path)) is not None}
        parts = find_tables(workspace.root)
        after = {table: found.files for table, found in parts.items()}, _journals(workspace)
        if before == after:
            break
    # Parts of a journal that was read hold its rows once more; those of one that was not are of a later moment.
    moving = {*texts} | {path.stem for path in after[1]}
    held = {
        table: replace(found, files=[file for file in found.files if Path(file).stem not in moving])
        if table in ("attempts", "verdicts")
        else found
        for table, found in parts.items()
    }
    rows: dict[str, list[dict[str, Any]]] = {"attempts": [], "verdicts": []}
    for stem, text in texts.items():
        name = part_name(stem)
        for table, row in _rows(text):
            if name not in held[table].covered.get(str(row.get("dataset")), ()):  # else sealed and merged already
                rows[table].append(row)
    tables = {table: _table(schema.TABLES[table], found) for table, found in rows.items() if found}
    return Snapshot(held, tables, sum(map(len, texts.values())))


def connect_snapshot(workspace: Workspace, snapshot: Snapshot, plan: Sequence[Mapping[str, object]]) -> sql.Connection:
    """A connection whose views stand on a snapshot, rows of journals included."""
    con = sql.connect(spill=spill_folder(workspace))
    for table, rows in snapshot.journals.items():
        con.register("rows_of_journals", rows)
        con.execute(f"CREATE TABLE journal_{table} AS SELECT * FROM rows_of_journals")
        con.unregister("rows_of_journals")
    files = {table: parts.files or None for table, parts in snapshot.parts.items()}
    beside = beside_tables(plan, {table: f"journal_{table}" for table in snapshot.journals})
    overlapping = {table: parts.overlapping for table, parts in snapshot.parts.items()}
    indexes = index_views(workspace.root, snapshot.parts, beside)
    define(con, views_script(files, plan, beside, overlapping, indexes))
    return con


def _journals(workspace: Workspace) -> list[Path]:
    folder = workspace.root / "journals"
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".jsonl"))
    except FileNotFoundError:
        return []


def _read(path: Path) -> bytes | None:
    """What a journal holds now; None where it has become part files since it was listed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _rows(text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(table, row) of each whole line; a torn or strange one is not for `status` to tell of."""
    for line in text.split(b"\n"):
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        for table, row in found.items() if isinstance(found, dict) else ():
            if table in ("attempts", "verdicts") and isinstance(row, dict):
                kept = {name: row[name] for name in schema.TABLES[table].names if name in row and name not in PAYLOAD}
                yield table, kept


def _table(columns: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table; where one has a value of another type, row by row, without those."""
    try:
        return schema.table_of(columns, rows)
    except (pa.ArrowException, TypeError, ValueError):
        if len(rows) == 1:
            return schema.table_of(columns, [])
        half = len(rows) // 2
        return pa.concat_tables([_table(columns, rows[:half]), _table(columns, rows[half:])])
