"""Rollouts are rows: task files to rollouts, and rollouts to training files, as queries over Parquet tables."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "open": "rolloutops.api",
    "read_build": "rolloutops.api",
    "Workspace": "rolloutops.api",
    "RunReport": "rolloutops.api",
    "RolloutopsError": "rolloutops.errors",
}
"""Name -> the module that has it, imported when the name is first used: `import rolloutops` must cost nothing, as the
command line's help answers at once. Type checkers read __init__.pyi."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'rolloutops' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    """List the public names, so that a shell completes them."""
    return sorted({*globals(), *PUBLIC})
