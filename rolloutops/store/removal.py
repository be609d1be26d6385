"""Taking rows out for good: attempts, their verdicts and labels, and lines of journals that were set aside.

What goes is decided first, and written down in one file, `compacted/removal.parquet`. From then on it goes, also where
the process is killed: the next command that writes to the workspace ends what was begun. A dataset's attempts and
verdicts go at one moment, with the manifest that lists what is left of the files that held them, and covers these: a
journal that is sealed again brings nothing back.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.redact import tell
from rolloutops.errors import WorkspaceError
from rolloutops.store import schema, sql
from rolloutops.store.compact import (
    INDEXED_TABLES,
    commit,
    compact_folder,
    cut,
    files_there,
    new_name,
    place_of,
    sweep_merged,
    tables_of,
)
from rolloutops.store.damage import UNREADABLE, damaged
from rolloutops.store.failpoints import failpoint
from rolloutops.store.index import make_index
from rolloutops.store.manifest import (
    FOLDER,
    MERGED_NAME,
    Manifest,
    MergedFile,
    PartName,
    newest_manifest,
    own_covers,
    part_name,
)
from rolloutops.store.merge_parts import LeftOut, Source, fits, merge, merged_part, without
from rolloutops.store.parts import ID_COLUMNS, find_parts
from rolloutops.store.waiting import POLL_SECONDS, wait_for_lock
from rolloutops.store.workspace import Workspace, new_file, spill_folder, sync, try_lock

NAME = "removal.parquet"
ROWS = pa.schema([("table", pa.string()), ("dataset", pa.string()), ("id", pa.string())])
"""What goes. Of the table LINES, dataset is a file of `rejected/` and id the SHA-256 of a line of it."""
LINES = "lines"
LOCK = "writers"
"""The lock that all commands share which write, and that one has alone which takes rows out."""
LATE = """
SELECT job_id
FROM open_jobs AS j
SEMI JOIN ({query}) AS g ON g."table" = 'attempts' AND starts_with(g.id, j.job_id || '-')
ORDER BY job_id
"""
"""The batches that have not ended, and whose answers are among what goes."""
AT_ONCE = 1000
"""Files that one query looks at."""


def place_of_removal(workspace: Workspace) -> Path:
    """The file that says what goes, while it goes."""
    return workspace.root / FOLDER / NAME


@contextmanager
def beside_writers(workspace: Workspace, alone: bool) -> Iterator[None]:
    """Be one of the commands that write to a workspace, or the only one. What a killed removal left is ended first.

    Raises WorkspaceError where others write and this one must be alone.
    """
    while True:
        if alone:
            with try_lock(workspace, LOCK) as free:
                if not free:
                    raise WorkspaceError(
                        f"another command writes to {workspace.root}, and may hold what is to go: try again when it "
                        "has ended (rolloutops status shows what runs)"
                    )
                _end_interrupted(workspace)
                yield
                return
        with wait_for_lock(workspace, LOCK, "takes rows out of this workspace", shared=True):
            if not place_of_removal(workspace).exists():
                yield
                return
        with try_lock(workspace, LOCK) as free:
            if free:
                _end_interrupted(workspace)
        if not free:
            time.sleep(POLL_SECONDS)


def remove(workspace: Workspace, con: sql.Connection, query: str) -> None:
    """Take rows out. query: their `table`, `dataset` and `id`, each once, over what a connection has.

    To be called by a command that is the only one that writes, once all journals are sealed. con: a workspace. Raises
    WorkspaceError where a journal or a batch would bring some of it back.
    """
    _refuse_what_comes_back(workspace, con, query)
    path = place_of_removal(workspace)
    path.parent.mkdir(exist_ok=True)
    failpoint("removal-before-list")
    with new_file(path) as file:
        with pq.ParquetWriter(file, ROWS, compression="zstd", write_page_checksum=True) as writer:
            for batch in sql.stream(con, query, 65536):
                writer.write_table(pa.Table.from_batches([batch]).cast(ROWS))
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
    failpoint("removal-after-list")
    try:
        _take_out(workspace)
    except Exception:  # its user is told, and may try again; other commands must not meet it
        path.unlink()
        raise


def _refuse_what_comes_back(workspace: Workspace, con: sql.Connection, query: str) -> None:
    for path in sorted((workspace.root / "journals").glob("*.jsonl")):
        raise WorkspaceError(
            f"{path} is written by a command that still runs, or cannot be read, and may hold what is to go: end that "
            "command, or delete the file if it is damaged, and try again"
        )
    for (job,) in sql.rows(con, LATE.format(query=query)):
        raise WorkspaceError(
            f"batch {job} has not ended, and would bring back what is to go: run collect until it has ended, then "
            "try again"
        )


def _end_interrupted(workspace: Workspace) -> None:
    """Take out what a killed command listed, and say so."""
    if place_of_removal(workspace).exists():
        tell("another command was interrupted while it took rows out of the workspace: what is left of them goes now")
        _take_out(workspace)


def _take_out(workspace: Workspace) -> None:
    """Take out what is listed; a second time is as good as once."""
    path = place_of_removal(workspace)
    with sql.connect(threads=1) as con:
        listed = sql.rows(con, f'SELECT DISTINCT "table", dataset FROM read_parquet({sql.literal(escape(str(path)))})')
    for dataset in sorted({dataset for table, dataset in listed if table != LINES}):
        with wait_for_lock(workspace, f"{dataset}.compact", "compacts this workspace"):
            _remove_from_dataset(workspace, LeftOut(path, dataset, spill_folder(workspace)))
    for name in sorted(name for table, name in listed if table == LINES):
        _remove_lines(workspace.root / "rejected" / name, LeftOut(path, name, spill_folder(workspace)))
    failpoint("removal-before-end")
    path.unlink()
    sync(path.parent)


def _remove_lines(path: Path, left_out: LeftOut) -> None:
    """Write the lines of a file again, without some."""
    with sql.connect(threads=1, spill=left_out.spill) as con:
        gone = {name for (name,) in sql.rows(con, left_out.ids(LINES))}
    if not path.exists():
        return
    with path.open("rb") as lines:
        left = [line for line in lines if hashlib.sha256(line).hexdigest() not in gone]
    if not left:
        path.unlink()
        return
    with new_file(path) as file:
        file.writelines(left)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


@dataclass(frozen=True)
class _Files:
    """Files of a table that hold rows which go. counted: file -> how many of its rows go, of files that are read.
    others: files that nobody reads: copies, and what was merged."""

    counted: Mapping[str, int]
    others: list[str]
    overlapping: bool


def _remove_from_dataset(workspace: Workspace, left_out: LeftOut) -> None:
    """Take out the rows of one dataset, whose lock is held."""
    tables = tables_of(left_out.dataset)
    sweep_merged(workspace, left_out.dataset)
    files = {table: _files_with(workspace, table, left_out) for table in tables}
    if any(one.overlapping for one in files.values()):
        compact_folder(workspace, left_out.dataset, everything=True)
    while True:
        files = {table: _files_with(workspace, table, left_out) for table in tables}
        sources = {table: list(_sources(table, files[table].counted)) for table in tables}
        for table in tables:
            for file in files[table].others:
                Path(file).unlink(missing_ok=True)
                failpoint("removal-of-copy")
        # Attempts first: a verdict without its attempt is of no rollout, and no rollout is seen without its verdict.
        _write_others_again("attempts", files, sources, left_out)
        if not any(sources.values()) or _replace(workspace, left_out, sources, files):
            break
    for table in tables[1:]:
        _write_others_again(table, files, sources, left_out)


def _write_others_again(
    table: str, files: Mapping[str, _Files], sources: Mapping[str, Sequence[Source]], left_out: LeftOut
) -> None:
    """Take rows out of the files that no merged file can take over."""
    for file in sorted({*files[table].counted} - {str(source.path) for source in sources[table]}):
        _write_again(Path(file), table, left_out)
        failpoint("removal-in-place")


def _files_with(workspace: Workspace, table: str, left_out: LeftOut) -> _Files:
    """The files with rows that go."""
    found, place = find_parts(workspace.root, table), str(place_of(workspace, table, left_out.dataset))
    files = [file for file in found.sizes if os.path.dirname(file) == place]
    column, going = ID_COLUMNS[table], dict[str, int]()
    with sql.connect(spill=spill_folder(workspace)) as con:
        for at in range(0, len(files), AT_ONCE):
            some = sql.literal([escape(file) for file in files[at : at + AT_ONCE]])
            query = (
                f"SELECT filename, count(*) FROM read_parquet({some}, filename = true, union_by_name = true) "
                f"WHERE {column} IN ({left_out.ids(table)}) GROUP BY filename"
            )
            going |= dict(sql.rows(con, query))
    counted = set(found.files)
    return _Files(
        {file: rows for file, rows in going.items() if file in counted},
        sorted(file for file in going if file not in counted),
        any(os.path.dirname(file) == place for file in found.overlapping),
    )


def _sources(table: str, files: Mapping[str, int]) -> Iterator[Source]:
    """Those files whose rows a merged file may take over, since their names, or their own words, say what they are."""
    for file in sorted(files):
        path, name = Path(file), part_name(Path(file).stem)
        covers = own_covers(path) if MERGED_NAME.fullmatch(path.stem) else name and {name}
        if covers and fits(path, table):
            yield merged_part(path, covers, 0)


def _replace(
    workspace: Workspace, left_out: LeftOut, sources: Mapping[str, list[Source]], files: Mapping[str, _Files]
) -> bool:
    """Write what is left of files, and let it count instead of them; False where another process compacted first."""
    dataset, before = left_out.dataset, newest_manifest(workspace.root, left_out.dataset)
    number, made = before.number + 1, list[MergedFile]()
    covers: dict[str, set[PartName]] = {table: set(names) for table, names in before.covers.items()}
    for table, some in sources.items():
        covers.setdefault(table, set()).update(*(source.covers for source in some))
        left = [source for source in some if source.rows > files[table].counted[str(source.path)]]
        for group in cut(left):
            path = place_of(workspace, table, dataset) / new_name(number)
            made.append(merge(path, table, group, left_out=left_out))
    gone = {(table, source.path.stem) for table, some in sources.items() for source in some}
    lasting = tuple(
        [one for one in files_there(workspace, dataset, before) if (one.table, one.name) not in gone] + made
    )
    after = Manifest(number, lasting, {table: frozenset(names) for table, names in covers.items()})
    if before.index is not None:
        names = {table: [one.name for one in lasting if one.table == table] for table in INDEXED_TABLES}
        after = replace(after, index=make_index(workspace.root, dataset, number, names, spill_folder(workspace)))
    if not commit(workspace, dataset, after):
        for one in made:
            (place_of(workspace, one.table, dataset) / f"{one.name}.parquet").unlink(missing_ok=True)
        return False
    failpoint("removal-after-commit")
    sweep_merged(workspace, dataset)
    for some in sources.values():
        for source in some:
            source.path.unlink(missing_ok=True)
            failpoint("removal-of-part")
    return True


def _write_again(path: Path, table: str, left_out: LeftOut) -> None:
    """Write a file again under its own name, without the rows that go: one of a newer version, or named by a person."""
    column, gone = ID_COLUMNS[table], left_out.ids_in(path, table)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as opened:
            columns = opened.schema_arrow
            if opened.metadata.num_rows == len(gone):
                path.unlink()
                return
            with new_file(path) as file:
                encoding = schema.encoding_of(columns)
                with pq.ParquetWriter(
                    file, columns, compression="zstd", write_page_checksum=True, **encoding
                ) as writer:
                    for batch in opened.iter_batches(schema.GROUP_ROWS, use_threads=False):
                        writer.write_table(without(pa.Table.from_batches([batch]), column, gone))
                file.flush()
                os.fsync(file.fileno())
    except UNREADABLE as error:
        raise damaged(path, str(error).split("\n")[0][:200]) from error
    sync(path.parent)
