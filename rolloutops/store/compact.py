"""Compaction: the many part files of a dataset, and of the log of runs, become few, with the same rows.

Merged files are written beside the parts. They count once a manifest that lists them is there, which is created only if
there is none of its number; who comes too late takes its files away again. Then what is merged is swept. A process that
is killed in between leaves a workspace that reads the same, and the next one sweeps.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rolloutops.store.failpoints import failpoint
from rolloutops.store.index import make_index
from rolloutops.store.manifest import (
    MERGED,
    MERGED_NAME,
    Manifest,
    MergedFile,
    PartName,
    manifest_folder,
    manifest_names,
    newest_manifest,
    own_covers,
    part_name,
)
from rolloutops.store.merge_parts import Source, fits, merge, merged_part
from rolloutops.store.parts import count_files, find_copies
from rolloutops.store.workspace import Workspace, new_file, spill_folder, sync, try_lock

FINAL_ROWS, FINAL_BYTES = 1_000_000, 256_000_000
"""Rows or bytes from which a merged file is merged no more."""
FAN = 64
"""Parts, or merged files of one tier, that a collecting process merges at once."""
INDEXED_TABLES = ("attempts", "verdicts")
"""Tables of which an index is derived."""
MANIFESTS = 2
"""Manifests that stay: a reader may be about to read the one before."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Compacted:
    """What one compaction of a folder did: files of a table before and after, and their rows."""

    dataset: str | None
    table: str
    before: int
    after: int
    rows: int


def datasets_of(workspace: Workspace) -> list[str | None]:
    """Datasets with attempts, verdicts or labels, and None for `runs`."""
    names = {
        folder.name
        for table in (*INDEXED_TABLES, "labels")
        for folder in (workspace.root / table).glob("*")
        if folder.is_dir() and folder.name[0] != "."
    }
    return [*sorted(names), None]


def compact(workspace: Workspace, done: Callable[[Compacted], None] = lambda one: None) -> list[str | None]:
    """Merge all part files, folder by folder; `done` is told of each. Returns the folders that others compact now.

    Raises WorkspaceError for a part file that is damaged; what was done by then stays done.
    """
    busy = []
    for dataset in datasets_of(workspace):
        with try_lock(workspace, f"{dataset or ''}.compact") as free:
            if not free:
                busy.append(dataset)
                continue
            for one in compact_folder(workspace, dataset, everything=True):
                done(one)
    return busy


def compact_share(workspace: Workspace, only: str = "") -> None:
    """Merge where many small files lie, as a collecting process does now and then: 64 of one size, and no others.

    only: this table alone.
    """
    for dataset in datasets_of(workspace):
        tables = [table for table in tables_of(dataset) if only in ("", table)]
        if max((_parts_in(place_of(workspace, table, dataset)) for table in tables), default=0) < FAN:
            continue
        with try_lock(workspace, f"{dataset or ''}.compact") as free:
            if free:
                compact_folder(workspace, dataset, everything=False, only=only)


def _parts_in(place: Path) -> int:
    """How many parts lie in a folder, merged files not counted."""
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return 0
    return sum(name.endswith(".parquet") and name[0] not in ".m" for name in names)


def compact_folder(workspace: Workspace, dataset: str | None, everything: bool, only: str = "") -> list[Compacted]:
    """Merge the files of a dataset, or of `runs`; its lock is held. everything: also where there are few files. only:
    of this table alone."""
    while True:
        sweep_merged(workspace, dataset)
        before = newest_manifest(workspace.root, dataset)
        try:
            groups = {
                table: _groups(_sources(workspace, table, dataset, before, everything), before, everything)
                for table in tables_of(dataset)
                if only in ("", table)
            }
            indexes = everything and dataset is not None and _lacks_index(workspace, dataset, before)
            if not any(groups.values()) and not indexes:
                return []
            after, report = _merge_groups(workspace, dataset, before, groups)
            if everything and dataset is not None:
                files = {table: [one.name for one in after.files if one.table == table] for table in INDEXED_TABLES}
                spill = spill_folder(workspace)
                after = replace(after, index=make_index(workspace.root, dataset, after.number, files, spill))
        except FileNotFoundError:  # another machine was first, or somebody removed a part
            continue
        if commit(workspace, dataset, after):
            failpoint("compact-after-commit")
            sweep_merged(workspace, dataset)
            return report
        for file in set(after.files) - set(before.files):
            place_of(workspace, file.table, dataset).joinpath(f"{file.name}.parquet").unlink(missing_ok=True)


