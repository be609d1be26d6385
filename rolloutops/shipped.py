"""Where the SQL files, recipes and example tasks lie that come with rolloutops."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent


def shipped(kind: str) -> Path:
    """The folder `sql`, `recipes` or `examples`: inside the installed package, else in the checkout."""
    inside = HERE / kind
    return inside if inside.is_dir() else HERE.parent / ("data/examples" if kind == "examples" else kind)
