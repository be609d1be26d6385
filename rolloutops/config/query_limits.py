"""What queries may take of the machine: memory, threads, and the folder for what they do not hold in memory.

Flags win over a recipe's [duckdb], and this over the environment: ROLLOUTOPS_MEMORY_LIMIT, ROLLOUTOPS_THREADS and
ROLLOUTOPS_TEMP_DIRECTORY. They are of a whole process, as each of its connections takes from the same machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.config.paths import as_path
from rolloutops.config.settings import DuckDB, settings_of
from rolloutops.errors import UsageError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
LEAST = 50 * 10**6
"""Bytes below which DuckDB fails on small queries too."""

CGROUPS = Path("/sys/fs/cgroup")
NAMES = tuple(DuckDB.__dataclass_fields__)


class QueryLimits(NamedTuple):
    """The limits of each connection. memory: in bytes. threads: None for one a core. spill: None for the workspace."""

    memory: int
    threads: int | None = None
    spill: Path | None = None


def limit_queries(flags: Mapping[str, Any], recipe: DuckDB | None = None) -> None:
    """Set the limits of this process. flags: of a command, whose other names are left aside.

    Raises UsageError for a value that is none.
    """
    global _limits
    given = {name: flags[name] for name in NAMES if name in flags}
    layers = {f"ROLLOUTOPS_{name.upper()}": os.environ.get(f"ROLLOUTOPS_{name.upper()}") for name in NAMES}
    found: dict[str, tuple[str, Any]] = {}
    for name, (variable, text) in zip(NAMES, layers.items(), strict=True):
        own = getattr(recipe, name) if recipe is not None else None
        if name in given:
            found[name] = (f"--{name}", settings_of(DuckDB, {name: given[name]}, "the command line")[name])
        elif own is not None:
            found[name] = (f"[duckdb] {name}", own)
        elif text:
            value = int(text) if name == "threads" and text.isdecimal() else text
            found[name] = (variable, settings_of(DuckDB, {name: value}, variable)[name])
    memory = _memory(*found["memory_limit"]) if "memory_limit" in found else machine_memory() // 2
    spill = _folder(*found["temp_directory"]) if "temp_directory" in found else None
    _limits = QueryLimits(memory, found["threads"][1] if "threads" in found else None, spill)


def query_limits() -> QueryLimits:
    """The limits in force: those that were set, else those of the environment."""
    if _limits is None:
        limit_queries({})
    assert _limits is not None
    return _limits


_limits: QueryLimits | None = None


def machine_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or those of its cgroup where that has fewer."""
    page = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([page, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """The memory limits of this process's cgroup and of those above it, in either version."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files: list[Path] = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "" or "memory" in kinds.split(","):
            root, name = (CGROUPS, "memory.max") if kinds == "" else (CGROUPS / "memory", "memory.limit_in_bytes")
            inside = root / path.lstrip("/")
            # In a container the path is the host's, and the limit lies at the root.
            files += [folder / name for folder in (inside, *inside.parents) if folder.is_relative_to(root)]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdecimal()]


def _memory(where: str, text: str) -> int:
    """A size as bytes: 4GB, 512 MiB, or 50% of the machine."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[kmgt]?i?b?)", text.strip().lower())
    unit = match[2].removesuffix("b") if match else None
    if match is None or (unit != "%" and unit not in UNITS):
        raise UsageError(f"{where} = {text!r} is not a size: write e.g. 4GB, 512MB or 50% (of the machine's memory)")
    size = int(float(match[1]) * (machine_memory() / 100 if unit == "%" else UNITS[str(unit)]))
    if size < LEAST:
        raise UsageError(f"{where} = {text!r} is too little for any query: write 50MB or more")
    return size


def _folder(where: str, text: str) -> Path:
    """A folder to write to, absolute; it is made where there is none."""
    path = as_path(text).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{where} = {text!r} cannot be a folder: {error.strerror}; name another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{where} = {text!r} cannot be written: permission denied; name another folder")
    return path
