"""A build's folder: replaced as a whole or not at all, and never where a person put something."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path

from rolloutops.build import manifest
from rolloutops.errors import StepError, UsageError
from rolloutops.store.scratch import scratch, sweep_replaced
from rolloutops.store.workspace import sync


@contextmanager
def replacing(output: Path, where: str) -> Iterator[Path]:
    """A fresh folder beside `output` that takes its place when the block ends well, and is gone when it does not."""
    _refuse_foreign(output, where)
    mark = f"{os.getpid()}-{secrets.token_hex(3)}"
    fresh, old = (output.parent / f".{output.name}.{age}-{mark}" for age in ("new", "old"))
    with ExitStack() as stack:
        # At the end, when a folder of this name is there again, or the one that a killed build moved away comes back.
        stack.callback(sweep_replaced, output.parent, escape(output.name))
        try:
            stack.enter_context(scratch(fresh))
        except OSError as error:
            raise UsageError(f"{where} cannot write {output}: {error.strerror}; choose another output") from error
        try:
            yield fresh
            for path in fresh.iterdir():
                sync(path)
            sync(fresh)
            if output.exists():
                output.rename(old)
            fresh.rename(output)
            sync(output.parent)
        except OSError as error:
            raise StepError(f"{where} cannot write {output}: {error.strerror or error}") from error
        finally:
            if old.exists() and not output.exists():
                old.rename(output)
            shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(output: Path, where: str) -> None:
    """Only a build's own folder is replaced: nothing that a person put there is ever deleted."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{where} output {output} is a file; name a folder")
    foreign = sorted({path.name for path in output.iterdir()} - manifest.files_of(output))
    if foreign:
        raise UsageError(
            f"{where} output {output} contains files not written by a build ({foreign[0]}); choose another folder"
        )
