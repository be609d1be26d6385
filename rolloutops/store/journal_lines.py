"""The lines of a journal: rows of tables on their way to part files.

A journal is read back after a kill, a power cut, or by a later version, so nothing about a line is taken for granted:
one that is not a row of a table is set aside with a reason, and the others count.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.store import schema
from rolloutops.store.failpoints import failpoint
from rolloutops.store.workspace import Workspace, is_folder_name, sync, write_part

CHUNK = 256
"""Rows that Python holds at most before Arrow does: so few still are in the processor's caches, and soon make room."""

NAMES = {
    "attempts": ("dataset", "task_id", "row_hash", "policy", "rollout_index", "attempt", "attempt_id"),
    "verdicts": ("dataset", "task_id", "policy", "rollout_index", "attempt_id", "verdict_id"),
}
"""The tables whose rows pass through journals, and the columns without which a row could not be found again."""


class SetAside(NamedTuple):
    """A line that is not a row of a table: its bytes, its number from 1, and why."""

    line: bytes
    number: int
    reason: str


class Rows:
    """The rows of a journal, by the part files that they will be: (table, dataset)."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        self._chunks: dict[tuple[str, str], list[pa.Table]] = defaultdict(list)

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row of a table."""
        key = table, row["dataset"]
        rows = self._rows[key]
        rows.append(row)
        self.count += 1
        if len(rows) >= CHUNK:
            self._pack(key)

    def write(self, workspace: Workspace, name: str, keep_longer: bool = False) -> None:
        """Write the part files.

        keep_longer: a part of that name with at least as many rows stays. A writer whose disk failed may have put rows
        into it that never reached its journal.
        """
        for key in sorted(self._rows):
            self._pack(key)
            rows = pa.concat_tables(self._chunks[key])
            if not (keep_longer and _stays(workspace.root / key[0] / key[1] / f"{name}.parquet", len(rows))):
                write_part(workspace, *key, name, rows)
            failpoint("seal-between-parts")

    def _pack(self, key: tuple[str, str]) -> None:
        if rows := self._rows[key]:
            self._chunks[key].append(schema.table_of(schema.TABLES[key[0]], rows))
            rows.clear()


def _stays(path: Path, rows: int) -> bool:
    """Whether a part is there, whole, with so many rows or more; then it is made durable once more."""
    try:
        if pq.read_metadata(path).num_rows < rows:
            return False
    except (OSError, pa.ArrowException):
        return False
    sync(path)
    sync(path.parent)
    return True


def read_lines(lines: Iterable[bytes], rows: Rows) -> Iterator[SetAside]:
    """Add a journal's lines to `rows`, and yield those that are not rows of a table.

    A last line without its line end that is not whole is what a kill tears: it is left out, and its rollout is pending.
    """
    held: list[tuple[int, bytes, str, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            held.append((number, line, *_row_of(line)))
        except ValueError as error:
            if line.endswith(b"\n"):
                yield SetAside(line, number, str(error))
        if len(held) >= CHUNK:
            yield from _add(held, rows)
            held.clear()
    yield from _add(held, rows)


def _row_of(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return a line's table and row. Raises ValueError if it is neither."""
    found = orjson.loads(line)
    if not isinstance(found, dict) or len(found) != 1:
        raise ValueError("not an object with one table")
    ((table, row),) = found.items()
    if table not in NAMES:
        raise ValueError(f"no table {table[:80]!r}")
    if not isinstance(row, dict):
        raise ValueError(f"the row of {table} is not an object")
    for name in NAMES[table]:
        if row.get(name) is None:
            raise ValueError(f"{name} is missing")
    if not is_folder_name(row["dataset"]):
        raise ValueError(f"dataset {str(row['dataset'])[:80]!r} cannot be a name")
    for field in schema.TABLES[table]:
        if field.type == schema.JSON and (text := row.get(field.name)) is not None:
            _require_json(field.name, text)
    return table, row


def _require_json(name: str, text: Any) -> None:
    """Raise ValueError if a column's text is not JSON: one such row would end every query that reads the column."""
    try:
        json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON") from error


def _add(lines: Sequence[tuple[int, bytes, str, dict[str, Any]]], rows: Rows) -> Iterator[SetAside]:
    """Add rows that Arrow takes; if one is of a wrong type, each is tried separately."""
    if all(_fault(table, [row for *_, kind, row in lines if kind == table]) is None for table in NAMES):
        for _, _, table, row in lines:
            rows.add(table, row)
        return
    for number, line, table, row in lines:
        if fault := _fault(table, [row]):
            yield SetAside(line, number, fault)
        else:
            rows.add(table, row)


def _fault(table: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why rows do not fit a table's columns."""
    try:
        if rows:
            schema.table_of(schema.TABLES[table], rows)
    except (pa.ArrowException, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        return f"{table}: {str(error)[:200]}"
    return None
