"""Session files of coding agents among the files of an import: found, recognized by their first lines, and read whole.

One file is one rollout. The formats are those of formats/sessions/.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.config.paths import as_path
from rolloutops.formats.sessions import claude_code, codex, mini_swe_agent, openhands
from rolloutops.formats.sessions.session import Session
from rolloutops.formats.strict_json import dump, parse
from rolloutops.ingest.inputs import SUFFIXES, is_json_lines, open_rows, raw_rows

FIRST_LINES, FIRST_BYTES = 20, 1 << 20
"""How far a file of lines is read to see whether it is a session."""

MAX_BYTES = 1 << 28
"""The largest session file that is read: it is held in memory whole."""

DOCUMENT, TRAJECTORY = ".json", ".traj.json"
"""How documents are named; the second are mini-swe-agent's, whatever is in them."""


class SessionFile(NamedTuple):
    """A session as read, and its file verbatim as one line of JSON: a list of lines, or the document."""

    session: Session
    raw: str


def take_sessions(patterns: Sequence[str], *bases: Path) -> tuple[list[Path], list[str]]:
    """The session files among those that the patterns name, and the patterns of all other files.

    Patterns as of `find_inputs`, and `.json` files besides.
    """
    sessions: dict[Path, None] = {}
    others: list[str] = []
    for pattern in patterns:
        files = _files(pattern, bases)
        found = [file for file in files if is_session(file)]
        sessions.update(dict.fromkeys(found))
        if not found:
            others.append(pattern)
        else:
            others += [str(file) for file in files if file not in found and file.name.lower().endswith(SUFFIXES)]
    return list(sessions), others


def folder_name(patterns: Sequence[str]) -> str:
    """The name of the folder that the first pattern names: the files' own, or the one that a glob starts from."""
    path = as_path(patterns[0]).absolute()
    while glob.has_magic(str(path)) or not path.is_dir():
        path = path.parent
    return re.sub(r"[^A-Za-z0-9_-]+", "_", path.name).strip("_-") or "sessions"


def is_session(path: Path) -> bool:
    """Whether a file is a session: by its first lines, or as a document."""
    if path.name.lower().endswith(TRAJECTORY):
        return True  # one that cannot be read is rejected with the reason
    if path.suffix.lower() == DOCUMENT:
        try:
            return _session_of(path, _document(path)) is not None
        except (ValueError, OSError):
            return False
    return is_json_lines(path) and _module_of(_first_rows(path)) is not None


def read_session(path: Path) -> SessionFile:
    """Read a session file. Raises ValueError with the reason where it holds none that can be used, InputError where the
    file cannot be read."""
    if path.suffix.lower() == DOCUMENT:
        text = _text(path)
        read = _session_of(path, parse(text))
        if read is None:
            raise ValueError("the document is not a session of a known agent")
        return SessionFile(read(), text.strip())
    values, raws, size = [], [], 0
    for row in open_rows(path):
        size += len(row.raw)
        if size > MAX_BYTES:
            raise ValueError(_too_large(size))
        text = row.raw.decode("utf-8", "replace")
        values.append(text if row.value is None else row.value)
        raws.append(dump(text) if row.value is None else text)
    module = _module_of(values[:FIRST_LINES])
    if module is None:
        raise ValueError("its first lines are not those of a session of a known agent")
    return SessionFile(module.read(values), f"[{','.join(raws)}]")


def _module_of(rows: Sequence[Any]) -> Any:
    """The format whose first rows these are; None where they are none of a session."""
    return next((module for module in (claude_code, codex, openhands) if module.recognizes(rows)), None)


def _session_of(path: Path, document: Any) -> Callable[[], Session] | None:
    """What reads a document; None where it is not a session."""
    if mini_swe_agent.recognizes(document):
        return lambda: mini_swe_agent.read(document)
    if codex.recognizes([document]):
        return lambda: codex.read([document])
    if (events := openhands.events_of(document)) is not None:
        return lambda: openhands.read(events, document if isinstance(document, dict) else None)
    if path.name.lower().endswith(TRAJECTORY) and isinstance(document, list):
        return lambda: mini_swe_agent.read({"messages": document})  # as versions before 1.0 wrote them
    return None


def _first_rows(path: Path) -> list[Any]:
    """The first rows of a file of lines that are objects."""
    found: list[Any] = []
    size = 0
    for _, raw, _ in itertools.islice(raw_rows(path), FIRST_LINES):
        try:
            found.append(parse(raw))
        except ValueError:
            continue
        size += len(raw)
        if size > FIRST_BYTES:
            break
    return [row for row in found if isinstance(row, dict)]


def _document(path: Path) -> Any:
    return parse(_text(path))


def _text(path: Path) -> str:
    """A document's text. Raises ValueError for one that is too large, or not UTF-8."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(_too_large(size))
    return path.read_bytes().decode("utf-8-sig")


def _too_large(size: int) -> str:
    return f"a session of more than {MAX_BYTES} bytes is not read ({size} bytes)"


def _files(pattern: str, bases: Sequence[Path]) -> list[Path]:
    """The files that a pattern names, of any kind; none where it names nothing."""
    if not pattern or "://" in pattern:
        return []
    name = str(as_path(pattern))
    base = next((base for base in bases if glob.glob(name, root_dir=base, recursive=True)), bases[0])
    path = base / name
    if path.is_dir():
        found = sorted(path.iterdir())
    elif path.exists():
        found = [path]
    else:
        found = sorted(base / one for one in glob.glob(name, root_dir=base, recursive=True))
    return [file for file in found if file.is_file() and not file.name.startswith((".", "_"))]
