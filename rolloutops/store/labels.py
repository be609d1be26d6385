"""Labels: what a person says of a rollout, in an append-only table.

A row is the whole of what is said of an attempt from then on: label, score and note; of the rows of one attempt the
newest counts, whoever wrote it. Whoever writes holds a lock, reads what is newer than it knows, and changes that, so
that of two people who write at the same moment neither undoes what the other wrote. A part file is on disk when `write`
returns.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rolloutops.config.redact import redacted_row
from rolloutops.errors import UsageError
from rolloutops.store import schema
from rolloutops.store.damage import UNREADABLE, damaged
from rolloutops.store.parts import find_parts
from rolloutops.store.removal import beside_writers
from rolloutops.store.rows import RolloutKey
from rolloutops.store.run_ids import next_run_id
from rolloutops.store.waiting import wait_for_lock
from rolloutops.store.workspace import Workspace, write_part, writing

LONGEST = {"label": 200, "note": 20_000, "author": 200}
"""Characters of a text at most."""

NOTHING: Mapping[str, None] = {"label": None, "score": None, "note": None}
"""What is said of an attempt that nobody has labeled."""


class AttemptKey(RolloutKey):
    """What is labeled: an attempt, by the key of its rollout and its own id."""

    attempt_id: str


class LabelRow(AttemptKey):
    """A row of `labels`. created_at: microseconds since 1970."""

    label_id: str
    label: str | None
    score: float | None
    note: str | None
    withdrawn: bool
    author: str
    created_at: int


class LabelLog:
    """The labels of a workspace, as this process knows them. rows: all that were read or written, in that order.
    newest: (dataset, attempt_id) -> the row that counts."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.rows: list[LabelRow] = []
        self.newest: dict[tuple[str, str], LabelRow] = {}
        self._files: set[str] = set()
        self._ids: set[str] = set()
        self._run_id, self._parts, self._named = "", 0, 0

    def read_new(self) -> None:
        """Read the files that have come since the last call. A row that lies in several counts once."""
        while True:
            files = find_parts(self.workspace.root, "labels").files
            try:
                for file in files:
                    if file not in self._files:
                        self._take(_rows_of(Path(file)))
                        self._files.add(file)
            except FileNotFoundError:  # merged since it was listed
                continue
            self._files &= set(files)
            return

    def write(self, attempts: Sequence[AttemptKey], changes: Mapping[str, Any], author: str) -> list[LabelRow]:
        """Change what is said of attempts, and return the rows that were written, when they are on disk.

        changes: as `check_changes` returns them; what they do not name stays as it is. One where nothing changes is
        left out.
        """
        with (
            writing(self.workspace),
            beside_writers(self.workspace, alone=False),
            wait_for_lock(self.workspace, "labels", "writes labels"),
        ):
            self.read_new()
            with nullcontext(self._run_id) if self._run_id else next_run_id(self.workspace) as self._run_id:
                return self._write([row for one in attempts if (row := self._row(one, changes, author))])

    def _write(self, rows: Sequence[LabelRow]) -> list[LabelRow]:
        parts: dict[str, list[LabelRow]] = defaultdict(list)
        for row in rows:
            parts[row["dataset"]].append(row)
        for dataset, own in parts.items():
            name = f"{self._run_id}-{self._parts:04d}"
            self._parts += 1
            path = write_part(self.workspace, "labels", dataset, name, schema.table_of(schema.LABELS, own))
            self._files.add(str(path))
            self._take(own)
        return list(rows)

    def _row(self, one: AttemptKey, changes: Mapping[str, Any], author: str) -> LabelRow | None:
        """The next row of an attempt; None where it would say the same as the last one."""
        before = self.newest.get((one["dataset"], one["attempt_id"]))
        said = {name: before[name] if before else None for name in NOTHING}  # type: ignore[literal-required]
        now = dict(NOTHING) if changes.get("withdraw") else {**said, **{n: changes[n] for n in NOTHING if n in changes}}
        if now == said:
            return None
        self._named += 1
        row: LabelRow = {
            **one,
            "label_id": f"{self._run_id}-{self._named:08d}",
            **now,  # type: ignore[typeddict-item]
            "withdrawn": now == NOTHING,
            "author": author,
            # Later than what it replaces, whatever this machine's clock says.
            "created_at": max(time.time_ns() // 1000, before["created_at"] + 1 if before else 0),
        }
        return redacted_row(row)  # type: ignore[return-value]

    def _take(self, rows: Sequence[LabelRow]) -> None:
        """Let rows count that are not known yet."""
        for row in rows:
            if row["label_id"] in self._ids:
                continue
            self._ids.add(row["label_id"])
            self.rows.append(row)
            key = row["dataset"], row["attempt_id"]
            if key not in self.newest or _order(self.newest[key]) < _order(row):
                self.newest[key] = row


def _order(row: LabelRow) -> tuple[int, str]:
    """What the newest of several rows is found by."""
    return row["created_at"], row["label_id"]


def _rows_of(path: Path) -> list[LabelRow]:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise damaged(path, str(error).split("\n")[0][:200]) from error
    at = table.schema.get_field_index("created_at")
    rows: list[LabelRow] = table.set_column(at, "created_at", table["created_at"].cast("int64")).to_pylist()
    return rows


def check_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to change, checked: `label`, `score`, `note`, of which null takes one away, or `withdraw`.

    Raises UsageError, a sentence, for what is none of these.
    """
    found: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "withdraw" and isinstance(value, bool):
            found |= {"withdraw": True} if value else {}
        elif name == "score" and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"score must be a finite number, not {value!r}")
            found[name] = None if value is None else float(value)
        elif name in ("label", "note") and (value is None or isinstance(value, str)):
            found[name] = check_text(name, value or "") or None
        else:
            raise UsageError(f"a label has a text label, a number score and a text note; found {name} = {value!r:.80}")
    if not found:
        raise UsageError("a label needs a label, a score or a note, or to be withdrawn")
    if found.get("withdraw") and len(found) > 1:
        raise UsageError("a label is withdrawn as a whole: leave label, score and note out")
    return found


def check_text(name: str, text: str) -> str:
    """Return a text without white space around it. Raises UsageError for one that is too long, or is not UTF-8."""
    text = text.strip()
    if len(text) > LONGEST[name]:
        raise UsageError(f"{name} may have {LONGEST[name]:,} characters, and has {len(text):,}")
    if any("\ud800" <= c <= "\udfff" for c in text) or "\0" in text:
        raise UsageError(f"{name} is not UTF-8 text")
    if name != "note" and not text.isprintable():
        raise UsageError(f"{name} must be one line of text that can be printed")
    return text
