"""Staged lines -> data files: JSON lines or Parquet, compressed or not, in shards, streaming.

JSON lines are the staged texts, byte for byte. Parquet columns get the types that the step's header names, else those
that the values of the file have together; rows whose tools have another type go to another file, because a struct takes
the union of all keys and fills it with nulls, which changes what trainers tokenize.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.build_options import BuildOptions
from rolloutops.errors import StepError
from rolloutops.steps.step import Step
from rolloutops.store import sql

GROUPS = "SELECT split, shape, max(strlen(json)) FROM result GROUP BY split, shape ORDER BY split, shape"
"""Lines that may share a file, and the bytes of the longest."""

BATCH_ROWS, BATCH_BYTES = 1024, 64 << 20
"""Lines, and bytes, that are in memory at once. A column of Arrow text holds 2 GiB at most."""

GROUP = "FROM result WHERE split = {split} AND shape = {shape}"
LINES = "SELECT json || chr(10) AS line"
"""With its end each line is ready to be written: what Arrow holds of a batch is a piece of the file."""


@dataclass(frozen=True)
class Data:
    """One data file. bytes: of its lines, before compression."""

    name: str
    split: str
    rows: int
    sha256: str


def write_data(con: sql.Connection, step: Step, folder: Path, options: BuildOptions, where: str) -> list[Data]:
    """Write the staged lines, in their order: at least one file for each split. con: has the view `result`."""
    shards = {split: _Shards(folder, split, options) for split in options.splits}
    try:
        for split, shape, longest in sql.rows(con, GROUPS):
            group = GROUP.format(split=sql.literal(split), shape=sql.literal(shape))
            structure = _structure(con, step, group, where) if options.format == "parquet" else ""
            batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(longest, 1)))
            for batch in sql.stream(con, f"{LINES} {group}", batch_rows):
                for piece, size, full in shards[split].pieces(batch.column(0)):
                    shards[split].add(_typed(con, piece, structure) if structure else piece, size)
                    if full:
                        shards[split].close()
            if structure:
                shards[split].close()
        return [data for split in options.splits for data in shards[split].finish()]
    finally:
        for one in shards.values():
            one.close()


@dataclass
class _Shards:
    """The files of one split, of which one is open at most. They get their names when their number is known."""

    folder: Path
    split: str
    options: BuildOptions
    done: list[int] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    file: Any = None

    def pieces(self, batch: pa.Array) -> Iterator[tuple[pa.Array, int, bool]]:
        """Cut a batch where a file is full: lines, their bytes, and whether the file is full with them.

        A line that is larger than a file may be gets one of its own.
        """
        most_rows, most_bytes = self.options.max_shard_rows, self.options.max_shard_bytes
        if most_rows is None and most_bytes is None:
            yield batch, 0, False
            return
        start, rows, total = 0, self.rows, self.bytes
        sizes = [end - begin for begin, end in pairwise(_places(batch))]
        for end, size in enumerate(sizes):
            if rows and ((most_rows and rows >= most_rows) or (most_bytes and total + size > most_bytes)):
                yield batch[start:end], sum(sizes[start:end]), True
                start, rows, total = end, 0, 0
            rows, total = rows + 1, total + size
        yield batch[start:], sum(sizes[start:]), False

    def add(self, piece: pa.Array | pa.Table, size: int) -> None:
        """Append lines, or rows of a Parquet file, to the open file."""
        self.rows += len(piece)
        self.bytes += size
        if isinstance(piece, pa.Table):
            if self.file is None:
                codec = {"none": "none", "zstd": "zstd", "gzip": "gzip"}[self.options.compression]
                self.file = pq.ParquetWriter(self._path, piece.schema, compression=codec)
            self.file.write_table(piece)
        elif len(piece):
            if self.file is None:
                self.file = _opened(self._path, self.options.compression)
            places = _places(piece)
            self.file.write(memoryview(piece.buffers()[2])[places[0] : places[-1]])

    def close(self) -> None:
        """End the open file, where there is one with rows in it."""
        if self.file is not None:
            self.file.close()
            self.file = None
            self.done.append(self.rows)
        self.rows, self.bytes = 0, 0

    def finish(self) -> list[Data]:
        """Give all files their names: train.jsonl, or train-00000-of-00002.jsonl and so on."""
        self.close()
        if not self.done:  # a split without a line has a file without a line
            _opened(self._path, self.options.compression if self.options.format == "jsonl" else "none").close()
            if self.options.format == "parquet":
                pq.write_table(pa.table({}), self._path)
            self.done.append(0)
        files = []
        for number, rows in enumerate(self.done):
            of = f"-{number:05d}-of-{len(self.done):05d}" if len(self.done) > 1 else ""
            path = self._unnamed(number).rename(self.folder / f"{self.split}{of}{self.options.ending}")
            files.append(Data(path.name, self.split, rows, sha256(path)))
        return files

    @property
    def _path(self) -> Path:
        return self._unnamed(len(self.done))

    def _unnamed(self, number: int) -> Path:
        return self.folder / f".{self.split}-{number}.tmp"


def _places(lines: pa.Array) -> memoryview[int]:
    """Where each line begins in the text that Arrow holds of all of them, and where the last one ends."""
    return memoryview(lines.buffers()[1]).cast("i")[lines.offset : lines.offset + len(lines) + 1]


def _opened(path: Path, compression: str) -> Any:
    """A file to write bytes to. Neither form of compression notes the time."""
    file = pa.OSFile(str(path), "wb")
    return file if compression == "none" else pa.CompressedOutputStream(file, compression)


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _structure(con: sql.Connection, step: Step, group: str, where: str) -> str:
    """The types of the columns of one group of lines, as from_json takes them."""
    large = r"bool_or(regexp_matches(json, '[^\d.]\d{19}'))"  # whole numbers that BIGINT may be too small for
    structure, unsigned = sql.rows(con, f"SELECT json_group_structure(json::JSON)::VARCHAR, {large} {group}")[0]
    named = declared(step)
    kinds = {column: named.get(column, kind) for column, kind in json.loads(structure).items()}
    text = json.dumps(kinds, ensure_ascii=False)
    text = text if unsigned else re.sub(r'"(UBIGINT|HUGEINT)"(?!:)', '"BIGINT"', text)
    text = re.sub(r'"NULL"(?!:)', '"VARCHAR"', text)
    mixed = _mixed(json.loads(text), "")
    if mixed is not None:
        raise StepError(
            f"{where} {mixed.lstrip('.')} has values of several types, or an empty object: a Parquet column cannot "
            'hold them; use format = "jsonl"'
        )
    _refuse_padding(con, group, text, where)
    return text


def declared(step: Step) -> dict[str, str]:
    """Column -> type, as the step's header says: `-- columns: token_ids INTEGER[], reward DOUBLE`."""
    return dict(part.split(maxsplit=1) for part in step.notes.get("columns", "").split(", ") if part)


