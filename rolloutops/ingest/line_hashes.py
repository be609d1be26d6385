"""Hashes of the lines of input files, unparsed: which of a million lines are new is known in about a second.

The hash is DuckDB's, 64 bits: of ten million lines and ten million tasks, two are taken for equal once in 200,000 runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rolloutops.ingest.inputs import (
    LARGE_BLOCK,
    blocks_of,
    file_state,
    is_json_lines,
    joined,
    raw_rows,
    refuse_change,
    without_mark,
)
from rolloutops.store import sql

Batch = tuple[pa.Array, pa.Array]
"""Numbers of lines, and the bytes of each without its ending."""

ROWS = 10_000

ADD = r"""
INSERT INTO lines
SELECT {file}, line, hash({row})
FROM batch_of_lines
WHERE octet_length(raw) > 40 OR NOT regexp_full_match(raw::VARCHAR, '( |\\x09|\\x0B|\\x0C|\\x0D)*')
"""
"""Lines that are not blank: DuckDB shows bytes that cannot be printed as their numbers."""


def hash_lines(con: sql.Connection, file: int, path: Path, before: str = "", after: str = "") -> None:
    """Add (file, line, hash) of each line of a file to the table `lines`. before, after: what is put around each.

    Raises InputError if the file changes.
    """
    whole = before or after  # a line of 200 MB is not to be put together with nothing
    row = f"{sql.literal(before)}::BLOB || raw || {sql.literal(after)}::BLOB" if whole else "raw"
    query = ADD.format(file=file, row=row)
    state = file_state(path)
    for numbers, raw in _json_lines(path) if is_json_lines(path) else _table_rows(path):
        refuse_change(path, state)
        batch = pa.table({"line": numbers, "raw": raw})
        con.register("batch_of_lines", batch)
        sql.run(con, query)
        con.unregister("batch_of_lines")
    refuse_change(path, state)


def _json_lines(path: Path) -> Iterator[Batch]:
    """Split a file of JSON lines, many lines at once."""
    count = 0
    for block in _whole_lines(path):
        ends = pa.array([0, len(block)], pa.int64()).buffers()[1]
        raw = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(block)])  # a copy of none
        if b"\n" in block:
            raw = pc.split_pattern(raw, b"\n").values
        if b"\r" in block:
            raw = pc.replace_substring_regex(raw, "\r$", "")
        yield pa.array(range(count + 1, count + len(raw) + 1), pa.int64()), raw
        count += len(raw)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Join blocks of a file so that each ends with a line, without its ending."""
    held: list[bytes] = []
    size, started = 0, False
    for block in blocks_of(path):
        size += len(block)
        if size < LARGE_BLOCK or b"\n" not in block:
            held.append(block)
            continue
        end, _, rest = block.rpartition(b"\n")
        held.append(end)
        whole = joined(held)
        held, size = [rest], len(rest)
        yield whole if started else without_mark(path, whole)
        del whole  # which may be long, while the next one is read
        started = True
    held[-1:] = [block.removesuffix(b"\n") for block in held[-1:]]
    if last := joined(held):
        yield last if started else without_mark(path, last)


def _table_rows(path: Path) -> Iterator[Batch]:
    """Read a table or a CSV file as lines of JSON. A row that cannot be used is there with its number alone."""
    numbers: list[int] = []
    lines: list[bytes] = []
    size = 0
    for line, raw, reason in raw_rows(path):
        numbers.append(line)
        lines.append(raw if reason is None else reason.encode())
        size += len(raw)
        if len(lines) >= ROWS or size >= LARGE_BLOCK:
            yield pa.array(numbers), pa.array(lines, pa.large_binary())
            numbers, lines, size = [], [], 0
    if lines:
        yield pa.array(numbers), pa.array(lines, pa.large_binary())