def _lacks_index(workspace: Workspace, dataset: str, manifest: Manifest) -> bool:
    """Whether there are merged files, and no index of all of them."""
    folder, index = manifest_folder(workspace.root, dataset), manifest.index
    there = files_there(workspace, dataset, manifest)
    if index is None or not all((folder / name).is_file() for name in index.names):
        return any(file.table == "attempts" for file in there)
    indexed = {file.name for file in there if file.table in INDEXED_TABLES}
    return {name for names in index.sources.values() for name in names} != indexed


def files_there(workspace: Workspace, dataset: str | None, manifest: Manifest) -> list[MergedFile]:
    """The files that a manifest lists and nobody removed."""
    places = {table: place_of(workspace, table, dataset) for table in tables_of(dataset)}
    return [file for file in manifest.files if (places[file.table] / f"{file.name}.parquet").exists()]


def tables_of(dataset: str | None) -> tuple[str, ...]:
    """The tables that are compacted together."""
    return (*INDEXED_TABLES, "labels") if dataset else ("runs",)


def place_of(workspace: Workspace, table: str, dataset: str | None) -> Path:
    """The folder of a table's files of a dataset."""
    return workspace.root / table / dataset if dataset else workspace.root / table


def _sources(
    workspace: Workspace, table: str, dataset: str | None, manifest: Manifest, everything: bool
) -> list[Source]:
    """The files of a table that may be merged, parts in the order of their names and merged files by what they cover.

    A part whose journal is there still may be sealed once more. A copy under a name such as parts have has no rows of
    its own, but would have once the first one is merged. What is in the index stays there, unless everything is merged.
    """
    place = place_of(workspace, table, dataset)
    found, there = count_files(workspace.root, table, place)
    journals = {path.stem for path in (workspace.root / "journals").glob("*.jsonl")}
    copies = find_copies({file: there[file] for file in found.files})
    tiers = {one.name: one for one in manifest.files if one.table == table}
    indexed = manifest.index.sources.get(table, ()) if manifest.index and not everything else ()
    also: dict[str, set[PartName]] = defaultdict(set)
    for file, first in copies.items():
        if (name := part_name(Path(file).stem)) is not None:
            also[first].add(name)
    sources = []
    for file in found.files:
        path, name = Path(file), part_name(Path(file).stem)
        known = tiers.get(path.stem)
        if (
            file in copies
            or path.stem in journals
            or path.stem in indexed
            or (known and _final(known) and not found.overlapping)
        ):
            continue
        if MERGED_NAME.fullmatch(path.stem):
            covers = own_covers(path)
            if covers and fits(path, table):
                sources.append(merged_part(path, covers, known.tier if known else 1))
        elif name is not None and fits(path, table):
            sources.append(merged_part(path, {name, *also[file]}, 0))
    return sorted(sources, key=lambda source: (min(source.covers), source.path.name))


def _final(file: MergedFile) -> bool:
    return file.rows >= FINAL_ROWS or file.size >= FINAL_BYTES


def _groups(sources: Sequence[Source], manifest: Manifest, everything: bool) -> list[list[Source]]:
    """Which sources become one file each. Those that hold the same rows become one."""
    if overlap(sources):
        return [list(sources)]
    listed = {one.name for one in manifest.files}
    if everything:
        foreign = [one for one in sources if one.tier and one.path.stem not in listed]
        return list(cut(sources)) if foreign or len(sources) > 1 else []
    tiers: dict[int, list[Source]] = defaultdict(list)
    for source in sources:
        tiers[source.tier].append(source)
    return [group for tier in tiers.values() if len(tier) >= FAN for group in cut(tier)]


def overlap(sources: Sequence[Source]) -> bool:
    """Whether two files stand for the same part."""
    return sum(len(one.covers) for one in sources) > len(set[PartName]().union(*(one.covers for one in sources)))


