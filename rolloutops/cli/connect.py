"""A connection to a workspace for what is made of rewards: they are of one version of each verifier."""

from __future__ import annotations

from rolloutops.collect.outdated import pinned, refuse_waiting
from rolloutops.config.plan import Plan
from rolloutops.config.redact import tell
from rolloutops.store import sql, workspace
from rolloutops.store.workspace import open_workspace


def connect(plan: Plan) -> sql.Connection:
    """Connect to the workspace with its views, for tables of rewards."""
    opened = open_workspace(plan.data)
    plan = pinned(opened, plan)
    con = workspace.connect(opened, plan.rows)
    note_waiting(con, plan)
    return con


def note_waiting(con: sql.Connection, plan: Plan) -> None:
    """Warn of verdicts that are not of the present version; raise where the command `verify` must run first."""
    tell(*refuse_waiting(con, plan))
