"""Nulls that Arrow and Parquet put into objects: each object of a column gets the keys of all rows' objects.

They come into tools' schemas and calls' arguments, where a model and a chat template take them for values
(huggingface/trl#5307). Which columns hold objects that Arrow stored field by field, and not as text, is known from the
file's schema (`struct_columns` in ingest/arrow_rows.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rolloutops.formats.columns import TOOL_COLUMNS

REQUESTS = ("responses_create_params", "task_input")
"""Columns that hold a prompt deeper down, beside parameters of which a null says something."""


def without_struct_nulls(
    row: Mapping[str, Any], struct_columns: Collection[str], prompt_columns: Collection[str]
) -> tuple[Mapping[str, Any], int]:
    """The row without the nulls in the objects of its prompt and tools, and how many they were.

    Nulls of a message's own keys are left out and not counted: a key with a null is an absent one in any file.
    """
    counted = [0]
    columns = {name for name in struct_columns if row.get(name) is not None}
    changed = {name: _turns(row[name], counted) for name in columns & {*prompt_columns} - {*TOOL_COLUMNS, *REQUESTS}}
    changed |= {name: _pruned(row[name], counted) for name in columns & {*TOOL_COLUMNS}}
    changed |= {name: _request(row[name], counted) for name in columns & {*REQUESTS}}
    return {**row, **changed}, counted[0]


def _request(value: Any, counted: list[int]) -> Any:
    if not isinstance(value, Mapping):
        return value
    made = {name: _turns(item, counted) if name == "input" else item for name, item in value.items()}
    if isinstance(value.get("responses_create_params"), Mapping):
        made["responses_create_params"] = _request(value["responses_create_params"], counted)
    else:
        made |= {name: _pruned(value[name], counted) for name in value if name not in ("input", *REQUESTS)}
    return made


def _turns(value: Any, counted: list[int]) -> Any:
    """Messages or items, without nulls in what they hold."""
    if isinstance(value, list):
        return [_turns(item, counted) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {name: _pruned(item, counted) for name, item in value.items() if item is not None}


def _pruned(value: Any, counted: list[int]) -> Any:
    if isinstance(value, list):
        return [_pruned(item, counted) for item in value]
    if not isinstance(value, Mapping):
        return value
    counted[0] += sum(item is None for item in value.values())
    return {name: _pruned(item, counted) for name, item in value.items() if item is not None}
