"""The part files of a workspace, each once: what was copied or written again under a second name is left out, and what
was merged is read in the file that it was merged into."""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rolloutops.store import schema
from rolloutops.store.damage import NO_FILE, UNREADABLE, damaged
from rolloutops.store.manifest import (
    MERGED_NAME,
    Index,
    Manifest,
    PartName,
    newest_manifest,
    own_covers,
    part_name,
)

COUNTED_ONCE = ("tasks", "attempts", "verdicts", "jobs", "labels")
"""Tables of which a file that lies there twice would count twice. A run's events are taken by name, not counted."""
MERGEABLE = ("attempts", "verdicts", "labels", "runs")
"""Tables whose parts `compact` merges."""
ID_COLUMNS = {"attempts": "attempt_id", "verdicts": "verdict_id", "labels": "label_id"}
OWN_NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]+-\d{4,}")
"""How parts are named here, by run and number: under one such name there are no rows of another."""
TAIL = 4096
"""Bytes at the end of a Parquet file that are compared first: its footer holds the least and the greatest values."""


@dataclass(frozen=True)
class Parts:
    """A table's files. copies: other names of the same content, or of the same rows, which do not count; sizes: of all
    of them, in bytes, also of those that were merged and are not taken away yet. overlapping: those of `files` of which
    some rows, but not all, are in others; they count once. covered: dataset -> the parts whose rows merged files hold
    (of `runs`, under an empty name). indexes: of the datasets that have an index that counts. manifests: dataset -> the
    number of the manifest that said so."""

    files: list[str]
    copies: list[str]
    sizes: Mapping[str, int]
    overlapping: list[str] = field(default_factory=list)
    covered: Mapping[str, frozenset[PartName]] = field(default_factory=dict)
    indexes: Mapping[str, Index] = field(default_factory=dict)
    manifests: Mapping[str, int] = field(default_factory=dict)


class _Counted(NamedTuple):
    """The files of one folder that count, those of them that overlap, what merged files cover, their index, and the
    number of the manifest that lists them."""

    files: list[str]
    overlapping: list[str]
    covered: frozenset[PartName]
    derived: Index | None = None
    manifest: int = 0


def find_parts(root: Path, table: str) -> Parts:
    """The files of a table, in order.

    A second name is found by its size, then by the end of the file, then by all of it: where no two files have one
    size, as is the rule, that costs a look at each folder and nothing else. Rows that were written again, by another
    program, are looked for only in files whose names are not such as parts have here.
    """
    folder = root / table
    places = [folder] if table in schema.FLAT else _folders(folder)
    sizes: dict[str, int] = {}
    counted: dict[str, _Counted] = {}
    for place in places:
        found, there = count_files(root, table, place)
        sizes |= there
        counted["" if table in schema.FLAT else place.name] = found
    sizes = dict(sorted(sizes.items()))
    files = {file: sizes[file] for file in sorted(file for one in counted.values() for file in one.files)}
    copies = list(find_copies(files)) if table in COUNTED_ONCE else []
    if table in ID_COLUMNS:
        copies += _written_again(files, set(copies), ID_COLUMNS[table])
    left_out = set(copies)
    overlapping = [file for one in counted.values() for file in one.overlapping if file not in left_out]
    covered = {name: one.covered for name, one in counted.items() if one.covered}
    indexes = {name: one.derived for name, one in counted.items() if one.derived is not None}
    manifests = {name: one.manifest for name, one in counted.items()}
    left = [file for file in files if file not in left_out]
    return Parts(left, copies, sizes, overlapping, covered, indexes, manifests)


def find_tables(root: Path) -> dict[str, Parts]:
    """The files of all tables; a dataset's attempts and verdicts by one manifest, since `forget` takes rows out of both
    at once."""
    while True:
        found = {table: find_parts(root, table) for table in schema.TABLES}
        attempts, verdicts = found["attempts"].manifests, found["verdicts"].manifests
        if all(attempts[name] == verdicts[name] for name in attempts.keys() & verdicts.keys()):
            return found


def count_files(root: Path, table: str, place: Path) -> tuple[_Counted, dict[str, int]]:
    """Which files of a folder count, and the sizes of all that lie there."""
    while True:
        there = dict(_files(place))  # first: what is merged from now on is still listed
        if table not in MERGEABLE:
            return _Counted(list(there), [], frozenset()), there
        dataset = None if table in schema.FLAT else place.name
        manifest = newest_manifest(root, dataset)
        unseen = [str(place / f"{one.name}.parquet") for one in manifest.files if one.table == table]
        try:
            there |= {file: os.path.getsize(file) for file in unseen if file not in there}
        except FileNotFoundError:
            if newest_manifest(root, dataset).number != manifest.number:
                continue  # merged once more, and swept
            there |= {file: os.path.getsize(file) for file in unseen if file not in there and os.path.exists(file)}
        found = _counted(table, manifest, there)
        derived = _valid(manifest.index, table, place, found)
        return found._replace(derived=derived, manifest=manifest.number), there


