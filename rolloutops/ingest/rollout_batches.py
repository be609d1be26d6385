"""Rows of imported files as tables of what was asked and what ended, batch by batch and dataset by dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from rolloutops.ingest.batches import is_long
from rolloutops.ingest.import_datasets import ByField, ImportChoices, InputFile
from rolloutops.ingest.inputs import RawRow, parse_row
from rolloutops.ingest.processes import Processes
from rolloutops.ingest.rollout_rows import ASKED, ENDED, Read, Reader
from rolloutops.ingest.session_files import read_session, session_id
from rolloutops.ingest.task_columns import StructColumns
from rolloutops.store import schema

Batch = list[tuple[InputFile, RawRow]]


class RolloutSource(NamedTuple):
    """What is imported. by_field: which row is of which dataset; None where all are of `dataset`, which also has the
    lines of which no dataset can be told."""

    choices: ImportChoices
    by_field: ByField | None
    dataset: str


class Rejected(NamedTuple):
    """A line that cannot be used, as it is kept for the user."""

    origin: str
    line: int
    reason: str
    text: str


@dataclass
class ReadRollouts:
    """What a batch holds of one dataset. asked, ended: rows of the staged tables, numbered within the batch; then as
    tables. without_rollout: the places in `asked` of rows without a rollout."""

    read: int = 0
    prompts: int = 0
    nulls: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    without_rollout: list[bool] = field(default_factory=list)
    tables: tuple[pa.Table, pa.Table] | None = None

    def add(self, row: Read, origin: str, line: int, seen: set[str]) -> None:
        """Add what a row says. seen: tasks that the batch has."""
        self.shapes[row.shape] += 1
        self.left_out.update(row.left_out)
        self.parts.update(row.parts)
        self.nulls += row.nulls
        self.prompts += not row.ended
        place, task = {"origin": origin, "line": line}, row.task
        if task is not None and (not row.ended or task["ident"] not in seen):
            seen.add(task["ident"])
            self.asked.append({"place": 0, **task, **place, "ordinal": self.read})
            self.without_rollout.append(not row.ended)
        for ended in row.ended:
            self.ended.append({**ended, **place, "ordinal": len(self.ended)})

    def finish(self) -> None:
        """Make tables of the rows."""
        self.tables = schema.drained_table(ASKED, self.asked), schema.drained_table(ENDED, self.ended)
        self.asked, self.ended = [], []


def read_in_processes(source: RolloutSource, processes: int | None) -> Processes[Batch, dict[str, ReadRollouts]]:
    """Processes that read batches of rows."""
    return Processes(f"{__name__}:reader", source, processes, is_long)


def reader(source: RolloutSource) -> Callable[[Batch], dict[str, ReadRollouts]]:
    """The function that reads batches: dataset -> what a batch holds of it."""
    return RolloutReader(source).read


class RolloutReader:
    """Reads the rows of an import."""

    def __init__(self, source: RolloutSource) -> None:
        self._source = source
        choices = source.choices
        self._reader = Reader(choices.policy, choices.id, choices.dataset_field, choices.settings())
        self._structs = StructColumns()

    def read(self, batch: Batch) -> dict[str, ReadRollouts]:
        """Read a batch, which is emptied."""
        found: dict[str, ReadRollouts] = {}
        seen: dict[str, set[str]] = {}
        batch.reverse()
        while batch:
            file, raw_row = batch.pop()
            dataset, row, rejected = self._read(file, raw_row)
            del raw_row
            there = found.setdefault(dataset, ReadRollouts())
            there.read += 1
            if row is not None:
                there.add(row, str(file.path), rejected.line, seen.setdefault(dataset, set()))
            else:
                there.rejected.append(rejected)
            del row
        for each in found.values():
            each.finish()
        return found

    def session(self, file: InputFile) -> dict[str, ReadRollouts]:
        """Read a session's file, which is one rollout."""
        there = ReadRollouts(read=1)
        try:
            session, raw = read_session(file.path)
            there.add(self._reader.session(session, raw, file.source, session_id(file.path)), str(file.path), 1, set())
        except ValueError as error:
            there.rejected.append(Rejected(str(file.path), 1, str(error), ""))
        there.finish()
        return {self._source.dataset: there}

    def _read(self, file: InputFile, raw_row: RawRow) -> tuple[str, Read | None, Rejected]:
        """Read a row: its dataset, what it says, and how it is rejected if it says nothing."""
        line, bytes_, value, reason = parse_row(raw_row)
        del raw_row
        raw, found, dataset = bytes_.decode("utf-8", "replace"), None, self._source.dataset
        if value is not None:
            try:
                if self._source.by_field is not None:
                    dataset = self._source.by_field.dataset_of(file, value)
                is_input = file.kind == "materialized_inputs"
                structs = self._structs.of(file.path)
                found = self._reader.read(value, raw, file.path, file.source, is_input, structs)
            except ValueError as error:
                reason = str(error)
        return dataset, found, Rejected(str(file.path), line, reason or "nothing to import", raw[:2000])


def as_staged(
    read: ReadRollouts, seen: Sequence[str] | set[str], before: int, rollouts: int
) -> tuple[pa.Table, pa.Table]:
    """The tables of a batch, numbered after what was staged before: so many rows, and rollouts. seen: tasks that are
    staged, which are not staged again."""
    assert read.tables is not None
    asked, ended = read.tables
    new = [
        only or ident not in seen for only, ident in zip(read.without_rollout, asked["ident"].to_pylist(), strict=True)
    ]
    if not all(new):
        asked = asked.filter(pa.array(new, pa.bool_()))
    ordinals = [before + number for number in asked["ordinal"].to_pylist()]
    places = [(place << 40) + at for place, at in zip(asked["place"].to_pylist(), ordinals, strict=True)]
    asked = _replaced(_replaced(asked, "place", places), "ordinal", ordinals)
    return asked, _replaced(ended, "ordinal", range(rollouts, rollouts + len(ended)))


def _replaced(table: pa.Table, name: str, values: Sequence[int]) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(values, pa.int64()))
