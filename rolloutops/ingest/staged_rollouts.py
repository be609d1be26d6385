"""The rows of an import, read into two files of a dataset's staging folder: what is asked, and what ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.formats.strict_json import dump
from rolloutops.ingest.batches import batches
from rolloutops.ingest.import_datasets import InputFile
from rolloutops.ingest.inputs import TABLES, blocks_of, unparsed_rows
from rolloutops.ingest.rollout_batches import (
    ReadRollouts,
    Rejected,
    RolloutReader,
    RolloutSource,
    as_staged,
    read_in_processes,
)
from rolloutops.ingest.rollout_rows import ASKED, ENDED
from rolloutops.ingest.session_files import SESSION
from rolloutops.store import schema

SEEN = 200_000
"""Tasks that are remembered as staged; more are staged again, which costs space and nothing else."""


class Staging:
    """What was read of one dataset: counts, and its staged files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read = self.prompts = self.rollouts = self.rejected = 0
        self.examples: list[str] = []
        self.shapes: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()
        self.nulls = 0
        self._seen: set[str] = set()
        self._files = {
            name: pq.ParquetWriter(
                folder / f"{name}.parquet",
                table,
                compression="zstd",
                compression_level=1,
                **schema.encoding_of(table),
            )
            for name, table in (("asked", ASKED), ("ended", ENDED))
        }

    def add(self, batch: ReadRollouts) -> None:
        """Stage what a batch holds of the dataset."""
        asked, ended = as_staged(batch, self._seen, self.read, self.rollouts)
        if len(self._seen) >= SEEN:
            self._seen.clear()
        self._seen.update(asked["ident"].to_pylist())
        self.read += batch.read
        self.rollouts += len(ended)
        self.prompts += batch.prompts
        self.nulls += batch.nulls
        for counts, more in ((self.shapes, batch.shapes), (self.left_out, batch.left_out), (self.parts, batch.parts)):
            counts.update(more)
        for rejected in batch.rejected:
            self.reject(rejected)
        for name, table in (("asked", asked), ("ended", ended)):
            if len(table):
                self._files[name].write_table(table)

    def reject(self, line: Rejected) -> None:
        """Keep a line that cannot be used, with the reason."""
        with (self.folder / "rejected.jsonl").open("a", encoding="utf-8") as rejects:
            rejects.write(dump(line._asdict()) + "\n")
        self.rejected += 1
        if len(self.examples) < 3:
            self.examples.append(f"{line.origin}:{line.line}: {line.reason}")

    def close(self) -> None:
        """Write the ends of the files."""
        for file in self._files.values():
            file.close()
        pa.default_memory_pool().release_unused()


def count_lines(path: Path) -> int:
    """Count the lines of a file, blank ones too, for the display of progress; 0 where that takes reading all of it."""
    if path.name.lower().endswith(TABLES):
        return int(pq.read_metadata(path).num_rows) if path.suffix.lower() == ".parquet" else 0
    return sum(block.count(b"\n") for block in blocks_of(path))


def stage_rows(
    files: Sequence[InputFile],
    source: RolloutSource,
    stagings: Mapping[str, Staging],
    count_row: Callable[[], None],
    processes: int | None,
) -> None:
    """Read all rows of files into the staging of their dataset; sessions first."""
    sessions = RolloutReader(source)
    for file in files:
        if file.kind == SESSION:
            _stage(sessions.session(file), stagings, count_row)
    rows = ((file, unparsed_rows(file.path)) for file in files if file.kind != SESSION)
    with read_in_processes(source, processes) as readers:
        for found in readers.map(batches(rows)):
            _stage(found, stagings, count_row)
            found.clear()  # before the next batch, which may be one long row


def _stage(
    by_dataset: Mapping[str, ReadRollouts], stagings: Mapping[str, Staging], count_row: Callable[[], None]
) -> None:
    for dataset, batch in by_dataset.items():
        stagings[dataset].add(batch)
        for _ in range(batch.read):
            count_row()


def why_unresolved(input_key: str | None, files: list[str] | None, of_another: bool | None) -> str:
    """Say why the task of a row is not known. files: where the requests are that have its custom_id."""
    if not files:
        return "its task is in none of the files: import the materialized inputs or requests too"
    name, listed = str(input_key).partition("/")[2], " and ".join(files)
    if of_another:
        what = "but not for the model that answered: import the requests of this batch too"
        return f"its custom_id {name!r} is in {listed}, {what}"
    if len(files) == 1:
        return f"its custom_id {name!r} is in {listed} more than once, with different prompts"
    return (
        f"its custom_id {name!r} is in {listed} with different prompts, and neither the file names nor the models "
        "tell which request was answered: import each batch separately"
    )
