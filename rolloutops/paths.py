"""A path as a user writes it, in a recipe or on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from rolloutops.errors import UsageError


def as_path(written: str | Path) -> Path:
    """The path that is meant: a leading ~ is the home folder, also where no shell has seen it.

    Raises UsageError for what no path can be.
    """
    if "\0" in str(written):
        raise UsageError(f"{str(written)!r} is no path: it holds a NUL character")
    return Path(os.path.expanduser(written))
