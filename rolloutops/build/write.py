"""Staged lines -> data files: JSON lines or Parquet, compressed or not, in shards, streaming.

JSON lines are the staged texts, byte for byte. Parquet columns get the types that the step's header names, else those
that give back all lines (columns.py). All files of a build have the same columns, unless its step writes them by shape.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.build.columns import Structure, structure_of, typed
from rolloutops.config.build_options import BuildOptions
from rolloutops.steps.step import Step
from rolloutops.store import sql

BATCH_ROWS, BATCH_BYTES = 1024, 16 << 20
"""Lines, and bytes, that are in memory at once, unless one line has more. A column of Arrow text holds 2 GiB."""

ORDERED = ".lines.tmp"
"""The file of all lines in order, of which the files of a build are cut."""

PLACES = """
SELECT t.json, p.start
FROM staging.texts AS t
JOIN (SELECT text, (sum(bytes + 1) OVER (ORDER BY rowid) - bytes - 1)::BIGINT AS start FROM staging.made) AS p
    ON p.text = t.text
"""
"""Each text, in any order, and where it begins in a file of all lines in order, each with its end."""

NUMBERED = """
SELECT m.rowid AS line, t.json[1] AS json FROM staging.texts AS t JOIN staging.made AS m ON m.text = t.text
"""
"""The lines, in any order, each with its number."""

SIZES = "SELECT split, shape, list(bytes + 1 ORDER BY rowid) FROM staging.made GROUP BY ALL ORDER BY split, shape"
"""The bytes of the lines that may share a file, in order."""


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
        structures: dict[str, Structure] = {}
        ordered = folder / ORDERED
        _put_in_order(con, ordered)
        with ordered.open("rb") as lines:
            for split, shape, sizes in sql.rows(con, SIZES):
                if options.format == "parquet" and shape not in structures:
                    group = f"FROM ({NUMBERED} WHERE m.shape = {sql.literal(shape)})"
                    structures[shape] = structure_of(con, step, group, where)
                structure = structures.get(shape)
                for batch in _batches(lines, sizes):
                    for piece, size, full in shards[split].pieces(batch):
                        shards[split].add(typed(con, piece, structure) if structure else piece, size)
                        if full:
                            shards[split].close()
                if shape:
                    shards[split].close()
        ordered.unlink()
        return [data for split in options.splits for data in shards[split].finish()]
    finally:
        for one in shards.values():
            one.close()


def _put_in_order(con: sql.Connection, path: Path) -> None:
    """Write a file of all staged lines in their order. Each is read once and put where it belongs: to sort the texts
    would take all of them, or 2,048 at once, into memory."""
    longest = sql.rows(con, "SELECT max(bytes) FROM staging.made")[0][0] or 0
    with path.open("wb") as file:
        for batch in sql.stream(con, PLACES, max(1, min(BATCH_ROWS, BATCH_BYTES // (longest + 1)))):
            texts = batch.column(0).flatten()
            places, data = _places(texts), memoryview(texts.buffers()[2] or b"")
            for (begin, end), start in zip(pairwise(places), batch.column(1).to_pylist(), strict=True):
                os.pwritev(file.fileno(), [data[begin:end], b"\n"], start)


def _batches(lines: BinaryIO, sizes: Sequence[int]) -> Iterator[pa.Array]:
    """Read lines of these sizes, in order, a few at a time."""
    start, total = 0, 0
    for end, size in enumerate([*sizes, BATCH_BYTES]):
        if end > start and (end - start == BATCH_ROWS or total + size > BATCH_BYTES or end == len(sizes)):
            places = array("i", accumulate(sizes[start:end], initial=0))
            text = pa.py_buffer(lines.read(total))
            yield pa.StringArray.from_buffers(end - start, pa.py_buffer(places), text)
            start, total = end, 0
        total += size


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
