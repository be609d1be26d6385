"""Folders for a while: what a command stages, and a build before it takes its place.

Beside each lies a hidden lock file, held for as long as the command lives. A folder whose lock is free is what a killed
command left, and goes with the next one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rolloutops.store.workspace import lock_file


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make a folder that is gone when the block ends, unless it was renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(folder)
    fd = _locked(lock)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            lock.unlink()
        os.close(fd)


def sweep_scratch(parent: Path, pattern: str = "*") -> None:
    """Take away the folders of commands that are no more. What cannot be taken away stays: it harms nobody."""
    with suppress(OSError):
        for folder in sorted(parent.glob(pattern)):
            if folder.is_dir() and not folder.is_symlink():
                with _free(_lock_of(folder)) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)
        for lock in sorted(parent.glob(f".{pattern}.lock")):  # of a command that was killed before it made its folder
            with _free(lock):
                pass


def sweep_replaced(parent: Path, name: str = "*") -> None:
    """Take away what killed builds left beside the folders `name`: `.NAME.new-*`, and `.NAME.old-*`, the build before.

    A build that was killed between its two renames left no folder: the one before comes back.
    """
    sweep_scratch(parent, f".{name}.new-*")
    with suppress(OSError):
        for old in sorted(parent.glob(f".{name}.old-*")):
            output, _, mark = old.name[1:].rpartition(".old-")
            with _free(_lock_of(parent / f".{output}.new-{mark}")) as free:
                if free and (parent / output).exists():
                    shutil.rmtree(old, ignore_errors=True)
                elif free:
                    old.rename(parent / output)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _locked(lock: Path) -> int:
    """Make and take a lock file; one that was taken away before it was locked is made again."""
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            mine = lock_file(fd)
        except OSError:  # an output may lie where there are no locks; then nobody takes it away either
            return fd
        if mine and lock.exists() and os.path.samestat(os.stat(lock), os.fstat(fd)):
            return fd
        os.close(fd)
        time.sleep(0.001)


@contextmanager
def _free(lock: Path) -> Iterator[bool]:
    """Whether nobody holds a lock file, which is held meanwhile, and gone afterwards if its folder is."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        free = lock_file(fd) and lock.exists() and os.path.samestat(os.stat(lock), os.fstat(fd))
        yield free
        if free and lock.exists() and not (lock.parent / lock.name[1:-5]).exists():
            lock.unlink()
    finally:
        os.close(fd)
