"""The part files of a workspace, each once: a file that was copied under a second name is left out."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rolloutops.store import schema
from rolloutops.store.damage import NO_FILE, damaged

COUNTED_ONCE = ("tasks", "attempts", "verdicts", "jobs")
"""Tables of which a file that lies there twice would count twice. A run's events are taken by name, not counted."""
TAIL = 4096
"""Bytes at the end of a Parquet file that are compared first: its footer holds the least and the greatest values."""


@dataclass(frozen=True)
class Parts:
    """A table's files. copies: other names of the same content, which do not count; sizes: of all of them, in bytes."""

    files: list[str]
    copies: list[str]
    sizes: Mapping[str, int]


def find_parts(root: Path, table: str) -> Parts:
    """The files of a table, in order.

    A second name is found by its size, then by the end of the file, then by all of it: where no two files have one
    size, as is the rule, that costs a look at each folder and nothing else.
    """
    folder = root / table
    places = [folder] if table in schema.FLAT else _folders(folder)
    sizes = dict(sorted(found for place in places for found in _files(place)))
    copies = list(_copies(sizes)) if table in COUNTED_ONCE else []
    left_out = set(copies)
    return Parts([file for file in sizes if file not in left_out], copies, sizes)


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """The part files of a folder, and their sizes. Raises WorkspaceError for what bears the name of one and is none."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if not entry.name.endswith(".parquet") or entry.name.startswith("."):
            continue
        try:
            if not entry.is_file() and os.path.lexists(entry.path):  # a folder, a pipe (read for ever), a broken link
                raise damaged(Path(entry.path), NO_FILE)
            yield entry.path, entry.stat().st_size
        except FileNotFoundError:  # taken away since the folder was listed: this one alone
            continue


def _copies(sizes: Mapping[str, int]) -> Iterable[str]:
    """The files whose content another one has. Of two names the shorter one stays: `x` and not `x-copy`."""
    alike: dict[int, list[str]] = defaultdict(list)
    for file, size in sizes.items():
        alike[size].append(file)
    for files in alike.values():
        if len(files) > 1:
            ends: dict[bytes, list[str]] = defaultdict(list)
            for file in sorted(files, key=lambda file: (len(file), file)):
                ends[_end(file)].append(file)
            for first, *others in ends.values():
                yield from (file for file in others if filecmp.cmp(first, file, shallow=False))


def _end(file: str) -> bytes:
    with open(file, "rb") as opened:
        opened.seek(max(os.fstat(opened.fileno()).st_size - TAIL, 0))
        return opened.read()
