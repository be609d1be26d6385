"""What would be pending in a workspace if some of its rows were not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rolloutops.store import sql
from rolloutops.store.base_views import table_views, views_script
from rolloutops.store.definitions import define
from rolloutops.store.parts import ID_COLUMNS, find_tables
from rolloutops.store.workspace import Workspace, spill_folder

PENDING = "SELECT dataset, policy, count(*) FROM pending GROUP BY dataset, policy"

Counts = dict[tuple[str, str], int]
"""Dataset and policy -> rollouts."""


def pending_again(
    workspace: Workspace, plan: Sequence[Mapping[str, object]], con: sql.Connection, query: str
) -> Counts:
    """The rollouts that become pending once rows are taken out, by the rules that `collect` goes by.

    con: the workspace as it is. query: the `table`, `dataset` and `id` of the rows, over what `con` has.
    """
    before, after = _pending(con), _pending_without(workspace, plan, con, query)
    return {key: more for key, number in after.items() if (more := number - before.get(key, 0))}


def _pending(con: sql.Connection) -> Counts:
    return {(dataset, policy): number for dataset, policy, number in sql.rows(con, PENDING)}


def _pending_without(
    workspace: Workspace, plan: Sequence[Mapping[str, object]], chosen: sql.Connection, query: str
) -> Counts:
    found = find_tables(workspace.root)
    files = {table: parts.files or None for table, parts in found.items()}
    overlapping = {table: parts.overlapping for table, parts in found.items()}
    with sql.connect(spill=spill_folder(workspace)) as con:
        sql.run(con, "\n".join(table_views(files, None, overlapping, {table: f"all_{table}" for table in ID_COLUMNS})))
        con.register("rows_that_go", sql.arrow(chosen, query))
        sql.run(con, "CREATE TABLE gone AS FROM rows_that_go")
        con.unregister("rows_that_go")
        for table, column in ID_COLUMNS.items():
            sql.run(
                con,
                f"CREATE VIEW left_{table} AS FROM all_{table} AS t ANTI JOIN gone AS g "
                f"ON g.\"table\" = '{table}' AND g.dataset = t.dataset AND g.id = t.{column}",
            )
        left = {table: f"left_{table}" for table in ID_COLUMNS}
        define(con, views_script({**files, **dict.fromkeys(ID_COLUMNS)}, plan, left))
        return _pending(con)