def _mixed(kind: Any, path: str) -> str | None:
    """Where a structure holds JSON of no one type."""
    if isinstance(kind, Mapping):
        inner = [(f"{path}.{name}", value) for name, value in kind.items()]
    elif isinstance(kind, list):
        inner = [(f"{path}[]", kind[0])]
    else:
        return path if kind == "JSON" else None
    return next((found for where, value in inner if (found := _mixed(value, where)) is not None), None)


def _refuse_padding(con: sql.Connection, group: str, structure: str, where: str) -> None:
    """The tools of a line, and the arguments of its calls, must come back without nulls that were not there."""
    calls = "SELECT unnest(json_extract(json, '$.*[*].tool_calls[*].function.arguments')) AS arguments"
    kinds = (
        f"SELECT count(DISTINCT json_structure(arguments)) FROM ({calls} {group}) WHERE json_type(arguments) = 'OBJECT'"
    )
    damaged = "the arguments of tool calls" if sql.rows(con, kinds)[0][0] > 1 else ""
    kind = json.loads(structure).get("tools")
    if isinstance(kind, list):
        shape = sql.literal(json.dumps(kind, ensure_ascii=False))
        tools = f"SELECT DISTINCT json_extract(json, '$.tools')::VARCHAR AS tools {group}"
        for given, made in sql.rows(con, f"SELECT tools, to_json(from_json(tools, {shape}))::VARCHAR FROM ({tools})"):
            damaged = damaged if json.loads(given) == json.loads(made) else "the tools of one line"
    if damaged:
        raise StepError(
            f"{where} {damaged} differ in their keys: Parquet would fill them with nulls, which changes what the "
            'trainer reads; use format = "jsonl"'
        )


def _typed(con: sql.Connection, lines: pa.Array, structure: str) -> pa.Table:
    """Lines as rows of a Parquet file; a key that a line lacks is a null of its column."""
    con.register("batch_of_lines", pa.table({"json": lines}))
    try:
        query = f"SELECT unnest(from_json(json, {sql.literal(structure)})) FROM batch_of_lines"
        return sql.arrow(con, query)
    finally:
        con.unregister("batch_of_lines")
