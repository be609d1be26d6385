"""Copy the part files of one workspace into another. Names tell runs, so most parts are there once and for all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rolloutops.errors import WorkspaceError
from rolloutops.store import schema
from rolloutops.store.failpoints import failpoint
from rolloutops.store.manifest import PartName, own_covers, part_name
from rolloutops.store.parts import ID_COLUMNS, end_of, find_parts
from rolloutops.store.workspace import Workspace, new_file, sync, write_part


@dataclass
class CopiedRows:
    """Rows of a table and dataset: those that were copied, in how many files, and those that were there already."""

    added: int = 0
    files: int = 0
    present: int = 0


def copy_parts(
    source: Workspace, into: Workspace, table: str, link: bool, dataset: str | None = None
) -> dict[str, CopiedRows]:
    """Copy a table's parts that are not there yet; returns what was copied by dataset (runs have none: "").

    dataset: of this one alone. link: make hard links, which take no space. Only footers are read, but where two files
    of one name differ: then the rows that are missing here become a part of their own. Raises WorkspaceError where
    links cannot be made.
    """
    found: dict[str, CopiedRows] = {}
    merged = find_parts(into.root, table).covered
    for place in find_parts(source.root, table).files:
        path = Path(place)
        own = into.root / path.relative_to(source.root)
        if dataset is not None and own.parent.name != dataset:
            continue
        name = "" if table in schema.FLAT else own.parent.name
        counted = found.setdefault(name, CopiedRows())
        rows = pq.read_metadata(path).num_rows
        if _covered(path) <= merged.get(name, frozenset()):
            counted.present += rows
        elif not own.exists():
            _copy(path, own, link)
            counted.added += rows
            counted.files += 1
        elif _same(path, own) or table not in ID_COLUMNS:
            counted.present += rows
        else:
            missing = _missing_rows(path, own, ID_COLUMNS[table])
            counted.present += rows - len(missing)
            if len(missing):
                write_part(into, table, name, f"{own.stem}-{_digest(missing[ID_COLUMNS[table]])}", missing)
                counted.added += len(missing)
                counted.files += 1
    return found


def _covered(path: Path) -> frozenset[PartName | None]:
    """The parts whose rows a file holds: itself, or those that were merged into it."""
    return frozenset(own_covers(path) or [part_name(path.stem)])


def _copy(path: Path, own: Path, link: bool) -> None:
    """Copy or link a file; either way it bears its name only once it is whole."""
    own.parent.mkdir(parents=True, exist_ok=True)
    failpoint("merge-before-copy")
    if link:
        try:
            os.link(path, own)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            raise WorkspaceError(
                f"cannot link {path} into {own.parent} ({os.strerror(error.errno)}): leave out --link to copy"
            ) from error
    else:
        with path.open("rb") as source, new_file(own) as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            failpoint("merge-before-rename")
    sync(own.parent)


def _same(one: Path, other: Path) -> bool:
    """Whether two parts of one name have the same rows, as far as size and footer tell, which has the columns' sums."""
    return one.stat().st_size == other.stat().st_size and end_of(str(one)) == end_of(str(other))


def _missing_rows(path: Path, own: Path, column: str) -> pa.Table:
    """The rows of a part that the one of the same name here, and what was added to it, lack.

    Such parts are of a workspace that was copied while a command wrote to it: one has the beginning of the other."""
    held = [pq.read_table(file, columns=[column])[column] for file in _with_additions(own)]
    rows = pq.read_table(path)
    return rows.filter(pc.invert(pc.is_in(rows[column], pa.chunked_array([c for one in held for c in one.chunks]))))


def _with_additions(own: Path) -> Iterator[Path]:
    yield own
    yield from own.parent.glob(f"{own.stem}-*.parquet")


def _digest(ids: pa.ChunkedArray) -> str:
    return hashlib.sha256("\n".join(sorted(ids.to_pylist())).encode()).hexdigest()[:8]
