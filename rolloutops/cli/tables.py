"""Results as text for a terminal: aligned tables and cells. Nothing here prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rolloutops import layout
from rolloutops.visible import visible

LONGEST = 2048
"""Characters of a value that a table shows: all of any message that says what to do."""


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], longest: int = LONGEST) -> str:
    """An aligned table that fits the terminal: numbers to the right, text to the left, missing values as a dash. "" is
    an empty cell. longest: characters of a value that are shown."""
    cells = [[cell(value, longest) for value in row] for row in rows]
    right = [
        bool(rows) and all(row[i] == "" or isinstance(row[i], int | float | None) for row in rows)
        for i in range(len(columns))
    ]
    return "\n".join(layout.table([cell(name) for name in columns], cells, right, layout.columns_of()))


def as_lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Each row as a block of lines `column: value`, values whole; lines of a text after its first are indented."""
    blocks = ["\n".join(map(_line, columns, row)) for row in rows]
    return "\n\n".join(blocks) if blocks else "no rows"


def _line(name: str, value: Any) -> str:
    short = value is None or isinstance(value, bool)
    text = cell(value) if short else visible(str(value)).replace("\n", "\n  ")
    return f"{cell(name)}: {text}"


def cell(value: Any, longest: int = LONGEST) -> str:
    """One value on one line, cut where it is longer than this."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = visible(" ".join(str(value).split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"
