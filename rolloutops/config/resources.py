"""Where the SQL files, recipes and example tasks lie that come with rolloutops."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def shipped(name: str) -> Path:
    """`sql`, `recipes` or `data/examples`: inside the installed package, else at the top of the checkout."""
    return (HERE if (HERE / "sql").is_dir() else HERE.parent) / name
