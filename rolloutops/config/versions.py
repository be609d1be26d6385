"""What names a verifier's version.

A shipped environment has a number that a person raises when its rewards change (`VERSION` of its module), a custom one
the hash of its syntax tree: docstrings, comments, layout and files that it does not import are not part of it. Settings
belong to both, and so do the versions of the packages in the module's `PACKAGES`: another math-verify may give another
reward, and its verdicts are then made again, as after a change of one's own code.

Up to commit 79c45b0 a version was a hash over the bytes of all that. Verdicts of that time keep their names: a hash of
that kind equals version 1 of a shipped environment, or a custom one whose files have not been touched since.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from rolloutops.config.resources import HERE
from rolloutops.errors import RolloutopsError

SHIPPED = "rolloutops.environments."
"""The modules whose version is a number."""

SOURCES_79C45B0 = HERE / "environments" / "sources_79c45b0.zip"
"""The shipped environments as of commit 79c45b0, as far as their rewards are those of today. That commit's hashes begin
with the settings, so they can be had for any settings only from the bytes that it hashed."""

SERVER_79C45B0 = frozenset(("base_url", "agents", "api_key_env", "api_key_required", "headers"))
ENGINE_79C45B0 = SERVER_79C45B0.union(
    ("connect_timeout", "request_timeout", "timeout", "max_connections", "delay", "faults"),
    ("max_num_seqs", "tensor_parallel_size", "gpu_memory_utilization"),
    ("wait", "poll_seconds", "requests_per_batch", "bytes_per_batch", "settle_seconds"),
)
"""The settings, and those of `engine_args`, that were not part of that commit's hashes."""

Sources = Mapping[str, bytes]
"""File name -> bytes: a module and what it imports of its own folder."""


def version(path: Path, module: str, attr: str, settings: Mapping[str, Any]) -> str:
    """Name the version of a verifier: `2-5d41402abc4b` of a shipped one, 12 hex digits of a custom one.

    path, module: the module's file and name (empty for a file). attr: the factory in it. settings: those that count.
    Nothing is imported but the packages that the module is in.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(attr.encode())
    if module.startswith(SHIPPED):
        digest.update(_packages_of(path.read_bytes()))
        return f"{number(path)}-{digest.hexdigest()[:12]}"
    for code in _sorted(sources(path.name, module, _in_folder(path.parent), sys.stdlib_module_names)):
        digest.update(_tree_digest(code))
        digest.update(_packages_of(code))
    return digest.hexdigest()[:12]


def equal_versions(path: Path, module: str, attr: str, settings: Mapping[str, Any]) -> list[str]:
    """The hashes of commit 79c45b0 that mean the present version. settings: all of them, as that commit took them."""
    if not module.startswith(SHIPPED):
        return [_bytes_hash(sources(path.name, module, _in_folder(path.parent)), attr, settings)]
    if number(path) != 1:
        return []
    return [_bytes_hash(found, attr, settings) for found in [_sources_79c45b0(path.name, module)] if found]


def number(path: Path) -> int:
    """The number that a shipped environment's module gives to VERSION."""
    found = _literal(path.read_bytes(), "VERSION")
    if not isinstance(found, int):
        raise RolloutopsError(f"{path} has no VERSION: a shipped environment needs one, a whole number")
    return found


def settings_that_count(
    settings: Any,
    aside: Collection[str],
    engine_aside: Collection[str],
    operational: Callable[[Any], Collection[str]] | None = None,
) -> Any:
    """Settings, at any depth, without those that say where and as whom a server is asked, or how fast an engine is.

    aside: keys that do not count. engine_aside: those inside an `engine_args`. operational: what the engine beside
    `engine_args` declares of its own arguments (default: engine_aside).
    """
    if not isinstance(settings, Mapping):
        return settings
    counted = {}
    for name, value in settings.items():
        if name in aside:
            continue
        if name == "engine_args" and isinstance(value, Mapping) and operational is not None:
            own = operational(settings.get("engine"))
            counted[name] = {
                key: settings_that_count(inner, engine_aside, engine_aside)
                for key, inner in value.items()
                if key not in own
            }
        else:
            inside = engine_aside if name == "engine_args" else aside
            counted[name] = settings_that_count(value, inside, engine_aside, operational)
    return counted


