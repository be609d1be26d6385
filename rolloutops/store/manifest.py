"""What `compact` has merged: the manifests of a workspace, and the part files that merged files stand for.

    compacted/datasets/<dataset>/00000007.json    compacted/runs/00000001.json    the greatest number counts
    attempts/<dataset>/merged-00000007-4be1c2.parquet, verdicts/…, runs/…         the files that it lists

A manifest says which merged files are read and which part files these cover. Covers stay for good: a journal that is
sealed again makes a part under its old name, whose rows are in a merged file already. Who reads a workspace lists its
files first and reads the manifest then; in the other order a part that is merged in between would be missed.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.errors import WorkspaceError
from rolloutops.formats.strict_json import digest

FOLDER = "compacted"
MERGED = "merged-"
COVERS = b"rolloutops.covers"
"""The key of a merged file's own metadata that says, as in a manifest, what it covers."""
PART_NAME = re.compile(r"(\d{8}T\d{6}-[0-9a-f]+(?:-import)?)-(\d{4,}|start|end)")
"""How parts are named here. Under one such name there are never other rows, so that it can be covered for good."""
EVENTS = {"start": 0, "end": 1}
MERGED_NAME = re.compile(r"merged-(\d{8})-[0-9a-f]+")
MANIFEST_NAME = re.compile(r"\d{8}\.json")

Ranges = dict[str, list[list[int]]]
"""Run -> ranges of the numbers of its parts, both ends in it; of `runs`, 0 is the start and 1 the end."""


class PartName(NamedTuple):
    """What a part's name says: the run, with the kind of its parts, and a number."""

    run: str
    number: int


def part_name(stem: str) -> PartName | None:
    """Read the name of a part file, without its suffix; None for a name that parts do not have here."""
    found = PART_NAME.fullmatch(stem)
    if found is None:
        return None
    number = EVENTS.get(found[2])
    if number is None:
        number = int(found[2])
        if found[2] != f"{number:04d}":
            return None
    return PartName(found[1], number)


def to_ranges(names: Iterable[PartName]) -> Ranges:
    """Names as ranges, in order."""
    ranges: Ranges = defaultdict(list)
    for run, number in sorted(set(names)):
        held = ranges[run]
        if held and held[-1][1] == number - 1:
            held[-1][1] = number
        else:
            held.append([number, number])
    return dict(ranges)


def from_ranges(ranges: Mapping[str, Iterable[Iterable[int]]]) -> set[PartName]:
    """The names that ranges stand for."""
    return {PartName(run, n) for run, held in ranges.items() for low, high in held for n in range(low, high + 1)}


@dataclass(frozen=True)
class MergedFile:
    """One merged file that counts. rows, size: as they were written, in rows and bytes. tier: how many merges its rows
    went through at most. digest: of what it replaced: the names, rows and bytes of the files."""

    table: str
    name: str
    rows: int
    size: int
    tier: int
    digest: str


@dataclass(frozen=True)
class Index:
    """What `compact` derived of merged files: the rollouts without payload, each with its newest verdict.

    rollouts, settled, strays: names of its files, beside the manifest, with the SHA-256 of each in `digests`. sources:
    table -> the merged files that it was made of; it counts as long as all of them do."""

    rollouts: tuple[str, ...]
    settled: str
    strays: str
    digests: Mapping[str, str]
    sources: Mapping[str, list[str]]

    @property
    def names(self) -> list[str]:
        """All of its files."""
        return [*self.rollouts, self.settled, self.strays]


@dataclass(frozen=True)
class Manifest:
    """What one folder's merged files are and cover. number: 0 where nothing was ever merged. covers: by table."""

    number: int = 0
    files: tuple[MergedFile, ...] = ()
    covers: Mapping[str, frozenset[PartName]] = field(default_factory=dict)
    index: Index | None = None

    def covered(self, table: str) -> frozenset[PartName]:
        """The parts of a table whose rows merged files hold, or held until somebody removed them."""
        return self.covers.get(table, frozenset())

    def to_json(self) -> str:
        """Write the manifest as text, with a digest of itself."""
        body = {
            "number": self.number,
            "files": [vars(file) for file in self.files],
            "covers": {table: to_ranges(names) for table, names in sorted(self.covers.items())},
            "index": self.index and {**vars(self.index), "rollouts": list(self.index.rollouts)},
        }
        return json.dumps({"digest": digest(body), **body}, indent=1)


def manifest_folder(root: Path, dataset: str | None) -> Path:
    """Where the manifests of a dataset lie; of `runs`, without a dataset."""
    return root / FOLDER / "datasets" / dataset if dataset else root / FOLDER / "runs"


def newest_manifest(root: Path, dataset: str | None) -> Manifest:
    """Read the manifest that counts now. Raises WorkspaceError where it is damaged."""
    folder = manifest_folder(root, dataset)
    while True:
        numbers = manifest_names(folder)
        if not numbers:
            return Manifest()
        try:
            text = (folder / numbers[-1]).read_text(encoding="utf-8")
        except FileNotFoundError:  # swept meanwhile: a newer one is there
            continue
        return _manifest(folder / numbers[-1], text)


def manifest_names(folder: Path) -> list[str]:
    """The manifests of a folder, the newest one last."""
    try:
        return sorted(name for name in os.listdir(folder) if MANIFEST_NAME.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _manifest(path: Path, text: str) -> Manifest:
    try:
        found: dict[str, Any] = json.loads(text)
        if digest({name: value for name, value in found.items() if name != "digest"}) != found["digest"]:
            raise ValueError
        files = tuple(MergedFile(**file) for file in found["files"])
        covers = {table: frozenset(from_ranges(ranges)) for table, ranges in found["covers"].items()}
        index = found.get("index") and Index(**{**found["index"], "rollouts": tuple(found["index"]["rollouts"])})
    except (KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(
            f"{path} is damaged: put a copy in its place, or delete it; the merged files that it lists are then "
            "read by what they themselves say"
        ) from error
    return Manifest(int(path.stem), files, covers, index or None)


def own_covers(path: Path) -> set[PartName] | None:
    """What a merged file says of itself that it covers; nothing of one that is gone, None where it is damaged."""
    try:
        return from_ranges(json.loads((pq.read_metadata(path).metadata or {})[COVERS]))
    except FileNotFoundError:
        return set()
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError):
        return None


def merged_folders(root: Path) -> Iterator[str | None]:
    """The datasets that have manifests, and None where `runs` has some."""
    with_names = root / FOLDER / "datasets"
    if with_names.is_dir():
        yield from sorted(name for name in os.listdir(with_names) if manifest_names(with_names / name))
    if manifest_names(root / FOLDER / "runs"):
        yield None
