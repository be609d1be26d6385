"""The index of a dataset: what is asked of rollouts, without their payload and with their verdict beside, in few bytes.

`compact` derives it of merged files, so it may be thrown away at any time. Keys are 64 bits of an MD5: they only say
where to look; what they find is compared by the texts themselves, or read once more by the plain rules.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path

from rolloutops.store import schema, sql
from rolloutops.store.base_views import duckdb_type, table_views
from rolloutops.store.failpoints import failpoint
from rolloutops.store.manifest import Index, manifest_folder
from rolloutops.store.parts import Parts

ATTEMPT_COLUMNS = (
    *("dataset", "task_id", "row_hash", "policy", "rollout_index", "attempt_id", "attempt", "part", "run_id"),
    *("engine", "model", "finish_reason", "turns", "tool_calls", "tool_errors", "tool_names"),
    *("input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens"),
    *("started_at", "seconds", "model_seconds", "tool_seconds"),
)
"""Columns of attempts that the index has too."""
VERDICT_COLUMNS = {
    "verdict_id": "verdict_id",
    "verifier": "verifier",
    "verifier_version": "verifier_version",
    "reward": "reward",
    "metrics": "metrics",
    "verdict_error": "error",
    "verify_seconds": "seconds",
}
"""Columns of the index -> columns of verdicts."""
ROLLOUT_KEY = "md5_number_lower(concat_ws(chr(31), task_id, policy, rollout_index))"

ROLLOUTS = """
COPY (
    WITH a AS (SELECT * FROM read_parquet({file}) WHERE error IS NULL),
    v AS (
        SELECT attempt_id, max(verdict_id) AS newest, count(*) > 1 AS several
        FROM {verdicts} AS v SEMI JOIN a ON a.attempt_id = v.attempt_id
        GROUP BY attempt_id
    ),
    n AS (
        SELECT w.*, v.several
        FROM {verdicts} AS w
        JOIN v ON v.attempt_id = w.attempt_id AND v.newest = w.verdict_id
    )
    SELECT {attempt_columns}, length(a.text) AS text_length,
        md5_number_lower(concat_ws(chr(31), a.task_id, a.row_hash)) AS task_key,
        md5_number_lower(concat_ws(chr(31), a.task_id, a.policy, a.rollout_index)) AS rollout_key,
        md5_number_lower(a.attempt_id) AS attempt_key,
        rollout_key IN (FROM repeated_keys) AS repeated,
        {verdict_columns}, coalesce(n.several, false) AS several
    FROM a
    LEFT JOIN n ON n.attempt_id = a.attempt_id
    ORDER BY a.policy, a.part, a.task_id, a.rollout_index
) TO {target} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880);
"""
"""One row for each attempt of a merged file that did not fail. repeated: its rollout has others; several: there are
verdicts on it besides the newest."""

SETTLED = """
COPY (
    WITH held AS (
        SELECT dataset, task_id, row_hash, policy, list_sort(list(DISTINCT rollout_index)) AS places
        FROM read_parquet({rollouts})
        GROUP BY dataset, task_id, row_hash, policy
    ),
    counted AS (
        SELECT *, len([n FOR n IN range(1, len(places) + 1) IF places[n] = n - 1])::INTEGER AS done_through FROM held
    )
    SELECT dataset, task_id, row_hash, policy, done_through, places[done_through + 1:] AS beyond,
        md5_number_lower(concat_ws(chr(31), task_id, row_hash)) AS task_key
    FROM counted
) TO {target} (FORMAT parquet, COMPRESSION zstd);
"""
"""Of each task as it was: the repeats that are done from 0 on without a gap, and those after a gap."""

STRAYS = """
COPY (
    SELECT v.dataset, v.attempt_id, v.verdict_id
    FROM {verdicts} AS v
    ANTI JOIN read_parquet({rollouts}) AS r ON r.attempt_id = v.attempt_id
) TO {target} (FORMAT parquet, COMPRESSION zstd);
"""
"""Verdicts on attempts that are in no merged file."""


def make_index(root: Path, dataset: str, number: int, files: Mapping[str, Sequence[str]], spill: Path) -> Index | None:
    """Derive the index of merged files, by table; None where there are no attempts. spill: where it may spill to."""
    if not files["attempts"]:
        return None
    failpoint("compact-before-index")
    folder = manifest_folder(root, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"index-{number:08d}-{secrets.token_hex(4)}"
    paths = {table: [str(root / table / dataset / f"{one}.parquet") for one in names] for table, names in files.items()}
    attempts, verdicts = _source("attempts", paths["attempts"]), _source("verdicts", paths["verdicts"])
    rollouts = tuple(f"{name}-{place:04d}.parquet" for place in range(len(paths["attempts"])))
    settled, strays = f"{name}-settled.parquet", f"{name}-strays.parquet"
    with sql.connect(spill=spill) as con:
        sql.run(
            con,
            f"CREATE TEMP TABLE repeated_keys AS SELECT key FROM (SELECT {ROLLOUT_KEY} AS key FROM {attempts} "
            "WHERE error IS NULL) GROUP BY key HAVING count(*) > 1",
        )
        for one, file in zip(rollouts, paths["attempts"], strict=True):
            sql.run(
                con,
                ROLLOUTS.format(
                    file=_list([file]),
                    verdicts=verdicts,
                    attempt_columns=", ".join(f"a.{column}" for column in ATTEMPT_COLUMNS),
                    verdict_columns=", ".join(f"n.{column} AS {own}" for own, column in VERDICT_COLUMNS.items()),
                    target=sql.literal(str(folder / one)),
                ),
            )
        made = _list([str(folder / one) for one in rollouts])
        sql.run(con, SETTLED.format(rollouts=made, target=sql.literal(str(folder / settled))))
        sql.run(con, STRAYS.format(verdicts=verdicts, rollouts=made, target=sql.literal(str(folder / strays))))
    names = [*rollouts, settled, strays]
    index = Index(
        rollouts,
        settled,
        strays,
        {one: _synced(folder / one) for one in names},
        {table: list(one) for table, one in files.items()},
    )
    failpoint("compact-after-index")
    return index


def _list(files: Sequence[str]) -> str:
    return sql.literal([escape(file) for file in files])


def _source(table: str, files: Sequence[str]) -> str:
    """Merged files as a relation; one without rows where there are none."""
    if files:
        return f"read_parquet({_list(files)}, union_by_name = true)"
    columns = ", ".join(f"NULL::{duckdb_type(field.type)} AS {field.name}" for field in schema.TABLES[table])
    return f"(SELECT {columns} WHERE false)"


def _synced(path: Path) -> str:
    """Make a file durable. Returns its SHA-256."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return found


