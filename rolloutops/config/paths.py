"""A path as a user writes it, in a recipe or on the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rolloutops.errors import UsageError


def as_path(text: str | Path) -> Path:
    """The path that is meant: a leading ~ is the home folder, also where no shell has seen it.

    Raises UsageError for what no path can be.
    """
    if not str(text):
        raise UsageError("the path is empty; if you passed a shell variable, it is not set")
    if "\0" in str(text):
        raise UsageError(f"{str(text)!r} is not a path: it holds a NUL character")
    return Path(os.path.expanduser(text))


def as_output(text: str | Path) -> Path:
    """The path of a file or folder to be written. Raises UsageError for a URL, which would become a folder's name."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(text)):
        raise UsageError(f"{text} is a URL, but files are written to local disks only: name a path, then copy the file")
    return as_path(text)


def as_file(text: str | Path) -> Path:
    """The path of a file to be written. Raises UsageError where it is a folder, before the work is done for it."""
    path = as_output(text)
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it")
    return path
