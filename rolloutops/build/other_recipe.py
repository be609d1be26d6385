"""Whose build is it: two recipes on one workspace that both have a build `sft` would write the same folder in turn."""

from __future__ import annotations

import json
from pathlib import Path

from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect

BUILT = """
SELECT recipe->>'path', outputs::VARCHAR
FROM runs
WHERE event = 'end' AND outputs IS NOT NULL AND outputs::VARCHAR <> '[]'
ORDER BY run_id DESC
"""
"""The recipe's file and the files written, of each build, the newest first."""


def refuse_other_recipes(workspace: Workspace, plan: Plan, only: str | None = None) -> None:
    """Raise UsageError if a build's folder was written by another recipe. only: look at this build alone."""
    folders = {
        plan.output(step): step.name for step in plan.steps if step.kind == "build" and only in (None, step.name)
    }
    there = {folder: name for folder, name in folders.items() if folder.is_dir()}
    if not there or plan.path is None:
        return
    for path, files in sql.rows(connect(workspace), BUILT):
        written = {_place(Path(file["path"]).parent) for file in json.loads(files)}
        for folder in [folder for folder in there if _place(folder) in written]:
            name = there.pop(folder)
            if path is not None and not _same(Path(path), plan.path):
                raise UsageError(
                    f"[build.{name}] {folder} was built by another recipe, {path}: replace it with --replace, or give "
                    "this build another name, or another output"
                )


def _place(folder: Path) -> str:
    """A folder as it can be compared: one in `exports` by its name, as a workspace may have another name today."""
    return f"exports/{folder.name}" if folder.parent.name == "exports" else str(folder.absolute())


def _same(earlier: Path, now: Path) -> bool:
    """Whether two files are one recipe: also one that was moved, with its name, or copied together with its workspace,
    here or to another machine."""
    if earlier.name != now.name:
        return False
    try:
        return earlier == now.absolute() or earlier.read_bytes() == now.read_bytes()
    except OSError:  # it is not there, or not for us to read
        return True
