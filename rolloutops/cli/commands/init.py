"""`init`: copy a recipe with its files, to be edited."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say, show
from rolloutops.config.paths import as_output
from rolloutops.config.recipe_file import SCHEMA, find_recipe, load
from rolloutops.config.resources import shipped
from rolloutops.errors import InputError


def body(parsed: Parsed) -> None:
    """Copies of a recipe, its SQL and its example files, to be edited."""
    into = as_output(parsed.flags.get("into", "."))
    copies = copy_shipped(parsed.positionals.get("recipe", "demo"), into)
    show(*map(str, copies))
    moved = [] if into.resolve() == Path.cwd() else [f"  cd {shlex.quote(str(into))}"]
    say("next:", *moved, f"  rolloutops run {copies[0].relative_to(into)}")


COMMAND = Command(
    "init",
    body,
    "Copy a recipe with its files for you to edit",
    (Flag("into", str, "the folder to copy into", "."),),
    (Flag("recipe", str, "the recipe's name", "demo"),),
    group="Inspect and set up",
)


def copy_shipped(name: str, into: Path) -> list[Path]:
    """Copy a recipe, the SQL of its steps and its example inputs. Refuses to overwrite what differs."""
    source = find_recipe(name)
    recipe = load(name)
    copies = {source: into / "recipes" / source.name}
    copies[shipped("recipes") / SCHEMA] = into / "recipes" / SCHEMA
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
            raise InputError(f"{path} exists and differs: {what_next}")
    for origin, path in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, path)
    return list(copies.values())
