"""A connection to a workspace for what is made of rewards: they are of one version of each verifier."""

from __future__ import annotations

from rolloutops.collect.outdated import pinned, refuse_waiting
from rolloutops.config.recipe import Recipe
from rolloutops.config.redact import tell
from rolloutops.store import sql, workspace
from rolloutops.store.workspace import open_workspace


def connect(recipe: Recipe) -> sql.Connection:
    """Connect to the workspace with its views, for tables of rewards."""
    opened = open_workspace(recipe.data)
    recipe = pinned(opened, recipe)
    con = workspace.connect(opened, recipe.plan())
    note_waiting(con, recipe)
    return con


def note_waiting(con: sql.Connection, recipe: Recipe) -> None:
    """Warn of verdicts that are not of the present version; raise where the command `verify` must run first."""
    tell(*refuse_waiting(con, recipe))
