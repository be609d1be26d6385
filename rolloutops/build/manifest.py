"""The manifest of a build: everything that is needed to say where its files came from, and to make them again.

It holds no time of its own: the same workspace, recipe and version give the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa

from rolloutops import __version__
from rolloutops.build.manifest_types import (
    InputFile,
    Manifest,
    ManifestInput,
    RolloutCounts,
    SentParameters,
    StepSource,
)
from rolloutops.config.build_options import BuildOptions
from rolloutops.formats.strict_json import to_json_safe
from rolloutops.ingest.remote import source_of
from rolloutops.steps.selection import StepStats
from rolloutops.store import sql
from rolloutops.store.runs import MadeBy

NAME = "manifest.json"

INPUTS = """
WITH rewarded AS (
    SELECT dataset, reward, count(*) AS rollouts, bit_xor(md5_number(attempt_id)) AS hash
    FROM selection.rollouts
    GROUP BY dataset, reward
),

rollouts_of AS (
    SELECT dataset, sum(rollouts)::BIGINT AS rollouts,
        md5(bit_xor(md5_number(concat_ws(' ', hash, reward)))::VARCHAR) AS hash
    FROM rewarded
    GROUP BY dataset
),

files_of AS (
    SELECT dataset, origin AS file, count(*) AS tasks,
        sha256(string_agg(row_hash, chr(10) ORDER BY row_hash)) AS rows_sha256
    FROM tasks
    GROUP BY dataset, origin
)

SELECT r.dataset, r.rollouts, r.hash AS rollouts_hash, f.file, f.tasks, f.rows_sha256
FROM rollouts_of AS r
LEFT JOIN files_of AS f USING (dataset)
ORDER BY r.dataset, f.file
"""
"""What a build stands on: the rows of each input file (a hash of their sorted hashes), and the rollouts with their
rewards (the exclusive or of their hashes): in neither does order matter."""

POLICIES = """
WITH names AS (
    SELECT dataset, verifier_version, list(DISTINCT name ORDER BY name) AS verdict_versions
    FROM version_names
    GROUP BY dataset, verifier_version
)

SELECT m.dataset, m.policy, m.engine, m.model, m.verifier, m.verifier_version, sum(m.rollouts)::BIGINT AS rollouts,
    any_value(n.verdict_versions) AS verdict_versions
FROM staging.makers AS m
LEFT JOIN names AS n ON n.dataset = m.dataset AND n.verifier_version = m.verifier_version
GROUP BY m.dataset, m.policy, m.engine, m.model, m.verifier, m.verifier_version
ORDER BY ALL
"""
"""Who made and verified the rollouts used. verdict_versions: what verdicts of that verifier's version may call it."""

UNASKED = """
WITH known AS (
    SELECT DISTINCT policy, EXISTS (FROM plan AS p WHERE p.dataset = u.dataset AND p.policy = u.policy) AS asked
    FROM staging.makers AS u
)

SELECT policy FROM known WHERE NOT asked AND (SELECT bool_or(asked) FROM known) ORDER BY policy
"""
"""Policies behind the lines that the recipe does not ask for, where it asks for one of the others."""

REQUESTS = """
SELECT dataset, policy, request::VARCHAR AS request, count(*) AS rollouts
FROM attempts
SEMI JOIN staging.used USING (dataset, attempt_id)
WHERE request IS NOT NULL
GROUP BY dataset, policy, request
QUALIFY row_number() OVER (PARTITION BY dataset, policy ORDER BY rollouts DESC, request) <= 3
ORDER BY dataset, policy, rollouts DESC, request
"""
"""The sampling parameters that were sent, the three most frequent of each policy and dataset."""

RUNS = """
SELECT s.run_id, any_value(s.rollouts) AS rollouts, any_value(r.command) AS command,
    any_value(r.git_commit) AS git_commit, any_value(r.versions)::VARCHAR AS versions,
    any_value(r.recipe_hash) AS recipe_hash
FROM (SELECT run_id, sum(rollouts)::BIGINT AS rollouts FROM staging.makers GROUP BY run_id) AS s
LEFT JOIN (FROM runs WHERE event = 'start') AS r USING (run_id)
GROUP BY s.run_id
ORDER BY s.run_id
"""

ROLES = "SELECT DISTINCT role FROM staging.used ORDER BY role"
"""The parts that rollouts play in the lines: completion, chosen, rejected, evidence."""

SPLITS = """
SELECT split, dataset, count(*) AS rows
FROM (SELECT split, keys[1].dataset AS dataset FROM result)
GROUP BY ALL
ORDER BY ALL
"""


