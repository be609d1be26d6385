"""`list`: what is there to use: recipes, steps, engines and environments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from rolloutops.cli.flags import Command, Parsed
from rolloutops.cli.printing import show
from rolloutops.cli.tables import table
from rolloutops.config.plugins import BUILT_IN
from rolloutops.config.resources import HERE, shipped

Rows = list[tuple[str, str, str]]


def body(parsed: Parsed) -> None:
    """Recipes, steps, engines and environments."""
    tables = (f"{heading}\n{table(('name', 'what it does', 'where'), rows)}" for heading, rows in _listing())
    show("\n\n".join(tables))


COMMAND = Command("list", body, "recipes, steps, engines and environments", group="looking")


def _listing() -> Iterator[tuple[str, Rows]]:
    """(heading, rows of name, what it does, where), for recipes, steps, engines and environments."""
    from rolloutops.steps.step import available

    yield "recipes", [_recipe(path) for path in sorted(shipped("recipes").glob("*.toml"))]
    yield "steps", [(name, summary, str(path)) for name, (summary, path) in available().items()]
    for kind in ("engine", "environment"):
        rows = [(name, _first_line(kind, name), extra or "") for name, extra in BUILT_IN[kind].items()]
        yield f"{kind}s (name, what it does, the extra it needs)", rows


def _recipe(path: Path) -> tuple[str, str, str]:
    comments = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    return path.stem, comments[0] if comments else "", str(path)


def _first_line(kind: str, name: str) -> str:
    module = HERE / f"{kind}s" / f"{name}.py"
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n")[0]
