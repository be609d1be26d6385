"""A file that is viewed without a workspace: its rollouts, imported into a folder of their own, and its lines."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

from rolloutops.config.plan import Plan, make_plan
from rolloutops.config.recipe import LastRecipe, Recipe
from rolloutops.errors import InputError, UsageError
from rolloutops.ingest.import_rollouts import import_stage
from rolloutops.ingest.inputs import open_rows
from rolloutops.ingest.staged_rollouts import count_lines
from rolloutops.store.runs import last_recipe
from rolloutops.store.workspace import Workspace, open_workspace, patterns
from rolloutops.view.builds import LINES


def import_file(file: Path, folder: Path) -> tuple[Workspace, Plan, int]:
    """Import a file's rollouts into a folder; the number of lines that are none of a known format.

    A file of other lines, as those of a preference dataset, makes an empty workspace: it is viewed line by line.
    """
    left_out = 0
    try:
        left_out = sum(one.rejected for one in import_stage([str(file)], folder, skip_bad_lines=True))
    except InputError:
        if not file.is_file() or not next(iter(open_rows(file)), None):
            raise
        left_out = count_lines(file)
    workspace = open_workspace(folder, create=True)
    last = last_recipe(workspace) if patterns(workspace)["runs"] else LastRecipe(Recipe(folder, {}), {})
    return workspace, make_plan(last.recipe, earlier=last.flags), left_out


def lines_of(file: Path, first: int) -> dict[str, Any]:
    """Return LINES lines of a file from a number on (from 1), as JSON. A line that is none has a `reason`."""
    rows = takewhile(lambda row: row.line < first + LINES, open_rows(file))
    found: list[dict[str, Any]] = [
        {
            "line": row.line,
            "text": row.raw.decode("utf-8", "replace"),
            "value": row.value,
            "reason": row.reason,
            "rollouts": [],
        }
        for row in rows
        if row.line >= first
    ]
    if not found and first > 1:
        raise UsageError(f"{file} has no line {first}")
    last = int(found[-1]["line"]) if found else 0  # a last line may lack its end
    return {"path": str(file), "split": file.name, "rows": max(count_lines(file), last), "lines": found}
