"""From a line of a training file back to where it came from: steps, rollouts, attempts, verdicts, tasks, inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rolloutops.build import manifest
from rolloutops.build.manifest_types import Manifest
from rolloutops.errors import InputError, UsageError
from rolloutops.layout import count
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect, open_workspace

LINEAGE = "lineage.parquet"

ORIGINS = """
SELECT l.role, l.dataset, l.task_id, l.policy, l.rollout_index, l.reward, l.attempt_id, a.attempt, a.run_id, a.engine,
    a.model, a.finish_reason, a.turns, a.tool_calls, a.input_tokens, a.output_tokens,
    a.started_at::VARCHAR AS started_at, a.seconds, a.request::VARCHAR AS request, a.text, a.row_hash,
    t.origin AS file, t.line, t.row::VARCHAR AS task,
    (
        SELECT count(*) FROM attempts AS tried
        WHERE tried.dataset = l.dataset AND tried.task_id = l.task_id AND tried.policy = l.policy
            AND tried.rollout_index = l.rollout_index AND tried.attempt_id < l.attempt_id
    ) AS earlier_attempts,
    NOT EXISTS (
        FROM tasks AS now
        WHERE now.dataset = l.dataset AND now.task_id = l.task_id AND now.row_hash = a.row_hash
    ) AS task_changed
FROM read_parquet({lineage}) AS l
LEFT JOIN attempts AS a ON a.dataset = l.dataset AND a.attempt_id = l.attempt_id
LEFT JOIN task_log AS t
    ON t.dataset = l.dataset AND t.task_id = l.task_id AND t.row_hash = a.row_hash AND NOT t.removed
WHERE l.split = {split} AND l.row = {row}
QUALIFY row_number() OVER (PARTITION BY l.dataset, l.attempt_id, l.role ORDER BY t.version DESC) = 1
ORDER BY l.role, l.dataset, l.task_id, l.policy, l.rollout_index
"""

VERDICTS = """
SELECT v.attempt_id, v.verdict_id, v.verifier, v.verifier_version, v.reward, to_json(v.metrics)::VARCHAR AS metrics,
    v.error, v.error_message, v.run_id
FROM verdicts AS v
SEMI JOIN (FROM read_parquet({lineage}) WHERE split = {split} AND row = {row}) AS l USING (dataset, attempt_id)
ORDER BY v.verdict_id
"""

RUNS = "SELECT run_id, command, happened_at::VARCHAR AS began, git_commit, versions::VARCHAR AS versions FROM runs"


def trace(file: Path, row: int, data: Path | None = None) -> dict[str, Any]:
    """Where a row of a build's data file came from, as plain JSON.

    file: train.jsonl or another data file, any shard. row: from 1. data: the workspace, where it does not lie above the
    file or where the recipe had it. Raises InputError for a file of no build, or one that was changed since.
    """
    content = _manifest_of(file)
    split, place = _place(file, row, content)
    lineage = file.parent / LINEAGE
    _refuse_changed(lineage, content)
    found = {
        "file": str(file),
        "row": row,
        "split": split,
        "row_of_split": place,
        "line": _line(file, row),
        "build": {name: content["build"][name] for name in ("step", "use", "parameters", "seed")},
        "steps": [
            {name: step[name] for name in ("step", "use", "parameters", "rows_in", "kept", "dropped")}
            for step in content["steps"]
        ],
    }
    workspace = _workspace_of(file, content, data)
    return {**found, "workspace": str(workspace.root), "rollouts": _rollouts(workspace, lineage, split, place, content)}


def _manifest_of(file: Path) -> Manifest:
    if not file.is_file():
        raise InputError(
            f"there is no file {file}: name a data file of a build, e.g. data/demo/exports/sft/train.jsonl"
        )
    content = manifest.read(file.parent)
    known = [one["name"] for one in content["files"] if "split" in one] if content else []
    if content is None or not known:
        raise InputError(f"{file} is not part of a build: no {manifest.NAME} next to it lists it")
    if file.name not in known:
        raise InputError(f"{file} is not a data file of this build; its data files: {', '.join(known)}")
    _refuse_changed(file, content)
    return content


def _refuse_changed(file: Path, content: Manifest) -> None:
    """A file whose bytes are not those that the build wrote has rows that its lineage does not know."""
    reported = next((one["sha256"] for one in content["files"] if one["name"] == file.name), None)
    if not file.is_file():
        raise InputError(f"{file} is missing: build again")
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != reported:
            raise InputError(f"{file} was changed since it was built ({manifest.NAME} has another sha256): build again")


def _place(file: Path, row: int, content: Manifest) -> tuple[str, int]:
    """The split that a file belongs to, and the row's number in it: the files of a split follow one another."""
    own = next(one for one in content["files"] if one["name"] == file.name)
    if not 1 <= row <= own["rows"]:
        raise UsageError(f"--row={row}: {file} has {count(own['rows'], 'row')}; rows are numbered from 1")
    before = 0
    for one in content["files"]:
        if one is own:
            break
        before += one["rows"] if one.get("split") == own["split"] else 0
    return own["split"], before + row


