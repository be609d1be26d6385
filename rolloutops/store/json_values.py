"""Values of JSON columns, which DuckDB hands over as text, as the Python values that they mean."""

from __future__ import annotations

import json
from typing import Any

from rolloutops.store.sql import Connection


def json_values(con: Connection, query: str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the rows of a query with what is JSON in them as values, also inside lists, structs and maps."""
    kinds = con.sql(query).types
    return [tuple(_value(kind, value) for kind, value in zip(kinds, row, strict=True)) for row in rows]


def _value(kind: Any, value: Any) -> Any:
    """kind: DuckDB's type of the value."""
    if value is None or "JSON" not in str(kind):
        return value
    if str(kind) == "JSON":
        return _json_or_text(value)
    if kind.id in ("list", "array"):
        return [_value(dict(kind.children)["child"], item) for item in value]
    if kind.id == "struct" and isinstance(value, dict):
        return {name: _value(child, value[name]) for name, child in kind.children}
    if kind.id == "map" and isinstance(value, dict):
        return {key: _value(dict(kind.children)["value"], item) for key, item in value.items()}
    return value


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # deeper than Python reads, or not JSON although its column says so
        return text
