"""What is there to use, and copies of it to edit."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

from rolloutops.config.plugins import BUILT_IN
from rolloutops.config.recipe_file import find_recipe, load
from rolloutops.config.resources import HERE, shipped
from rolloutops.errors import InputError
from rolloutops.steps.step import available

Rows = list[tuple[str, str, str]]


def listing() -> Iterator[tuple[str, Rows]]:
    """(heading, rows of name, what it does, where), for recipes, steps, engines and environments."""
    yield "recipes", [_recipe(path) for path in sorted(shipped("recipes").glob("*.toml"))]
    yield "steps", [(name, summary, str(path)) for name, (summary, path) in available().items()]
    for kind in ("engine", "environment"):
        rows = [(name, _first_line(kind, name), extra or "") for name, extra in BUILT_IN[kind].items()]
        yield f"{kind}s (name, what it does, the extra it needs)", rows


def copy_shipped(name: str, into: Path) -> list[Path]:
    """Copy a recipe, the SQL of its steps and its example inputs. Refuses to overwrite what differs."""
    source = find_recipe(name)
    recipe = load(name)
    copies = {source: into / "recipes" / source.name}
    for step in recipe.steps:
        if (shipped("sql") / f"{step.use}.sql").is_file():
            copies[shipped("sql") / f"{step.use}.sql"] = into / "sql" / f"{step.use}.sql"
    for dataset in recipe.datasets.values():
        for item in dataset.input:
            if (shipped(item)).is_file():
                copies[shipped(item)] = into / item
    for origin, path in copies.items():  # recipes share steps, so a copy of one may be there
        if path.exists() and (not path.is_file() or path.read_bytes() != origin.read_bytes()):
            what_next = "copy into another folder with --into=FOLDER, or remove it"
            raise InputError(f"{path} is there already, and differs: {what_next}")
    for origin, path in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, path)
    return list(copies.values())


def _recipe(path: Path) -> tuple[str, str, str]:
    comments = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return path.stem, comments[0] if comments else "", str(path)


def _first_line(kind: str, name: str) -> str:
    module = HERE / f"{kind}s" / f"{name}.py"
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n")[0]
