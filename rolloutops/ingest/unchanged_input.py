"""Is all of an input already here? Its lines tell, unparsed: each is that of a task, or of an imported rollout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rolloutops.ingest.line_hashes import hash_lines
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect

SETUP = """
SET memory_limit = '128MB';
SET threads = 2;
CREATE TABLE lines (file INTEGER, line BIGINT, hash UBIGINT);
"""

KNOWN = "CREATE TABLE known AS SELECT hash(row::VARCHAR) AS hash FROM tasks WHERE dataset = {dataset}"

SAME = """
SELECT (SELECT count(*) FROM lines), (SELECT count(*) FROM known)
WHERE NOT EXISTS (FROM lines ANTI JOIN known USING (hash)) AND NOT EXISTS (FROM known ANTI JOIN lines USING (hash))
"""
"""How many lines and tasks there are, if they are the same."""

RECORDS = """
WITH records AS (
    SELECT run_id, json_extract(counts, {place}) AS counts FROM runs
),
readings AS (
    SELECT run_id, counts->>'read_by' AS read_by, (counts->>'reread')::BIGINT AS reread,
        counts->>'removed' IS NOT NULL AND reread IS NOT NULL AS whole
    FROM records
    WHERE read_by IS NOT NULL
)
SELECT arg_max(read_by, run_id), coalesce(sum(reread), 1)
FROM readings
WHERE run_id >= (SELECT max(run_id) FROM readings WHERE whole)
"""
"""What read a dataset's input last, and how many rows are to be read again in any case, since all of it was read."""


IMPORTED = """
CREATE TABLE known AS
SELECT hash(response) AS hash
FROM attempts
WHERE dataset = {dataset} AND starts_with(attempt_id, 'import-') AND engine NOT LIKE '%batch%'
"""
"""Rollouts whose names are made of nothing but their rows: those of batches also belong to their file."""

PRESENT = """
SELECT count(*) FROM lines
WHERE NOT EXISTS (FROM lines ANTI JOIN known USING (hash))
"""


class Unchanged(NamedTuple):
    """An input that is as it was: its lines, and the tasks that they are."""

    lines: int
    tasks: int


def find_unchanged(workspace: Workspace, name: str, paths: Sequence[Path], read_by: str) -> Unchanged | None:
    """Compare the lines of an input with the tasks; None if any differs, or if the rows are to be read in any case.

    read_by: what reads them now, see chunk.py. Raises InputError for a file that cannot be read.
    """
    con = connect(workspace)
    place = sql.literal(f'$."{name}"')
    if [*sql.rows(con, RECORDS.format(place=place))] != [(read_by, 0)]:
        return None
    sql.run(con, SETUP)
    for number, path in enumerate(paths):
        hash_lines(con, number, path)
    sql.run(con, KNOWN.format(dataset=sql.literal(name)))
    same = sql.rows(con, SAME)
    return Unchanged(*same[0]) if same else None


def count_imported(workspace: Workspace, name: str, paths: Sequence[Path]) -> int:
    """Count the lines of files of rollouts, if each is a rollout that was imported into the dataset; else 0."""
    if not any((workspace.root / "attempts" / name).glob("*.parquet")):
        return 0
    con = connect(workspace)
    sql.run(con, SETUP)
    sql.run(con, IMPORTED.format(dataset=sql.literal(name)))
    for number, path in enumerate(paths):
        hash_lines(con, number, path, "[", "]")
    return int(sql.rows(con, PRESENT)[0][0])
