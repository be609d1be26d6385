"""Media that a row names by path: opened below the input's folder only, checked, and known by their bytes.

A row comes from anywhere, and what it names is sent to an endpoint. So a file is read only where its path, symlinks
resolved, is below the input file's folder or `media_root`, where it is a regular file of at most `max_media_bytes`,
and where its first bytes are those of a picture, a video or a sound. The same holds when a rollout is collected: the
file is opened again, and must have the bytes that the task was made with.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from rolloutops.config.paths import as_path
from rolloutops.config.plan import Plan
from rolloutops.config.settings import Dataset
from rolloutops.formats.media import MediaError, is_local, map_media, part_of, scheme_of
from rolloutops.formats.media_types import HEAD, data_url, holds, media_type
from rolloutops.types import Message

FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened: a symlink that takes its place is not followed, and a pipe that does holds nobody up."""


@dataclass(frozen=True)
class MediaFolder:
    """Where the media of one input file are. folders: looked through in this order; nothing outside them is read."""

    folders: Sequence[Path]
    max_bytes: int

    def with_digests(self, messages: Sequence[Message]) -> list[Message]:
        """Give each local medium the sha256 of its bytes. Raises MediaError where one is not to be read."""

        def digested(medium: str, inner: dict[str, Any]) -> dict[str, Any]:
            plain = {name: value for name, value in inner.items() if name != "sha256"}
            if not is_local(inner["url"]):
                return part_of(medium, plain)
            _, data = self.read(inner["url"], medium)
            return part_of(medium, {"url": inner["url"], "sha256": hashlib.sha256(data).hexdigest()} | plain)

        return map_media(messages, digested)

    def with_bytes(self, messages: Sequence[Message]) -> list[Message]:
        """Make each local medium a data URL. Raises MediaError where one is not to be read, or is not what it was."""

        def filled(medium: str, inner: dict[str, Any]) -> dict[str, Any]:
            plain = {name: value for name, value in inner.items() if name != "sha256"}
            if not is_local(inner["url"]):
                return part_of(medium, plain)
            kind, data = self.read(inner["url"], medium)
            if inner.get("sha256") != hashlib.sha256(data).hexdigest():
                raise MediaError(f"{_name(medium, inner['url'])} has changed since chunk read it: run chunk again")
            named = {"filename": os.path.basename(inner["url"])} if medium == "file" else {}
            return part_of(medium, {**plain, **named, "url": data_url(kind, data)})

        return map_media(messages, filled)

    def read(self, reference: str, medium: str) -> tuple[str, bytes]:
        """The media type and the bytes of a local file. Raises MediaError where it is not to be read."""
        name = _name(medium, reference)
        if (scheme := scheme_of(reference)) is not None:
            forms = "a path below the input file's folder, an http(s) URL or a data URL"
            raise MediaError(f"{name} has the scheme {scheme}, which is not read: write {forms}")
        try:
            folder, path = self._find(reference, name)
            with open(_open(folder, path), "rb", buffering=0) as file:
                return self._checked(file, medium, name)
        except MediaError:
            raise
        except (OSError, ValueError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise MediaError(f"{name} cannot be read: {why}") from None

    def _find(self, reference: str, name: str) -> tuple[Path, Path]:
        """The folder, and the path in it without symlinks."""
        where = " and ".join(str(folder) for folder in self.folders)
        real = [Path(os.path.realpath(folder)) for folder in self.folders]
        paths = [Path(os.path.realpath(folder / reference)) for folder in real]
        inside = [(folder, path) for path in paths for folder in real if folder in path.parents]
        if not inside:
            raise MediaError(f"{name} is outside of {where}: set media_root to a folder that holds it")
        for folder, path in inside:
            if path.exists():
                return folder, path
        raise MediaError(f"{name} is not in {where}: copy it there, or set media_root to its folder")

    def _checked(self, file: FileIO, medium: str, name: str) -> tuple[str, bytes]:
        """The media type and the bytes of an open file."""
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{name} is not a regular file")
        if status.st_size > self.max_bytes:
            raise MediaError(f"{name} has {status.st_size:,} bytes; max_media_bytes allows {self.max_bytes:,}")
        data = file.read(HEAD)
        kind = media_type(data)
        if kind is None or not holds(kind, medium):
            raise MediaError(f"{name} is {kind or 'not an image, video or audio file'} by its first bytes")
        while len(data) <= self.max_bytes and (more := file.read(self.max_bytes + 1 - len(data))):
            data += more
        if len(data) > self.max_bytes:  # it has grown meanwhile
            raise MediaError(f"{name} has more than {self.max_bytes:,} bytes, which max_media_bytes allows")
        return kind, data


def _name(medium: str, reference: str) -> str:
    return f"the {medium} {reference[:200]!r}"


def media_folder(dataset: Dataset, origin: Path, places: Sequence[Path]) -> MediaFolder:
    """Where the media of an input file are. places: where relative names start."""
    own = [_first(as_path(dataset.media_root), places)] if dataset.media_root else []
    return MediaFolder([*own, _first(origin, places).parent], dataset.max_media_bytes)


def media_of(plan: Plan, dataset: str, origin: str) -> MediaFolder:
    """Where the media of a task are."""
    return media_folder(plan.datasets[dataset], Path(origin), plan.places)


def _first(path: Path, places: Sequence[Path]) -> Path:
    """The path from the first of the places where it exists, else from the first."""
    return next((place / path for place in places if (place / path).exists()), places[0] / path)


def _open(folder: Path, path: Path) -> int:
    """Open a file below a folder, from folder to folder, so that no symlink is followed that took the place of one
    meanwhile. What is not a regular file is not opened: that alone may do something."""
    *between, name = path.relative_to(folder).parts
    at = os.open(folder, FLAGS | os.O_DIRECTORY)
    try:
        for part in between:
            below = os.open(part, FLAGS | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise ValueError("it is not a regular file")
        return os.open(name, FLAGS, dir_fd=at)
    finally:
        os.close(at)