def _workspace_of(file: Path, content: Manifest, data: Path | None) -> Workspace:
    """The workspace asked for, else the one that the file is in, else the one that the recipe named."""
    if data is not None:
        return open_workspace(data)
    for folder in file.absolute().parents:
        if (folder / "runs").is_dir() and (folder / "attempts").is_dir():
            return Workspace(folder)
    named = (content.get("recipe") or {}).get("data")
    if named and (Path(named) / "runs").is_dir():
        return Workspace(Path(named))
    raise UsageError(f"the workspace that {file} was built from was not found: pass it with --data")


def _rollouts(workspace: Workspace, lineage: Path, split: str, place: int, content: Manifest) -> list[dict[str, Any]]:
    """The rollouts behind a row, with their tasks, attempts, runs and verdicts."""
    con = connect(workspace)
    where = {"lineage": sql.literal(str(lineage)), "split": sql.literal(split), "row": place}
    runs = {run["run_id"]: run for run in sql.records(con, f"{RUNS} WHERE event = 'start'")}
    verified: dict[str, list[dict[str, Any]]] = {}
    for verdict in sql.records(con, VERDICTS.format(**where)):
        verdict["metrics"] = json.loads(verdict["metrics"] or "{}")
        verified.setdefault(verdict["attempt_id"], []).append(verdict)
    found = []
    for row in sql.records(con, ORIGINS.format(**where)):
        versions: set[tuple[str | None, str | None]] = {
            (one["verifier"], name)
            for one in content["policies"]
            for name in one.get("verdict_versions") or (one["verifier_version"],)
            if (one["dataset"], one["policy"]) == (row["dataset"], row["policy"])
        }
        verdicts = verified.get(row["attempt_id"], [])
        counts = [one for one in verdicts if (one["verifier"], one["verifier_version"]) in versions]
        row["request"] = json.loads(row["request"]) if row["request"] else None
        row["task"] = json.loads(row["task"]) if row["task"] else None
        row["attempt_lost"] = row["attempt"] is None
        row["run"] = _run(runs.get(row["run_id"]))
        row["verdict"] = counts[-1] if counts else None
        row["other_verdicts"] = [one for one in verdicts if one is not row["verdict"]]
        found.append(row)
    return found


def _run(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if run is None else {**run, "versions": json.loads(run["versions"] or "{}")}


def _line(file: Path, row: int) -> Any:
    """The row itself, as JSON."""
    con, source = sql.connect(), sql.literal(str(file))
    if file.suffix == ".parquet":
        query = f"SELECT to_json(t)::VARCHAR FROM read_parquet({source}) AS t LIMIT 1 OFFSET {row - 1}"
    else:
        options = "format = 'newline_delimited', maximum_object_size = 1073741824"
        query = f"SELECT json::VARCHAR FROM read_json_objects({source}, {options}) LIMIT 1 OFFSET {row - 1}"
    return json.loads(sql.rows(con, query)[0][0])
