"""Rows of files in batches, which depend on nothing but the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rolloutops.ingest.inputs import RawRow

BATCH_ROWS, BATCH_BYTES = 1000, 8_000_000
"""Rows, and bytes, of a batch. A longer row is one by itself."""

File = TypeVar("File")


def batches(files: Iterable[tuple[File, Iterable[RawRow]]]) -> Iterator[list[tuple[File, RawRow]]]:
    """Put the rows of files, each with its file, into lists; each is the receiver's, to empty."""
    batch: list[tuple[File, RawRow]] = []
    size = 0
    for file, rows in files:
        for row in rows:
            if batch and (len(batch) >= BATCH_ROWS or size + len(row[1]) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((file, row))
            size += len(row[1])
            del row  # which may be long, while the batch is worked on
    if batch:
        yield batch


def is_long(batch: Sequence[tuple[object, RawRow]]) -> bool:
    """Whether a batch is one long row."""
    return len(batch) == 1 and len(batch[0][1][1]) > BATCH_BYTES