def cut(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Sources in order, as many for each file as make it final."""
    group, rows, size = list[Source](), 0, 0
    for source in sources:
        group.append(source)
        rows, size = rows + source.rows, size + source.size
        if rows >= FINAL_ROWS or size >= FINAL_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


def _merge_groups(
    workspace: Workspace, dataset: str | None, before: Manifest, groups: dict[str, list[list[Source]]]
) -> tuple[Manifest, list[Compacted]]:
    """Write the merged files, and the manifest that is to list them."""
    number, made, report = before.number + 1, list[MergedFile](), list[Compacted]()
    covers = {table: set(names) for table, names in before.covers.items()}
    merged = set[tuple[str, str]]()
    for table, some in groups.items():
        place, names = place_of(workspace, table, dataset), covers.setdefault(table, set())
        rows = 0
        for sources in some:
            failpoint("compact-before-merge")
            path = place / new_name(number)
            made.append(merge(path, table, sources, once=overlap(sources)))
            names |= {name for source in sources for name in source.covers}
            merged |= {(table, source.path.stem) for source in sources}
            rows += made[-1].rows
        if some:
            report.append(Compacted(dataset, table, sum(map(len, some)), len(some), rows))
    left = [file for file in files_there(workspace, dataset, before) if (file.table, file.name) not in merged]
    frozen = {table: frozenset(names) for table, names in covers.items()}
    return Manifest(number, (*left, *made), frozen, before.index), report


def new_name(number: int) -> str:
    """Make the name of a merged file of a manifest."""
    return f"{MERGED}{number:08d}-{secrets.token_hex(4)}.parquet"


def commit(workspace: Workspace, dataset: str | None, manifest: Manifest) -> bool:
    """Let a manifest count, unless another of its number does."""
    folder = manifest_folder(workspace.root, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{manifest.number:08d}.json"
    draft = folder / f".{path.name}.{secrets.token_hex(4)}"
    with new_file(draft) as file:
        file.write(manifest.to_json().encode())
        file.flush()
        os.fsync(file.fileno())
        failpoint("compact-before-commit")
    try:
        os.link(draft, path)
    except (FileExistsError, FileNotFoundError):  # or another swept the draft, since it has one
        return False
    except OSError as error:
        if error.errno not in NO_LINKS or path.exists():
            raise
        os.rename(draft, path)  # where a file has one name only; the lock keeps others out
    finally:
        draft.unlink(missing_ok=True)
    sync(folder)
    return True


def sweep_merged(workspace: Workspace, dataset: str | None) -> None:
    """Take away what was merged, merged files that others replaced, and old manifests."""
    manifest = newest_manifest(workspace.root, dataset)
    if not manifest.number:
        return
    for table in tables_of(dataset):
        for path in _swept(workspace, table, dataset, manifest):
            path.unlink(missing_ok=True)
            failpoint("compact-in-sweep")
    folder = manifest_folder(workspace.root, dataset)
    used = manifest.index.names if manifest.index else ()
    for path in folder.glob("index-*.parquet"):
        if path.name not in used and int(path.name.split("-")[1]) <= manifest.number:
            path.unlink(missing_ok=True)
    for name in manifest_names(folder)[:-MANIFESTS]:
        (folder / name).unlink(missing_ok=True)
    for draft in folder.glob(".*.json.*"):  # of one that was killed; a living one would lose its commit, and try again
        draft.unlink(missing_ok=True)


def _swept(workspace: Workspace, table: str, dataset: str | None, manifest: Manifest) -> Iterator[Path]:
    """The files of a table whose rows are in those that the manifest lists, or in parts that are there."""
    covered = manifest.covered(table)
    listed = {one.name for one in manifest.files if one.table == table}
    place = place_of(workspace, table, dataset)
    paths = sorted(place.glob("[!.]*.parquet"))
    names = {path: part_name(path.stem) for path in paths}
    left = {name for name in names.values() if name is not None and name not in covered}
    for path, name in names.items():
        merged = MERGED_NAME.fullmatch(path.stem)
        if name in covered:
            yield path
        elif merged and path.stem not in listed and int(merged[1]) <= manifest.number:
            covers = own_covers(path)
            if covers and covers - covered <= left:
                yield path
