"""The rows of an import, read into two files of a dataset's staging folder: what is asked, and what ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.formats.strict_json import dump
from rolloutops.ingest.import_datasets import InputFile
from rolloutops.ingest.inputs import TABLES, blocks_of, open_rows
from rolloutops.ingest.rollout_rows import ASKED, ENDED, Read, Reader
from rolloutops.ingest.session_files import SESSION, read_session
from rolloutops.ingest.task_columns import StructColumns
from rolloutops.store import schema

BATCH_ROWS, BATCH_BYTES = 1000, 8_000_000
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
        self._rows: dict[str, list[dict[str, Any]]] = {"asked": [], "ended": []}
        self._size = 0
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

    def add(self, row: Read, origin: str, line: int, size: int) -> None:
        """Stage what a row says."""
        self.shapes[row.shape] += 1
        self.left_out.update(row.left_out)
        self.parts.update(row.parts)
        self.nulls += row.nulls
        place, task = {"origin": origin, "line": line}, row.task
        if task is not None and (not row.ended or task["ident"] not in self._seen):
            if len(self._seen) >= SEEN:
                self._seen.clear()
            self._seen.add(task["ident"])
            order = (task.get("place", 0) << 40) + self.read
            self._rows["asked"].append({**task, **place, "place": order, "ordinal": self.read})
        for ended in row.ended:
            self._rows["ended"].append({**ended, **place, "ordinal": self.rollouts})
            self.rollouts += 1
        self.prompts += not row.ended
        self._size += size

    def make_room(self, size: int) -> None:
        """Write what is held before a row of so many bytes is added to it, where that would be too much."""
        if sum(map(len, self._rows.values())) >= BATCH_ROWS or (self._size and self._size + size > BATCH_BYTES):
            self._flush()

    def reject(self, origin: str, line: int, reason: str, text: str) -> None:
        """Keep a line that cannot be used, with the reason."""
        with (self.folder / "rejected.jsonl").open("a", encoding="utf-8") as rejects:
            rejects.write(dump({"origin": origin, "line": line, "reason": reason, "text": text[:2000]}) + "\n")
        self.rejected += 1
        if len(self.examples) < 3:
            self.examples.append(f"{origin}:{line}: {reason}")

    def close(self) -> None:
        """Write what is held, and the ends of the files."""
        self._flush()
        for file in self._files.values():
            file.close()
        pa.default_memory_pool().release_unused()

    def _flush(self) -> None:
        for (name, rows), table in zip(self._rows.items(), (ASKED, ENDED), strict=True):
            self._files[name].write_table(schema.drained_table(table, rows))
            rows.clear()
        self._size = 0


def count_lines(path: Path) -> int:
    """Count the lines of a file, blank ones too, for the display of progress; 0 where that takes reading all of it."""
    if path.name.lower().endswith(TABLES):
        return int(pq.read_metadata(path).num_rows) if path.suffix.lower() == ".parquet" else 0
    return sum(block.count(b"\n") for block in blocks_of(path))


def stage_rows(
    files: Iterable[InputFile],
    reader: Reader,
    staging_of: Callable[[InputFile, Mapping[str, Any]], Staging],
    default: Staging,
    count_row: Callable[[], None],
) -> None:
    """Read all rows of files into the staging of their dataset. default: of lines of which none can be told."""
    for file in files:
        if file.kind == SESSION:
            _stage_session(file, reader, default, count_row)
            continue
        structs = StructColumns().of(file.path)
        for row in open_rows(file.path):
            count_row()
            line, bytes_, value, reason = row
            raw, found, staged = bytes_.decode("utf-8", "replace"), None, default
            del row, bytes_  # which a long line would hold beside its text
            if value is not None:
                try:
                    staged = staging_of(file, value)
                    is_input = file.kind == "materialized_inputs"
                    found = reader.read(value, raw, file.path, file.source, is_input, structs)
                except ValueError as error:
                    reason = str(error)
            staged.read += 1
            if found is None:
                staged.reject(str(file.path), line, reason or "nothing to import", raw)
            else:
                size = len(raw)
                del value, raw
                staged.make_room(size)
                staged.add(found, str(file.path), line, size)
            del found  # its texts go from the staging into tables, one after another


def _stage_session(file: InputFile, reader: Reader, staged: Staging, count_row: Callable[[], None]) -> None:
    """Read a session's file, which is one rollout."""
    count_row()
    staged.read += 1
    try:
        session, raw = read_session(file.path)
        staged.make_room(len(raw))
        staged.add(reader.session(session, raw, file.source), str(file.path), 1, len(raw))
    except ValueError as error:
        staged.reject(str(file.path), 1, str(error), "")


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