def describe(
    con: sql.Connection,
    build: StepStats,
    path: Sequence[StepStats],
    rollouts: RolloutCounts,
    options: BuildOptions,
    made_by: MadeBy,
) -> Manifest:
    """The manifest, with no file yet. con: has the lines of the build, and the tables of its rollouts.

    path: the steps before it. rollouts: how many the build read and used. made_by: recipe, recipe_hash, versions and
    git_commit of the command.
    """
    splits: dict[str, dict[str, int]] = {split: {} for split in options.splits}
    for split, dataset, rows in sql.rows(con, SPLITS):
        splits[split][dataset] = rows
    own = {name: value for name, value in vars(options).items() if name not in ("output", "allow_empty")}
    requests: dict[tuple[str, str], list[SentParameters]] = {}
    for row in sql.records(con, REQUESTS):
        sent: SentParameters = {"parameters": json.loads(row["request"]), "rollouts": row["rollouts"]}
        requests.setdefault((row["dataset"], row["policy"]), []).append(sent)
    versions = {"python": platform.python_version(), "duckdb": duckdb.__version__, "pyarrow": pa.__version__}
    content = {
        "rolloutops": __version__,
        "duckdb": duckdb.__version__,
        "versions": {**versions, **made_by.get("versions", {})},
        "git_commit": made_by.get("git_commit"),
        "build": {**_step(build), **own, "reports": build.reports},
        "rollouts": rollouts,
        "splits": splits,
        "roles": [role for (role,) in sql.rows(con, ROLES)],
        "steps": [{**_step(stats), **_counts(stats)} for stats in path],
        "policies": [
            {**row, "requests": requests.get((row["dataset"], row["policy"]), [])} for row in sql.records(con, POLICIES)
        ],
        "unasked_policies": [policy for (policy,) in sql.rows(con, UNASKED)],
        "inputs": _inputs(con),
        "runs": [{**row, "versions": json.loads(row["versions"] or "{}")} for row in sql.records(con, RUNS)],
        "recipe_hash": made_by.get("recipe_hash"),
        "recipe": made_by.get("recipe"),
        "files": [],
    }
    made: Manifest = to_json_safe(content)
    return made


def _inputs(con: sql.Connection) -> list[ManifestInput]:
    inputs: dict[str, ManifestInput] = {}
    for row in sql.records(con, INPUTS):
        file: InputFile = {"file": row["file"], "tasks": row["tasks"], "rows_sha256": row["rows_sha256"]}
        if source := source_of(row["file"] or ""):
            file["address"], file["pin"] = source
        about: ManifestInput = {
            "dataset": row["dataset"],
            "rollouts": row["rollouts"],
            "rollouts_hash": row["rollouts_hash"],
            "files": [],
        }
        inputs.setdefault(row["dataset"], about)["files"].append(file)
    return list(inputs.values())


def write(folder: Path, content: Manifest) -> None:
    """Write manifest.json."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest | None:
    """The manifest of a build's folder; None where there is none."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast(Manifest, found) if isinstance(found, dict) and "rolloutops" in found else None


def files_of(folder: Path) -> set[str]:
    """The names of the files that a build wrote into its folder."""
    found = read(folder)
    return {NAME, *(file["name"] for file in found["files"])} if found else set()


def by_dataset(content: Manifest) -> dict[str, int]:
    """Dataset -> lines, in all splits."""
    counts: dict[str, int] = {}
    for rows in content["splits"].values():
        for name, n in rows.items():
            counts[name] = counts.get(name, 0) + n
    return counts


def about(source: str) -> str:
    """What a step does: the comment lines that its file begins with, up to the first that declares something."""
    said = []
    for line in source.splitlines():
        text = line.removeprefix("--").strip()
        if not line.startswith("--") or text.startswith(("param ", "check:", "report:", "target:", "format:")):
            break
        said.append(text)
    return " ".join(said)


def _step(stats: StepStats) -> StepSource:
    return {
        "step": stats.step,
        "kind": stats.kind,
        "use": stats.use,
        "about": about(stats.source),
        "from": stats.start,
        "parameters": dict(stats.parameters),
        "sql_sha256": hashlib.sha256(stats.source.encode()).hexdigest(),
        "sql": stats.source,
    }


def _counts(stats: StepStats) -> Mapping[str, Any]:
    return {
        "rows_in": stats.rows_in,
        "kept": stats.kept,
        "dropped": stats.dropped,
        "rows": stats.rows,
        "datasets": [{**vars(kept), "dropped": kept.dropped} for kept in stats.datasets],
        "reports": stats.reports,
    }
