"""What a row of an input is as a task: its prompt, by which it is asked, and the columns that it decides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from rolloutops.config.settings import Dataset
from rolloutops.formats.media import digests_of, has_local_media
from rolloutops.formats.nemo_gym import agent_of
from rolloutops.formats.strict_json import digest, dump
from rolloutops.formats.struct_nulls import without_struct_nulls
from rolloutops.formats.task_rows import (
    PROMPT_COLUMNS,
    NoPrompt,
    Prompt,
    answer_of_row,
    prompt_of_row,
    take_answer,
)
from rolloutops.ingest.inputs import TABLES
from rolloutops.ingest.media import MediaFolder


class TaskColumns(TypedDict):
    """The columns of `tasks` that a row itself decides. prompt, tools: as JSON text."""

    dataset: str
    task_id: str
    row_hash: str
    agent: str | None
    prompt: str
    tools: str | None
    prompt_hash: str
    answer: str | None


class StructColumns:
    """The columns of the file at hand whose objects hold nulls that no row's author wrote."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.names: Collection[str] = ()

    def of(self, path: Path) -> Collection[str]:
        if path != self.path:
            self.path, self.names = path, ()
            if path.name.lower().endswith(TABLES):
                from rolloutops.ingest.arrow_rows import struct_columns

                self.names = struct_columns(path)
        return self.names


class ReadPrompt(NamedTuple):
    """The prompt of a row. nulls: how many of its struct columns were left out. with_answer: its last turn was the
    answer."""

    prompt: Prompt
    nulls: int = 0
    with_answer: bool = False


def read_prompt(dataset: Dataset, row: dict[str, Any], structs: Collection[str] = ()) -> ReadPrompt:
    """Read the prompt of a dataset's row. Raises ValueError where it holds none, unless the dataset needs none."""
    held, nulls = without_struct_nulls(row, structs, PROMPT_COLUMNS) if structs else (row, 0)
    try:
        prompt = prompt_of_row(held)
        shorter = take_answer(prompt) if dataset.last_turn == "answer" else prompt
        return ReadPrompt(shorter, nulls, shorter is not prompt)
    except NoPrompt:
        if dataset.needs_prompt:
            raise
        return ReadPrompt(Prompt([], None, {}))


def task_columns(name: str, dataset: Dataset, row: dict[str, Any], media: MediaFolder) -> TaskColumns:
    """The columns that a row itself decides. Raises ValueError where it holds no prompt or no id, or media that are not
    to be read."""
    return columns_of(name, dataset, row, read_prompt(dataset, row).prompt, media)


def columns_of(name: str, dataset: Dataset, row: dict[str, Any], prompt: Prompt, media: MediaFolder) -> TaskColumns:
    """The columns of a row whose prompt is read. Raises ValueError where it holds no id, or its media must not be
    read."""
    row_hash = digest(row)
    if has_local_media(prompt.messages):
        prompt = replace(prompt, messages=media.with_digests(prompt.messages))
        row_hash = digest([row, digests_of(prompt.messages)])
    messages = dump(prompt.messages)
    tools = dump(prompt.tools) if prompt.tools else None
    return {
        "dataset": name,
        "task_id": row_hash if dataset.id is None else own_id_of(row, dataset.id),
        "row_hash": row_hash,
        "agent": agent_of(row),
        "prompt": messages,
        "tools": tools,
        "prompt_hash": digest([prompt.messages, prompt.tools or None]),
        "answer": prompt.answer if (answer := answer_of_row(row)) is None else answer,
    }


def own_id_of(row: Mapping[str, Any], field_name: str) -> str:
    """A row's own id; field_name may be a path with dots. Raises ValueError where it is none."""
    value: Any = row
    for step in field_name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"the id field {field_name!r} is missing, or neither text nor a whole number")
    return str(value)
