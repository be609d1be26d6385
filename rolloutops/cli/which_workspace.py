"""Which folder a recipe's `data` means: a relative one starts at the working directory, which may be the wrong one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rolloutops.cli.printing import say
from rolloutops.errors import UsageError


def is_workspace(data: Path) -> bool:
    """Whether a workspace lies at a folder."""
    return (data / "runs").is_dir()


def find_here(command: str) -> Path:
    """Find the workspace in which the working directory is, or else the only one in ./data, and say which it is.

    Raises UsageError if there is none, or several.
    """
    here = Path.cwd()
    inside = [Path(os.path.relpath(folder)) for folder in (here, *here.parents) if _holds_tables(folder)]
    beside = sorted(folder for folder in Path("data").glob("*") if _holds_tables(folder))
    if not inside and len(beside) != 1:
        listed = f": here are {', '.join(map(str, beside))}" if beside else ""
        raise UsageError(f"{command} needs a recipe, or --data=WORKSPACE{listed}")
    found = (inside or beside)[0]
    say(f"workspace: {found}")
    return found


def _holds_tables(folder: Path) -> bool:
    """Whether a folder that nobody named is a workspace: other tools have folders named runs too."""
    return all((folder / name).is_dir() for name in ("tasks", "attempts", "runs"))


def refuse_twin(data: Path, recipe_folder: Path) -> None:
    """Raise UsageError if `data` would be new here, while a workspace of that name is beside the recipe.

    Who runs a recipe from another folder would begin again with an empty workspace, and pay for everything twice.
    """
    twin = recipe_folder / data
    if not is_workspace(data) and is_workspace(twin):
        raise UsageError(
            f"there is no workspace at {data.absolute()}, but there is one of that name next to the recipe, "
            f"{twin.resolve()}; choose one with --data={twin} or --data={data.absolute()}, or change the folder"
        )


@contextmanager
def announce_new(data: Path) -> Iterator[None]:
    """Say where a workspace lies that was made within the block."""
    there = is_workspace(data)
    yield
    if not there and is_workspace(data):
        say(f"new workspace: {data.resolve()}")
