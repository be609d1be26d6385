"""A file that a user names as output: whole or not there, and what was there before stays until then."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from rolloutops.store.scratch import scratch, sweep_scratch
from rolloutops.store.workspace import sync


@contextmanager
def replacing_file(output: Path) -> Iterator[Path]:
    """Yield a path to write; when the block ends well, the file is synced and takes the place of `output`.

    What killed commands left beside it goes. A device or a pipe is written as it is. Raises OSError that names
    `output`.
    """
    if output.exists() and not output.is_file():
        yield output
        return
    output = Path(os.path.realpath(output))
    name = output.name[:100]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with scratch(output.with_name(f".{name}.tmp-{os.getpid()}-{secrets.token_hex(3)}")) as folder:
            file = folder / output.name
            yield file
            sync(file)
            os.replace(file, output)
            sync(output.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(output)) from error
    finally:
        sweep_scratch(output.parent, f".{escape(name)}.tmp-*")