def _valid(index: Index | None, table: str, place: Path, parts: _Counted) -> Index | None:
    """An index if all files that it was made of count as they are."""
    if index is None or parts.overlapping or table not in index.sources:
        return None
    sources = {str(place / f"{name}.parquet") for name in index.sources[table]}
    return index if sources <= set(parts.files) else None


def _counted(table: str, manifest: Manifest, there: Mapping[str, int]) -> _Counted:
    """Which of the files that are there count.

    A merged file that the manifest does not list is one that another replaced, one whose writer has not come to its
    commit, or one of another workspace, whose files were copied in here: what it covers, it says itself.
    """
    listed = {one.name for one in manifest.files if one.table == table}
    covered = set(manifest.covered(table))
    merged = [file for file in there if MERGED_NAME.fullmatch(Path(file).stem)]
    if not covered and not merged:
        return _Counted(list(there), [], frozenset())
    names = {file: part_name(Path(file).stem) for file in there}
    left = {name for name in names.values() if name is not None and name not in covered}
    counted = {file for file in merged if Path(file).stem in listed}
    overlapping = []
    unlisted = {file: own_covers(Path(file)) for file in merged if file not in counted}
    counted |= {file for file, covers in unlisted.items() if covers is None}  # damaged, and named by who reads it
    for file, covers in sorted(unlisted.items(), key=lambda item: (-len(item[1] or ()), item[0])):
        if covers is None or covers - covered <= left:
            continue
        if covers & covered:
            overlapping.append(file)
        counted.add(file)
        covered |= covers
        left -= covers
    files = [file for file, name in names.items() if file in counted or (file not in merged and name not in covered)]
    return _Counted(files, overlapping, frozenset(covered))


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


class Seen(NamedTuple):
    """Attempts that were there at one moment: their files, and the parts, by dataset, that these are or stand for."""

    files: frozenset[str]
    parts: frozenset[tuple[str, PartName]]


def see_attempts(root: Path) -> Seen:
    """Remember which files of attempts there are."""
    found = find_parts(root, "attempts")
    parts = {(name, part) for name, covered in found.covered.items() for part in covered}
    named = ((Path(file).parent.name, part_name(Path(file).stem)) for file in found.files)
    parts |= {(dataset, name) for dataset, name in named if name is not None}
    return Seen(frozenset(found.files), frozenset(parts))


def new_files(before: Seen, now: Seen, run_id: str) -> list[str]:
    """The files with attempts that came between two moments, but for those of a run. A file that was merged is one of
    them if a part of its dataset came too, and then holds others as well."""
    parts = {dataset for dataset, part in now.parts - before.parts if part.run != run_id}
    own = f"{run_id}-" if run_id else "/"
    return sorted(
        file
        for file in now.files - before.files
        if not (name := os.path.basename(file)).startswith(own)
        and (not MERGED_NAME.fullmatch(name.removesuffix(".parquet")) or Path(file).parent.name in parts)
    )


def find_copies(sizes: Mapping[str, int]) -> dict[str, str]:
    """The files whose content another one has, and which. Of two names the shorter one stays: `x` and not `x-copy`."""
    alike: dict[int, list[str]] = defaultdict(list)
    for file, size in sizes.items():
        alike[size].append(file)
    found = dict[str, str]()
    for files in alike.values():
        if len(files) > 1:
            ends: dict[bytes, list[str]] = defaultdict(list)
            for file in sorted(files, key=lambda file: (len(file), file)):
                ends[end_of(file)].append(file)
            for first, *others in ends.values():
                found |= {file: first for file in others if filecmp.cmp(first, file, shallow=False)}
    return found


def _written_again(sizes: Mapping[str, int], left_out: set[str], column: str) -> list[str]:
    """The files of other names whose rows all are in other files of their folder. column: the name of each row."""
    found: list[str] = []
    stems = {file: Path(file).stem for file in sizes if file not in left_out}
    merged = {file for file, stem in stems.items() if MERGED_NAME.fullmatch(stem)}
    others = [file for file, stem in stems.items() if file not in merged and not OWN_NAME.fullmatch(stem)]
    others = [file for file in others if part_name(stems[file]) is None]
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
            if other in others or other in merged or os.path.basename(other).startswith(runs or "/")
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


def end_of(file: str) -> bytes:
    """The last bytes of a part: its footer."""
    with open(file, "rb") as opened:
        opened.seek(max(os.fstat(opened.fileno()).st_size - TAIL, 0))
        return opened.read()
