"""The part files of a workspace, each once: what was copied or written again under a second name is left out."""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rolloutops.store import schema
from rolloutops.store.damage import NO_FILE, UNREADABLE, damaged

COUNTED_ONCE = ("tasks", "attempts", "verdicts", "jobs")
"""Tables of which a file that lies there twice would count twice. A run's events are taken by name, not counted."""
ID_COLUMNS = {"attempts": "attempt_id", "verdicts": "verdict_id"}
OWN_NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]+-\d{4,}")
"""How parts are named here, by run and number: under one such name there are no rows of another."""
TAIL = 4096
"""Bytes at the end of a Parquet file that are compared first: its footer holds the least and the greatest values."""


@dataclass(frozen=True)
class Parts:
    """A table's files. copies: other names of the same content, or of the same rows, which do not count; sizes: of all
    of them, in bytes."""

    files: list[str]
    copies: list[str]
    sizes: Mapping[str, int]


def find_parts(root: Path, table: str) -> Parts:
    """The files of a table, in order.

    A second name is found by its size, then by the end of the file, then by all of it: where no two files have one
    size, as is the rule, that costs a look at each folder and nothing else. Rows that were written again, by another
    program, are looked for only in files whose names are not such as parts have here.
    """
    folder = root / table
    places = [folder] if table in schema.FLAT else _folders(folder)
    sizes = dict(sorted(found for place in places for found in _files(place)))
    copies = list(_copies(sizes)) if table in COUNTED_ONCE else []
    if table in ID_COLUMNS:
        copies += _written_again(sizes, set(copies), ID_COLUMNS[table])
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


def _written_again(sizes: Mapping[str, int], left_out: set[str], column: str) -> list[str]:
    """The files of other names whose rows all are in other files of their folder. column: the name of each row."""
    found: list[str] = []
    others = [file for file in sizes if file not in left_out and not OWN_NAME.fullmatch(Path(file).stem)]
    for file in sorted(others, key=lambda file: (len(file), file), reverse=True):
        ids = _ids(file, column)
        runs = tuple({f"{name.rpartition('-')[0]}-" for name in ids})
        candidates = (
            other
            for other in sizes
            if other != file and other not in left_out and os.path.dirname(other) == os.path.dirname(file)
        )
        held = (
            _ids(other, column)
            for other in candidates
            if other in others or os.path.basename(other).startswith(runs or "/")
        )
        if ids and ids <= set[str]().union(*held):
            found.append(file)
            left_out.add(file)
    return found


def _ids(file: str, column: str) -> set[str]:
    """The names of a part's rows; none of one that cannot be read, of which others tell."""
    import pyarrow.parquet as pq

    try:
        return set(pq.ParquetFile(file).read([column])[column].to_pylist())
    except (*UNREADABLE, KeyError):
        return set()


def _end(file: str) -> bytes:
    with open(file, "rb") as opened:
        opened.seek(max(os.fstat(opened.fileno()).st_size - TAIL, 0))
        return opened.read()
