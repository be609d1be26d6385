"""What no longer counts in a workspace, and may go: attempts, verdicts, labels, copies of files, rejected lines."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rolloutops.config.resources import shipped
from rolloutops.store import sql
from rolloutops.store.base_views import VIEWS
from rolloutops.store.journal import seal_orphans
from rolloutops.store.parts import ID_COLUMNS, find_parts
from rolloutops.store.removal import remove
from rolloutops.store.schema import TABLES
from rolloutops.store.without_rows import pending_again
from rolloutops.store.workspace import Workspace, connect, sync

KINDS = {
    "removed": "attempts at tasks that are gone from the input",
    "edited": "attempts at tasks as they were before an edit",
    "repeated": "attempts at a rollout of which an earlier one counts",
    "retried": "failed attempts at a rollout that succeeded later",
    "verdicts": "verdicts of which a newer one counts, or of no attempt",
    "labels": "labels on attempts that are not there",
    "copies": "part files under a second name",
    "rejected": "rejected lines, in rejected/",
}
"""What may go, in the order in which it is listed."""

ROWS = """
SELECT kind, dataset, count(*) FILTER (WHERE "table" = 'attempts') AS attempts,
    count(*) FILTER (WHERE "table" = 'verdicts') AS verdicts, count(*) FILTER (WHERE "table" = 'labels') AS labels
FROM going
GROUP BY kind, dataset
ORDER BY kind, dataset
"""


@dataclass(frozen=True)
class Prunable:
    """Rows or files of one kind. bytes: of rows an estimate, by the size of the dataset's rows."""

    kind: str
    dataset: str
    attempts: int
    verdicts: int
    labels: int
    files: int
    bytes: int


@dataclass
class Prune:
    """What may go, by kind and dataset. pending: rollouts that would be asked again. tokens: of attempts that go, which
    do not count as spent afterwards."""

    con: sql.Connection
    rows: list[Prunable]
    files: list[Path]
    pending: int
    tokens: int


def find_prunable(workspace: Workspace, plan: Sequence[Mapping[str, object]], kinds: Collection[str]) -> Prune:
    """Decide what goes, of some of KINDS. Journals that nobody writes are sealed first."""
    seal_orphans(workspace)
    con = connect(workspace, plan)
    script = sql.read(shipped("sql") / "checks" / "prunable.sql")
    sql.run(con, f"CREATE TABLE going AS FROM ({script}) WHERE list_contains({sql.literal(sorted(kinds))}, kind)")
    sizes = {table: _row_sizes(workspace, con, table) for table in ID_COLUMNS}
    found = [
        Prunable(
            *(kind, dataset, attempts, verdicts, labels, 0),
            round(
                attempts * sizes["attempts"].get(dataset, 0)
                + verdicts * sizes["verdicts"].get(dataset, 0)
                + labels * sizes["labels"].get(dataset, 0)
            ),
        )
        for kind, dataset, attempts, verdicts, labels in sql.rows(con, ROWS)
    ]
    files = []
    for kind, dataset, path in _files(workspace):
        if kind in kinds:
            found.append(Prunable(kind, dataset, 0, 0, 0, 1, path.stat().st_size))
            files.append(path)
    tokens = "SELECT coalesce(sum(input_tokens), 0) + coalesce(sum(output_tokens), 0) FROM attempts"
    ((spent,),) = sql.rows(
        con, f"{tokens} WHERE (dataset, attempt_id) IN (SELECT (dataset, id) FROM going WHERE \"table\" = 'attempts')"
    )
    again = pending_again(workspace, plan, con, 'SELECT "table", dataset, id FROM going') if found else {}
    return Prune(con, sorted(found, key=_order), files, sum(again.values()), int(spent))


def prune(workspace: Workspace, rows: Prune) -> None:
    """Take out what was rows. No other command may write meanwhile.

    Raises WorkspaceError where a journal or a batch may bring some of it back.
    """
    for path in rows.files:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in rows.files}:
        sync(folder)
    if any(one.attempts or one.verdicts or one.labels for one in rows.rows):
        remove(workspace, rows.con, 'SELECT DISTINCT "table", dataset, id FROM going')


def _order(one: Prunable) -> tuple[int, str]:
    return list(KINDS).index(one.kind), one.dataset


def _row_sizes(workspace: Workspace, con: sql.Connection, table: str) -> dict[str, float]:
    """Dataset -> bytes of a row of a table, on average."""
    found, sizes = find_parts(workspace.root, table), dict[str, int]()
    for file in found.files:
        dataset = os.path.basename(os.path.dirname(file))
        sizes[dataset] = sizes.get(dataset, 0) + found.sizes[file]
    rows = dict(sql.rows(con, f"SELECT dataset, count(*) FROM {VIEWS[table]} GROUP BY dataset"))
    return {dataset: size / rows[dataset] for dataset, size in sizes.items() if rows.get(dataset)}


def _files(workspace: Workspace) -> Iterator[tuple[str, str, Path]]:
    """(kind, dataset, path) of the files that may go."""
    for table in TABLES:
        for file in find_parts(workspace.root, table).copies:
            yield "copies", Path(file).parent.name, Path(file)
    for path in sorted((workspace.root / "rejected").glob("*")):
        if path.is_file():
            yield "rejected", path.name, path
