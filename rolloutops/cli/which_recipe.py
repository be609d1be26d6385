"""The plan of a command line: the recipe that it means, with its flags laid over it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from rolloutops.cli.flags import Parsed
from rolloutops.cli.which_workspace import find_here, refuse_twin
from rolloutops.config.paths import as_path
from rolloutops.config.plan import Plan, make_plan
from rolloutops.config.query_limits import limit_queries
from rolloutops.config.recipe import from_flags, with_agent
from rolloutops.config.recipe_file import load
from rolloutops.config.settings import Dataset
from rolloutops.config.shard import read_shard
from rolloutops.errors import UsageError

LOOKING = ("status", "metrics", "sql", "export", "verify", "view", "show", "label")
"""Commands that find the workspace of the folder in which they run; what reads inputs or own steps needs a name."""

ASKING = ("collect", "run", "check")
"""Commands that ask endpoints."""


def plan_of(parsed: Parsed, table: str = "collect") -> Plan:
    """Make the plan of a command line, of the recipe named, the one its flags make, or the workspace's last."""
    from rolloutops.collect.served_policy import with_served_policy

    flags: dict[str, Any] = {**parsed.flags, **parsed.overrides}
    limit_queries(flags)  # before the workspace is asked for its last recipe
    if not {"data", "input"} & set(flags) and parsed.command in LOOKING and not _recipe_name(parsed):
        flags["data"] = str(find_here(parsed.command))
    earlier: Mapping[str, Any] = {}
    agent = flags.pop("agent_name", None)
    if "shard" in flags:
        flags["shard"] = read_shard(flags["shard"], os.environ)
    if name := _recipe_name(parsed):
        recipe = load(name)
        if "data" not in flags:
            refuse_twin(recipe.data, recipe.folder)
    elif flags.get("input"):
        recipe = from_flags(flags)
    elif flags.get("data"):
        from rolloutops.store.runs import last_recipe
        from rolloutops.store.workspace import chunked_datasets, open_workspace

        workspace = open_workspace(as_path(flags["data"]))
        recipe, earlier = last_recipe(workspace)
        if "environment" in flags or "dataset" in flags:  # it may be a dataset that the last recipe did not name
            named = [name.strip() for name in flags["dataset"].split(",")] if "dataset" in flags else None
            there = [name for name in chunked_datasets(workspace) if named is None or name in named]
            others = dict.fromkeys(there, Dataset())
            recipe = dataclasses.replace(recipe, datasets={**others, **recipe.datasets})
    else:
        alone = " or --input=FILE" if parsed.command in ("chunk", "collect", "run", "check") else ""
        raise UsageError(f"{parsed.command} needs a recipe, or --data=WORKSPACE{alone}")
    if agent is not None:
        flags = with_agent(recipe, flags, agent, earlier)
    limit_queries(flags, recipe.duckdb)
    recipe = with_served_policy(recipe, {**earlier, **flags}, as_path(flags.get("data", recipe.data)), asks(parsed))
    return make_plan(recipe, table, flags, earlier)


def asks(parsed: Parsed) -> bool:
    """Whether a command asks endpoints, and so may ask which model answers."""
    return parsed.command in ASKING and not parsed.flags.get("dry_run", False)


def _recipe_name(parsed: Parsed) -> str | None:
    """The recipe that a command line names."""
    return parsed.positionals.get("recipe") or parsed.flags.get("recipe")
