"""The manifest of a build: everything that is needed to say where its files came from, and to make them again.

It holds no time and no run id: the same workspace, recipe and version give the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from rolloutops import __version__, sql
from rolloutops.steps.selection import Funnel

NAME = "manifest.json"

POLICIES = """
SELECT s.dataset, s.policy, s.engine, s.model, s.verifier, s.verifier_version, count(*) AS rollouts
FROM selection.rollouts AS s
SEMI JOIN (SELECT unnest(keys, recursive := true) FROM result) AS u USING (dataset, task_id, policy, rollout_index)
GROUP BY ALL
ORDER BY ALL
"""

SPLITS = """
SELECT split, dataset, count(*) AS rows
FROM (SELECT split, keys[1].dataset AS dataset FROM result)
GROUP BY ALL
ORDER BY ALL
"""


def write(
    con: sql.Connection,
    folder: Path,
    build: Funnel,
    path: Sequence[Funnel],
    files: Mapping[str, tuple[int, str]],
    rollouts: Mapping[str, int],
    seed: int,
    validation: float,
) -> None:
    """Write manifest.json. con: has the view `result` of the build. path: the steps before it. files: name -> (rows,
    sha256). rollouts: how many the build read and used."""
    splits: dict[str, dict[str, int]] = {}
    for split, dataset, rows in sql.rows(con, SPLITS):
        splits.setdefault(split, {})[dataset] = rows
    content = {
        "rolloutops": __version__,
        "duckdb": duckdb.__version__,
        "build": {**_step(build), "seed": seed, "validation": validation, "reports": build.reports},
        "rollouts": rollouts,
        "splits": splits,
        "files": [
            {"name": name, "rows": rows, "bytes": (folder / name).stat().st_size, "sha256": sha}
            for name, (rows, sha) in files.items()
        ],
        "policies": sql.records(con, POLICIES),
        "steps": [{**_step(funnel), **_counts(funnel)} for funnel in path],
    }
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, default=str, allow_nan=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """As JSON can hold it: infinities and NaN as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a build's folder, empty where there is none."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "rolloutops" in found else {}


def files_of(folder: Path) -> set[str]:
    """The names of the files that a build wrote into its folder."""
    found = read(folder)
    return {NAME, *(file["name"] for file in found["files"])} if found else set()


def _step(funnel: Funnel) -> dict[str, Any]:
    return {
        "step": funnel.step,
        "kind": funnel.kind,
        "use": funnel.use,
        "from": funnel.start,
        "parameters": dict(funnel.parameters),
        "sql_sha256": hashlib.sha256(funnel.source.encode()).hexdigest(),
        "sql": funnel.source,
    }


def _counts(funnel: Funnel) -> dict[str, Any]:
    return {
        "rows_in": funnel.rows_in,
        "kept": funnel.kept,
        "dropped": funnel.dropped,
        "rows": funnel.rows,
        "datasets": [{**vars(kept), "dropped": kept.dropped} for kept in funnel.datasets],
        "reports": funnel.reports,
    }
