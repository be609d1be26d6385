"""Recipes whose steps are [KIND.NAME] tables, the form before [[steps]]: read here, with a warning, and only here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rolloutops.config.redact import tell
from rolloutops.errors import UsageError


def as_step_list(tables: Mapping[str, Any], text: str, path: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's tables with those of its steps as a list, `steps`, in the order in which they are in the text."""
    old = {kind: _group(tables[kind], kind, path) for kind in kinds if kind in tables}
    if not old:
        return dict(tables)
    steps = {(kind, name): {**table, "kind": kind, "name": name} for kind in old for name, table in old[kind].items()}
    order = [step for step in _order(text) if step in steps]
    kind, name = next(iter(order or steps), ("filter", "NAME"))
    first = f'[[steps]], with kind = "{kind}" and name = "{name}" above its other keys'
    if "steps" in tables:
        raise UsageError(f"{path} has both [[steps]] and [{next(iter(old))}.…]; write each step as {first}")
    for kind, name in steps:
        if (kind, name) not in order:
            where = f"{kind} {name!r} is not a [{kind}.{name}] table"
            raise UsageError(f"{path}: {where}; write it as [[steps]], with kind and name above its other keys")
    _warn(path, first)
    rest = {name: table for name, table in tables.items() if name not in old}
    return {**rest, "steps": [steps[step] for step in order]}


@cache
def _warn(path: Path, first: str) -> None:
    tell(f"{path} has its steps as [KIND.NAME] tables, which a later version will not read; write each as {first}")


def _group(table: dict[str, dict[str, Any]], kind: str, path: Path) -> dict[str, dict[str, Any]]:
    for name, step in table.items():
        for key in ("kind", "name"):
            if key in step:
                raise UsageError(f"{path} [{kind}.{name}] {key}: no parameter of a step can have this name; rename it")
    return table


def _order(text: str) -> dict[tuple[str, str], None]:
    """(kind, name) of each table [KIND.NAME], in the order of a text that is TOML.

    A parsed recipe no longer has it where tables of two kinds alternate. A line is a table's head where TOML reads it
    as one, and reads the text up to it: within a text of several lines it does not.
    """
    found: dict[tuple[str, str], None] = {}
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        head = _parsed(line) if line.lstrip().startswith("[") else None
        for kind, group in (head or {}).items():
            named = isinstance(group, dict) and len(group) == 1 and not any(group.values())
            if named and _parsed("\n".join(lines[:number])) is not None:
                found[kind, next(iter(group))] = None
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
