"""Builds: their files, a line of one with the rollouts it was made of, and the lines that a rollout went into."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rolloutops.build import manifest
from rolloutops.build.holders import RecordedBuild, recorded_builds
from rolloutops.build.manifest_types import Manifest
from rolloutops.build.trace import LINEAGE
from rolloutops.errors import UsageError
from rolloutops.layout import count
from rolloutops.store import sql
from rolloutops.view.index import Moment, make_views, read

LINES = 10
"""Lines of a file that are sent at a time."""

ORIGINS = """
SELECT "row", role, dataset, task_id, policy, rollout_index, attempt_id, reward
FROM read_parquet({lineage})
WHERE split = {split} AND "row" BETWEEN {low} AND {high}
ORDER BY "row", role, dataset, task_id, policy, rollout_index
"""

USES = """
SELECT split, "row", role FROM read_parquet({lineage})
WHERE dataset = {dataset} AND attempt_id = {attempt_id}
ORDER BY split, "row", role
LIMIT 50
"""


def builds(moment: Moment) -> list[dict[str, Any]]:
    """List the data files of builds that are still there, by folder; `rows` of each, and the step that wrote it."""
    return [
        {
            "folder": str(folder),
            "built_at": built_at,
            "step": content["build"]["step"],
            "use": content["build"]["use"],
            "steps": [{name: step[name] for name in ("step", "use", "rows_in", "kept")} for step in content["steps"]],
            "files": [
                {"path": str(folder / one["name"]), "split": one["split"], "rows": one["rows"], "bytes": one["bytes"]}
                for one in content["files"]
                if "split" in one
            ],
        }
        for folder, built_at, content in _builds(moment)
    ]


def lines(moment: Moment, path: str, first: int) -> dict[str, Any]:
    """Return LINES lines of a build's file from a number on (from 1), each with the rollouts that it was made of."""
    for folder, _, content in _builds(moment):
        for one in content["files"]:
            if "split" in one and str(folder / one["name"]) == path:
                return _lines(folder, one["name"], one["split"], one["rows"], _rows_before(content, one["name"]), first)
    raise UsageError(f"{path} is not a file of a build of this workspace")


def _lines(folder: Path, name: str, split: str, rows: int, before: int, first: int) -> dict[str, Any]:
    if not 1 <= first <= max(rows, 1):
        raise UsageError(f"{name} has {count(rows, 'line')}, and none with the number {first}")
    with sql.connect(threads=1) as con:
        texts = [text for (text,) in sql.rows(con, _source(folder / name, first))]
        made_of: dict[int, list[dict[str, Any]]] = {}
        if (folder / LINEAGE).is_file():
            lineage, low = sql.literal(str(folder / LINEAGE)), before + first
            place = {"lineage": lineage, "split": sql.literal(split), "low": low, "high": low + LINES - 1}
            for row in sql.records(con, ORIGINS.format(**place)):
                made_of.setdefault(row.pop("row") - before, []).append(row)
    found = [
        {"line": first + at, "text": text, "value": json.loads(text), "rollouts": made_of.get(first + at, [])}
        for at, text in enumerate(texts)
    ]
    return {"path": str(folder / name), "split": split, "rows": rows, "lines": found}


def _rows_before(content: Manifest, name: str) -> int:
    """How many rows of a split lie in the files before one."""
    own = next(one for one in content["files"] if one["name"] == name)
    files = content["files"][: content["files"].index(own)]
    return sum(one["rows"] for one in files if one.get("split") == own.get("split"))


def uses(moment: Moment, dataset: str, attempt_id: str) -> list[dict[str, Any]]:
    """List the lines of builds that a rollout went into: file, line and role."""
    key = {"dataset": sql.literal(dataset), "attempt_id": sql.literal(attempt_id)}
    found = []
    for folder, _, content in _builds(moment):
        if (folder / LINEAGE).is_file():
            with sql.connect(threads=1) as con:
                rows = sql.records(con, USES.format(lineage=sql.literal(str(folder / LINEAGE)), **key))
            found += [{**_place(folder, content, row), "role": row["role"]} for row in rows]
    return found


def _place(folder: Path, content: Manifest, row: Mapping[str, Any]) -> dict[str, Any]:
    """The file and the line of a row of a split."""
    left = row["row"]
    for one in content["files"]:
        if one.get("split") == row["split"]:
            if left <= one["rows"]:
                return {"path": str(folder / one["name"]), "line": left}
            left -= one["rows"]
    raise UsageError(f"{folder / manifest.NAME} does not list row {row['row']} of {row['split']}: build again")


def _builds(moment: Moment) -> Iterator[RecordedBuild]:
    """Each folder that a recorded command built into, and what its manifest says."""
    make_views(moment, "runs")
    return recorded_builds(partial(read, moment))


def _source(file: Path, first: int) -> str:
    """The query of a file's lines as JSON texts."""
    source = sql.literal(str(file))
    part = f"LIMIT {LINES} OFFSET {first - 1}"
    if file.suffix == ".parquet":
        return f"SELECT to_json(t)::VARCHAR FROM read_parquet({source}) AS t {part}"
    options = "format = 'newline_delimited', maximum_object_size = 1073741824"
    return f"SELECT json::VARCHAR FROM read_json_objects({source}, {options}) {part}"
