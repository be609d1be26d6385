"""Which builds hold lines that were made of some rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.build import manifest
from rolloutops.build.manifest_types import Manifest
from rolloutops.build.trace import LINEAGE
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, spill_folder

OUTPUTS = """
SELECT epoch_ms(happened_at) AS built_at, outputs::VARCHAR AS outputs
FROM runs
WHERE event = 'end' AND outputs IS NOT NULL
ORDER BY run_id
"""

LINES = """
SELECT count(DISTINCT (split, "row")), count(DISTINCT attempt_id)
FROM read_parquet({lineage})
SEMI JOIN gone USING (dataset, attempt_id)
"""


class Holder(NamedTuple):
    """A build's folder with lines that some rollouts are behind; None where its lineage is not there any more."""

    folder: Path
    lines: int | None
    rollouts: int | None


def find_holders(workspace: Workspace, con: sql.Connection, query: str) -> list[Holder]:
    """The builds that hold lines of rollouts. query: their `dataset` and `attempt_id`, over what a connection has."""
    folders = sorted(set(_folders(workspace, con)))
    if not folders:
        return []
    gone = sql.arrow(con, query)
    with sql.connect(spill=spill_folder(workspace)) as own:
        own.register("gone", gone)
        found = [_holder(own, folder) for folder in folders]
    return [one for one in found if one.lines != 0]


def _holder(con: sql.Connection, folder: Path) -> Holder:
    if not (folder / LINEAGE).is_file():
        return Holder(folder, None, None)
    query = LINES.format(lineage=sql.literal([escape(str(folder / LINEAGE))]))
    return Holder(folder, *sql.rows(con, query)[0])


def _folders(workspace: Workspace, con: sql.Connection) -> Iterator[Path]:
    """The folders of builds that are there: those that commands recorded, and those in the workspace itself."""
    for folder in (*(one.folder for one in recorded_builds(partial(sql.records, con))), *_exports(workspace)):
        yield folder.absolute()


def _exports(workspace: Workspace) -> Iterator[Path]:
    for folder in (workspace.root / "exports").glob("*"):
        if manifest.read(folder) is not None:
            yield folder


class RecordedBuild(NamedTuple):
    """A build's folder that is still there. built_at: the last time, in ms since 1970."""

    folder: Path
    built_at: int
    manifest: Manifest


def recorded_builds(read: Callable[[str], list[dict[str, Any]]]) -> Iterator[RecordedBuild]:
    """List the builds that commands recorded, once each, the oldest folder first.

    read: runs a query over the view `runs` and returns its rows, column -> value.
    """
    folders: dict[Path, int] = {}
    for run in read(OUTPUTS):
        for one in json.loads(run["outputs"]):
            folders[Path(one["path"]).parent] = run["built_at"]
    for folder, built_at in folders.items():
        content = manifest.read(folder)
        if content is not None:
            yield RecordedBuild(folder, built_at, content)
