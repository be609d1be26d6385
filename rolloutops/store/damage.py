"""Damaged part files: found by reading them whole, and named with what deleting them would cost.

Parts carry a checksum for each page, which pyarrow verifies and DuckDB does not: there a flipped bit in a
number gives another number, and no error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.errors import WorkspaceError
from rolloutops.layout import count
from rolloutops.store.manifest import manifest_folder, merged_folders, newest_manifest

TABLES = ("tasks", "attempts", "verdicts", "runs", "jobs", "labels")
NO_FILE = "it is not a file"
UNREADABLE = (OSError, pa.ArrowException, ValueError, UnicodeDecodeError)


def find_damage(path: Path) -> str | None:
    """Read a part to its end, checksums and all. Returns what is wrong with it; None if it is whole."""
    if not path.is_file():
        return NO_FILE
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for _ in file.iter_batches(1024):
                pass
    except UNREADABLE as error:
        return str(error).split("\n")[0][:200] or type(error).__name__
    return None


def parts_of(root: Path) -> list[Path]:
    """The part files of a workspace."""
    return sorted(path for table in TABLES for path in (root / table).rglob("*.parquet") if path.name[0] != ".")


def find_all(root: Path) -> Iterator[tuple[Path, str]]:
    """Each damaged part of a workspace, and what is wrong with it; merged files beside what their manifest says."""
    rows = {
        _folder_of(root, file.table, dataset) / f"{file.name}.parquet": file.rows
        for dataset in merged_folders(root)
        for file in newest_manifest(root, dataset).files
    }
    for path in parts_of(root):
        why = find_damage(path)
        if why is None and path in rows and (found := pq.read_metadata(path).num_rows) != rows[path]:
            why = f"it has {count(found, 'row')}, and {count(rows[path], 'row')} were merged into it"
        if why:
            yield path, why
    for dataset in merged_folders(root):
        index = newest_manifest(root, dataset).index
        for name, digest in index.digests.items() if index else ():
            path = manifest_folder(root, dataset) / name
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                yield path, "its content is not what compact wrote"


def _folder_of(root: Path, table: str, dataset: str | None) -> Path:
    return root / table / dataset if dataset else root / table


def damaged(path: Path, why: str = "") -> WorkspaceError:
    """Return the error that names a damaged part."""
    return WorkspaceError(
        f"{path} is damaged{f' ({why})' if why else ''}: put a copy in its place, or delete it and run the same "
        f"commands again; deleting it costs {cost_of(path)}"
    )


def cost_of(path: Path) -> str:
    """Return what has to be made again once a part is deleted, as far as it and its neighbors still tell."""
    table = next((name for name in path.parts[::-1][1:3] if name in TABLES), "")
    if table == "attempts":
        rollouts, verdicts = _of_attempts(path)
        return f"{_number(rollouts, 'rollout')} and {_number(verdicts, 'verdict')} again"
    rows = _rows(path)
    if table == "verdicts":
        return f"{_number(rows, 'verdict')} again"
    if table == "tasks":
        return (
            f"a chunk of the input again for {_number(rows, 'task')}; the rollouts of tasks that come back count again"
        )
    if table == "labels":
        return f"{_number(rows, 'label')} of people, which no command makes again"
    if path.name.startswith("index-"):
        return "nothing but time: the next compact makes it again"
    if table == "jobs":
        return "what is known of a batch: its requests may be sent, and paid for, again"
    return "the record of a command; no other data is lost"


def _of_attempts(path: Path) -> tuple[int | None, int | None]:
    """Return rollouts and verdicts that hang on a part of attempts; None where nothing tells."""
    own = _column(path, "attempt_id", "error")
    if own is not None:
        names = {row["attempt_id"] for row in own}
        rollouts: int | None = sum(row["error"] is None for row in own)
    else:
        names, rollouts = set(), _rows(path)
    root, dataset = path.parents[2], path.parent.name
    verified = {row["attempt_id"] for part in _neighbors(root, "verdicts", dataset) for row in _column(part) or ()}
    if own is None:  # the attempts that have a verdict and are in no other part
        known = {r["attempt_id"] for p in _neighbors(root, "attempts", dataset) if p != path for r in _column(p) or ()}
        names = verified - known
        rollouts = rollouts if rollouts is not None else len(names) or None
    return rollouts, len(names & verified)


def _neighbors(root: Path, table: str, dataset: str) -> list[Path]:
    return sorted((root / table / dataset).glob("[!.]*.parquet"))


def _column(path: Path, *names: str) -> list[dict[str, Any]] | None:
    """Return some columns of a part as rows; None if they cannot be read."""
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows: list[dict[str, Any]] = file.read(list(names) or ["attempt_id"]).to_pylist()
            return rows
    except UNREADABLE:
        return None


def _rows(path: Path) -> int | None:
    try:
        if not path.is_file():
            return None
        return int(pq.read_metadata(path).num_rows)
    except UNREADABLE:
        return None


def _number(number: int | None, noun: str) -> str:
    if number is None:
        return f"an unknown number of {noun}s"
    return count(number, noun)
