"""Who labels rollouts: a person, as their machine knows them."""

from __future__ import annotations

import getpass
import os

VARIABLE = "ROLLOUTOPS_AUTHOR"
"""The environment variable that names the person who labels rollouts."""


def author() -> str:
    """Return the name of the person: of the variable, else of the user at this machine."""
    try:
        return os.environ.get(VARIABLE, "").strip() or getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in a container
        return f"user {os.getuid()}"
