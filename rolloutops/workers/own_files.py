"""What a worker on another machine needs of this one: the recipe, and the files that it names or imports.

Inputs are not among them: their tasks are in the workspace. Nor is what is installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rolloutops.config.plan import Plan
from rolloutops.config.plugins import find
from rolloutops.config.resources import HERE
from rolloutops.config.versions import imported_sources
from rolloutops.errors import RolloutopsError

LARGEST = 10_000_000
"""Bytes of a file from which on it is no part of a recipe."""
INPUTS = ("input", "examples", "data", "media_root", "output", "path", "folder")
"""Keys whose files are read by other commands, or lie in the workspace's reach."""


def own_files(plan: Plan, flags: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that the recipe, or the flags laid over it, name: absolute path -> content."""
    places = list(dict.fromkeys([Path.cwd(), plan.folder.absolute()]))
    paths = [plan.path.absolute()] if plan.path else []
    for text in (*_texts(plan.record), *_texts(flags)):
        name = text.rpartition(":")[0] if ".py:" in text else text
        if 0 < len(name) < 1000 and "\n" not in name and not os.path.isabs(name):
            paths += [place / name for place in places]
    for kind, name in _plugins(plan):
        with suppress(RolloutopsError):
            plugin = find(kind, name, plan.folder)
            paths += _packages(plugin.file(), plugin.target.rpartition(":")[0])
    found: dict[str, bytes] = {}
    for path in paths:
        with suppress(OSError):
            if path.is_file() and not _is_installed(path) and path.stat().st_size < LARGEST:
                for one in imported_sources(path) if path.suffix == ".py" else (path,):
                    found[os.path.normpath(one)] = one.read_bytes()
    return found


def _texts(value: Any) -> Iterator[str]:
    """The texts at any depth of a table that may name a file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in INPUTS:
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _plugins(plan: Plan) -> Iterator[tuple[Any, str]]:
    for settings in plan.policies.values():
        yield "engine", settings.engine
    for dataset in plan.datasets.values():
        if dataset.environment:
            yield "environment", dataset.environment


def _packages(path: Path, module: str) -> list[Path]:
    """A module's file, and those that make packages of the folders that it is in."""
    depth = 0 if module.endswith(".py") else module.count(".")
    return [path, *(folder / "__init__.py" for folder in path.parents[:depth])]


def _is_installed(path: Path) -> bool:
    return path.is_relative_to(HERE) or any(part.endswith("-packages") for part in path.parts)
