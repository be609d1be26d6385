"""`new`: begin a project: a recipe, an environment, a step and a golden case in a new folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say, show
from rolloutops.config.paths import as_output
from rolloutops.config.resources import shipped
from rolloutops.errors import InputError

FILES = {
    "recipe.toml": "{name}.toml",
    "environment.py": "environment.py",
    "sql/filter/concise.sql": "sql/filter/concise.sql",
    "bounds.txt": "tests/filter/concise/bounds.txt",
    "tasks.jsonl": "tasks.jsonl",
}
"""Template -> its place in the project. The recipe has the project's name, so that its workspace is data/NAME."""


def body(parsed: Parsed) -> None:
    """A new folder with files to start from, and the commands to run next."""
    folder = as_output(parsed.positionals["name"])
    show(*map(str, create(folder)))
    recipe = shlex.quote(f"{folder.name}.toml")
    say(
        "next:",
        f"  cd {shlex.quote(str(folder))}",
        f"  rolloutops check {recipe}",
        "  rolloutops test",
        f"  rolloutops run {recipe}",
        "  rolloutops status",
    )


COMMAND = Command(
    "new",
    body,
    "Create a project: a recipe, an environment, a step and its test, in a new folder",
    positionals=(Flag("name", str, "the folder; its last part names the recipe and the workspace", required=True),),
    group="Inspect and set up",
)


def create(folder: Path) -> list[Path]:
    """Write the files of a new project. Raises InputError if it exists."""
    if not folder.name or folder.name[0] in ".-":
        raise InputError(f"{folder} is not a name for a project: its last part names the recipe and the workspace")
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists: choose another name, or remove it")
    made = []
    for template, place in FILES.items():
        path = folder / place.replace("{name}", folder.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((shipped("data/examples") / "new" / template).read_bytes())
        made.append(path)
    return made
