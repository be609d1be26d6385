"""The filter of a page as a step: a SQL file beside the recipe, which keeps what the page shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.store.output import replacing_file
from rolloutops.view.filters import FACETS, Filter, require_condition
from rolloutops.view.index import Moment, make_views, read

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
"""The name of a step."""


def save_step(moment: Moment, folder: Path, name: str, chosen: Filter) -> dict[str, Any]:
    """Write a filter to filter/NAME.sql below a folder, and say what to add to the recipe.

    Raises UsageError where the name is none, the filter is empty or wrong, or another file has the name.
    """
    if not NAME.fullmatch(name):
        raise UsageError("a step's name has small letters, digits and underscores, as in: short_answers")
    conditions = list(_conditions(chosen))
    if not conditions:
        raise UsageError("there is no filter to save: write a condition, or choose values")
    where = "\n    AND ".join(conditions)
    query = f"SELECT s.*\nFROM selected AS s\nWHERE {where}\n"
    make_views(moment, f"rollouts {query}")
    read(moment, f"SELECT 1 FROM ({query.replace('FROM selected AS s', 'FROM rollouts AS s')}) LIMIT 0")
    path = folder / "filter" / f"{name}.sql"
    text = f"-- Keep the rollouts that the viewer showed under this filter.\n{query}"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UsageError(f"{path} already exists: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    return {"path": str(path), "recipe": f'[[steps]]\nkind = "filter"\nname = "{name}"\nuse = "filter/{name}"'}


def _conditions(chosen: Filter) -> list[str]:
    """A filter's parts, each as a condition over columns of the rollouts."""
    found = []
    if chosen.condition:
        require_condition(chosen.condition)
        found.append(f"(\n{chosen.condition}\n)")
    for facet, values in chosen.values.items():
        if facet == "tool":
            called = [f"list_contains(s.tool_names, {sql.literal(value)})" for value in values if value]
            called += ["coalesce(len(s.tool_names), 0) = 0"] if "" in values else []
            found.append(f"({' OR '.join(called)})")
        else:
            listed = ", ".join(map(sql.literal, values))
            found.append(f"coalesce(s.{FACETS[facet]}, '') IN ({listed})")
    if chosen.low is not None:
        found.append(f"s.reward >= {sql.literal(chosen.low)}")
    if chosen.high is not None:
        found.append(f"s.reward <= {sql.literal(chosen.high)}")
    return found
