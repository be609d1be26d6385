"""The name of a policy whose model only its servers know: that of the model behind NeMo Gym's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rolloutops.config.recipe import Recipe
from rolloutops.config.settings import merged
from rolloutops.engines.gym_head import served_model
from rolloutops.errors import WorkspaceError
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect, open_workspace, patterns

UNNAMED = "gym"
"""The engine whose servers know the model, and the name of its policy where they do not say."""
LOGGED = """
SELECT recipe::VARCHAR, fingerprints::VARCHAR
FROM runs
WHERE event = 'start' AND fingerprints IS NOT NULL AND recipe IS NOT NULL
ORDER BY run_id DESC
"""


def with_served_policy(recipe: Recipe, flags: Mapping[str, Any], data: Path, ask: bool) -> Recipe:
    """Return the recipe with the name of the policy that NeMo Gym's servers run, where the recipe names none.

    flags: a command's, whose keys of [collect] count over the recipe's. data: the workspace. ask: the head server is
    asked; otherwise, and where it does not answer, the workspace's last such policy counts. One that was called after
    its engine keeps that name.
    """
    settings = merged(recipe.collect, flags)
    if not _unnamed(recipe, settings):
        return recipe
    before = _last_name(data)
    if before == UNNAMED and _has_attempts(data):
        return recipe
    model = served_model(settings) if ask else None
    return replace(recipe, served=Path(model).name if model else before)


def _unnamed(recipe: Recipe, settings: Mapping[str, Any]) -> bool:
    """Whether the one policy of a recipe has no name but its engine's."""
    return settings.get("engine") == UNNAMED and not recipe.policies and _has_no_name(settings)


def _has_no_name(settings: Mapping[str, Any]) -> bool:
    return not settings.get("policy") and not settings.get("model")


def _has_attempts(data: Path) -> bool:
    con = connect(open_workspace(data))
    return bool(sql.rows(con, f"SELECT 1 FROM attempts WHERE policy = '{UNNAMED}' LIMIT 1"))


def _last_name(data: Path) -> str | None:
    """The policy of the last run of a workspace whose recipe named none, either."""
    with suppress(WorkspaceError):
        workspace: Workspace = open_workspace(data)
        if not patterns(workspace)["runs"]:
            return None
        for recipe, fingerprints in sql.rows(connect(workspace), LOGGED):
            stored = json.loads(recipe)
            settings = merged(stored.get("collect") or {}, stored.get("given") or {})
            if stored.get("policies") or not _has_no_name(settings):
                continue
            for policies in json.loads(fingerprints).values():
                if name := next((name for name, one in policies.items() if one.get("engine") == UNNAMED), None):
                    return str(name)
    return None