def sources(name: str, module: str, read: Callable[[str], bytes | None], skip: Collection[str] = ()) -> Sources:
    """A module's file and the files beside it that it imports, in turn.

    name: the file's. read: a file of its folder, None where there is none. skip: modules that no file beside it hides.
    """
    package = module.rpartition(".")[0]
    found: dict[str, bytes] = {}
    todo = [name]
    while todo:
        file = todo.pop()
        code = None if file in found else read(file)
        if code is None:
            continue
        found[file] = code
        for name in _imported(code):
            if name.startswith("."):
                todo.append(f"{name[1:]}.py")
            elif package and name.startswith(package + "."):
                todo.append(f"{name[len(package) + 1 :].partition('.')[0]}.py")
            elif not package and name.partition(".")[0] not in skip:
                todo.append(f"{name.partition('.')[0]}.py")
    return found


def imported_sources(path: Path) -> list[Path]:
    """A file and the files beside it that it imports, in turn, whatever package they are in."""
    return [path.parent / name for name in sources(path.name, "", _in_folder(path.parent), sys.stdlib_module_names)]


def _in_folder(folder: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        path = folder / name
        return path.read_bytes() if path.is_file() else None

    return read


def _sorted(sources: Sources) -> list[bytes]:
    return [code for _, code in sorted(sources.items())]


@lru_cache
def _sources_79c45b0(name: str, module: str) -> Sources:
    from zipfile import ZipFile

    with ZipFile(SOURCES_79C45B0) as archive:
        known = set(archive.namelist())
        return sources(name, module, lambda file: archive.read(file) if file in known else None)


def _bytes_hash(sources: Sources, attr: str, settings: Mapping[str, Any]) -> str:
    """The version that commit 79c45b0 gave to these files."""
    counted = settings_that_count(settings, SERVER_79C45B0, ENGINE_79C45B0)
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode())
    digest.update(attr.encode())
    for code in _sorted(sources):
        digest.update(code)
        digest.update(_packages_of(code))
    return digest.hexdigest()[:12]


@lru_cache
def _imported(code: bytes) -> list[str]:
    """The modules that a source imports: `a.b`, or `.b` for one of its own package."""
    found: list[str] = []
    for node in ast.walk(_parsed(code) or ast.Module([], [])):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level < 2:
            before = "." if node.level else ""
            if node.module:
                found.append(before + node.module.partition(".")[0] if before else node.module)
            found += (f"{before or (node.module or '') + '.'}{alias.name}" for alias in node.names)
    return found


@lru_cache
def _tree_digest(code: bytes) -> bytes:
    """A hash of a source's syntax tree; of its bytes where it is not Python.

    A text that stands alone does nothing, as docstrings do, unless the source reads docstrings.
    """
    tree = _parsed(code)
    if tree is None:
        return hashlib.sha256(code).digest()
    reads = any(getattr(node, name, "") in ("__doc__", "getdoc") for node in ast.walk(tree) for name in ("id", "attr"))
    return hashlib.sha256("\n".join(_lines(tree, with_texts=reads)).encode("utf-8", "surrogatepass")).digest()


def _lines(node: Any, with_texts: bool) -> Iterator[str]:
    """A syntax tree, one line a node. Empty fields are left out: newer Pythons have more of them (`type_params`)."""
    if isinstance(node, list):
        for item in node:
            yield from _lines(item, with_texts)
    elif isinstance(node, ast.Constant):
        yield f"{type(node.value).__name__} {node.value!r}"
    elif isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str) and not with_texts:
        return
    elif isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if value is not None and value != [] and name != "ctx":
                yield f".{name}"
                yield from _lines(value, with_texts)
        yield ")"
    else:
        yield repr(node)


def _packages_of(code: bytes) -> bytes:
    """The packages that a source names in PACKAGES, with their versions."""
    named = _literal(code, "PACKAGES")
    packages = named if isinstance(named, list | tuple) else ()
    return "".join(f"{package}={_installed(str(package))}" for package in packages).encode()


@lru_cache
def _literal(code: bytes, name: str) -> Any:
    """Return the literal that a source gives to a name at its top; None where it gives none."""
    for node in (_parsed(code) or ast.Module([], [])).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            try:
                return ast.literal_eval(node.value)
            except (ValueError, TypeError):
                return None
    return None


def _parsed(code: bytes) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError):
        return None


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