def index_views(root: Path, parts: Mapping[str, Parts], beside: Mapping[str, str] | None = None) -> list[str]:
    """The views of the indexes that count, and of what is newer than they are; none where there is no index.

    indexed_rollouts, settled_tasks, stray_verdicts: rows of indexes; indexed_verdicts: the verdicts that these were
    made of; recent_attempts, recent_verdicts: all other rows of the tables. beside: as in table_views.
    """
    attempts, verdicts = parts["attempts"], parts["verdicts"]
    there = {
        name: index
        for name, index in attempts.indexes.items()
        if verdicts.indexes.get(name, None if index.sources["verdicts"] else index) == index
        and all((manifest_folder(root, name) / one).is_file() for one in index.names)
    }
    if not there:
        return []
    sources = {
        table: {
            str(root / table / name / f"{one}.parquet") for name, index in there.items() for one in index.sources[table]
        }
        for table in ("attempts", "verdicts")
    }
    own = {
        "indexed_rollouts": (INDEXED, [one for index in there.values() for one in index.rollouts]),
        "settled_tasks": (SETTLED_COLUMNS, [index.settled for index in there.values()]),
        "stray_verdicts": (STRAY_COLUMNS, [index.strays for index in there.values()]),
    }
    folders = {one: manifest_folder(root, name) for name, index in there.items() for one in index.names}
    views = [_view(name, kinds, [str(folders[one] / one) for one in names]) for name, (kinds, names) in own.items()]
    for table, found in (("attempts", attempts), ("verdicts", verdicts)):
        recent = [file for file in found.files if file not in sources[table]] or None
        views += table_views({table: recent}, beside, {table: found.overlapping}, {table: f"recent_{table}"})
    views += table_views(
        {"verdicts": sorted(sources["verdicts"]) or None}, None, None, {"verdicts": "indexed_verdicts"}
    )
    return views


def _kind(table: str, column: str) -> str:
    return duckdb_type(schema.TABLES[table].field(column).type)


INDEXED = {
    **{name: _kind("attempts", name) for name in ATTEMPT_COLUMNS},
    "text_length": "BIGINT",
    "task_key": "UBIGINT",
    "rollout_key": "UBIGINT",
    "attempt_key": "UBIGINT",
    "repeated": "BOOLEAN",
    **{own: _kind("verdicts", column) for own, column in VERDICT_COLUMNS.items()},
    "several": "BOOLEAN",
}
SETTLED_COLUMNS = {
    **{name: _kind("attempts", name) for name in ("dataset", "task_id", "row_hash", "policy")},
    "done_through": "INTEGER",
    "beyond": "INTEGER[]",
    "task_key": "UBIGINT",
}
STRAY_COLUMNS = {name: _kind("verdicts", name) for name in ("dataset", "attempt_id", "verdict_id")}


def _view(name: str, kinds: Mapping[str, str], files: Sequence[str]) -> str:
    """The view of files of indexes; one without rows where these have no such files."""
    if files:
        return f"CREATE OR REPLACE VIEW {name} AS\nSELECT {', '.join(kinds)} FROM read_parquet({_list(files)});"
    columns = ", ".join(f"NULL::{kind} AS {column}" for column, kind in kinds.items())
    return f"CREATE OR REPLACE VIEW {name} AS\nSELECT {columns} WHERE false;"
