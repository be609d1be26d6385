"""Session files of coding agents among the files of an import: found, recognized by their first lines, and read whole.

One file is one rollout. The formats are those of formats/sessions/. OpenHands' SDK writes a folder for a session, with
one file an event: the folder is the rollout.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.config.paths import as_path
from rolloutops.formats.sessions import claude_code, codex, mini_swe_agent, openhands, openhands_sdk, swe_agent
from rolloutops.formats.sessions.session import Session
from rolloutops.formats.strict_json import dump, parse
from rolloutops.ingest.inputs import SUFFIXES, file_state, is_json_lines, open_rows, raw_rows

SESSION = "session"
"""What a file is called of which all lines are one rollout."""

FIRST_LINES, FIRST_BYTES = 20, 1 << 20
"""How far a file of lines is read to see whether it is a session."""

MAX_BYTES = 1 << 28
"""The largest session that is read: it is held in memory whole."""

EVENT = re.compile(r"event-\d{5,}-.+\.json")
"""How OpenHands' SDK names the file of an event, in a folder `events`."""

STATE = "base_state.json"
"""What is beside that folder."""

DOCUMENTS, TRAJECTORY = (".json", ".traj"), (".traj.json", ".traj")
"""How documents are named; the second are those of mini-swe-agent and SWE-agent, whatever is in them."""


NAMED = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|(?<=agent-)[0-9a-f]{8,}")
"""A session's id in the name of its file, or of its folder: Claude Code, its subagents, Codex, OpenHands."""


class SessionFile(NamedTuple):
    """A session as read, and its file verbatim as one line of JSON: a list of lines, or the document."""

    session: Session
    raw: str


class Sorted(NamedTuple):
    """The sessions among the files that patterns name, the patterns of all other files, and documents beside sessions
    that are none themselves, e.g. a run's `preds.json`."""

    sessions: list[Path]
    patterns: list[str]
    skipped: list[Path]


def take_sessions(patterns: Sequence[str], *bases: Path) -> Sorted:
    """Find the sessions among the files that patterns name: patterns of `find_inputs`, and of `.json` files."""
    sessions: dict[Path, None] = {}
    others: list[str] = []
    skipped: list[Path] = []
    for pattern in patterns:
        files = _files(pattern, bases)
        found = [file for file in files if is_session(file)]
        sessions.update(dict.fromkeys(file.parent if EVENT.fullmatch(file.name) else file for file in found))
        if not found:
            others.append(pattern)
            continue
        for file in [file for file in files if file not in found]:
            if file.suffix.lower() in DOCUMENTS:
                skipped += [] if file.name == STATE else [file]
            elif file.name.lower().endswith(SUFFIXES):
                others.append(str(file))
    return Sorted(list(sessions), others, sorted(skipped))  # in their order: a dataset is named after its first file


def folder_name(patterns: Sequence[str]) -> str:
    """The name of the folder that the first pattern names: the files' own, or the one that a glob starts from."""
    path = as_path(patterns[0]).absolute()
    if path.name == "events" and path.is_dir():
        path = path.parent
    while glob.has_magic(str(path)) or not path.is_dir():
        path = path.parent
    return re.sub(r"[^A-Za-z0-9_-]+", "_", path.name).strip("_-") or "sessions"


def session_id(path: Path) -> str | None:
    """The session's id, as its file's name or its folder's has it; None where it has none."""
    found = NAMED.findall(path.parent.name if path.is_dir() else path.name)
    return found[-1] if found else None


def is_session(path: Path) -> bool:
    """Whether a file is a session: by its first lines, or as a document."""
    return _is_session(path, file_state(path))


@lru_cache(maxsize=100_000)
def _is_session(path: Path, state: tuple[int, ...]) -> bool:
    """As `is_session`, worked out once for each state of a file: a document is parsed whole for it."""
    if EVENT.fullmatch(path.name) or path.name.lower().endswith(TRAJECTORY):
        return True  # one that cannot be read is rejected with the reason
    if path.suffix.lower() in DOCUMENTS:
        try:
            return _session_of(path, _document(path)) is not None
        except (ValueError, OSError):
            return False
    return is_json_lines(path) and _module_of(_first_rows(path)) is not None


def read_session(path: Path) -> SessionFile:
    """Read a session file. Raises ValueError with the reason where it holds none that can be used, InputError where the
    file cannot be read."""
    if path.is_dir():
        return _read_events(path)
    if path.suffix.lower() in DOCUMENTS:
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


def _read_events(folder: Path) -> SessionFile:
    """The session whose events are the files of a folder, and the state that it was left in, if that is there."""
    files = sorted(file for file in folder.iterdir() if EVENT.fullmatch(file.name))
    state = folder.parent / STATE
    texts, size = [], 0
    for file in [*files, *([state] if state.is_file() else [])]:
        texts.append(_text(file).strip())
        size += len(texts[-1])
        if size > MAX_BYTES:
            raise ValueError(_too_large(size))
    values = [parse(text) for text in texts]
    if len(values) > len(files):
        values[-1] = openhands_sdk.state_event(values[-1])
    return SessionFile(openhands.read(values), f"[{','.join(texts)}]")


def _module_of(rows: Sequence[Any]) -> Any:
    """The format whose first rows these are; None where they are none of a session."""
    return next((module for module in (claude_code, codex, openhands) if module.recognizes(rows)), None)


def _session_of(path: Path, document: Any) -> Callable[[], Session] | None:
    """What reads a document; None where it is not a session."""
    if mini_swe_agent.recognizes(document):
        return lambda: mini_swe_agent.read(document)
    if swe_agent.recognizes(document):
        return lambda: swe_agent.read(document)
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
        found = sorted((path / "events" if (path / STATE).is_file() else path).glob("*"))
    elif path.exists():
        found = [path]
    else:
        found = sorted(base / one for one in glob.glob(name, root_dir=base, recursive=True))
    return [file for file in found if file.is_file() and not file.name.startswith((".", "_"))]
