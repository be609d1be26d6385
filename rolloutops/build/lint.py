"""Linting: what a trainer's loader would reject in a training file, or silently damage, found without the trainer.

A linter is a file sql/lint/TARGET.sql: one SELECT over the view `lines` (split, row, json) that returns split, row,
severity ('error' or 'warning') and fault, a sentence. What the linters share is in sql/lint.sql. The builds of
NAME.sql with `-- target: TARGET` in their header are linted before anything is written; files made elsewhere by the
command `lint`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.query_limits import query_limits
from rolloutops.config.resources import shipped
from rolloutops.errors import StepError, UsageError, did_you_mean
from rolloutops.ingest.inputs import find_inputs, open_rows
from rolloutops.steps.step import roots
from rolloutops.store import sql
from rolloutops.store.definitions import define

FIRST = 3
"""Lines that are named for each fault."""

BATCH_ROWS = 4096
BATCH_BYTES = 32 << 20

TALLY = f"""
SELECT severity, fault, count(*) AS total, list({{'split': split, 'row': row}} ORDER BY split, row)[:{FIRST}] AS first
FROM faults
GROUP BY severity, fault
ORDER BY severity, total DESC, fault
"""


@dataclass(frozen=True)
class Fault:
    """One fault of a file. lines: how many have it. first: split (or file) and number of the first of them."""

    severity: str
    fault: str
    lines: int
    first: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class LintReport:
    """What a linter found. lines: how many it read. faulty: those with an error; dropped: those of them left out."""

    target: str
    lines: int
    faulty: int
    faults: Sequence[Fault]
    dropped: int = 0

    def of(self, severity: str) -> list[Fault]:
        """The faults of one severity, the most frequent first."""
        return [fault for fault in self.faults if fault.severity == severity]


def targets(folder: Path = Path()) -> dict[str, Path]:
    """target -> its linter: beside the recipe, in ./sql, and among those that ship; the first one wins."""
    found: dict[str, Path] = {}
    for root in roots(folder):
        for path in sorted((root / "lint").glob("*.sql")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_linter(target: str, folder: Path = Path(), where: str = "") -> Path:
    """The linter of a target. Raises UsageError where there is none."""
    known = targets(folder)
    if target not in known:
        at, hint = f"{where} " if where else "", did_you_mean(target, known, most=3)
        raise UsageError(f"{at}no linter for {target!r}{hint}; there are: {', '.join(known)}")
    return known[target]


def lint_lines(con: sql.Connection, linter: Path, file_format: str = "jsonl") -> LintReport:
    """Run a linter over the view `lines`; the table `faults` then holds a row for each line and fault.

    file_format: jsonl or parquet, which has types where readers of JSON guess them.
    """
    sql.run(con, f"SET VARIABLE file_format = {sql.literal(file_format)}")
    try:
        define(con, (shipped("sql") / "lint.sql").read_text(encoding="utf-8"))
        # Two parts of a line may have the same fault.
        found = f"SELECT DISTINCT split, row, severity, fault FROM (\n{sql.read(linter)}\n)"
        sql.run(con, f"CREATE OR REPLACE TABLE faults AS\n{found}")
    except sql.Error as error:
        raise StepError(f"the linter {linter} failed: {str(error).splitlines()[0]}") from error
    return summary(con, linter.stem)


def summary(con: sql.Connection, target: str) -> LintReport:
    """What the table `faults` holds, counted by fault."""
    lines = sql.rows(con, "SELECT count(*) FROM lines")[0][0]
    faulty = sql.rows(con, f"SELECT count(*) FROM ({FAULTY})")[0][0]
    faults = [
        Fault(severity, fault, total, [(one["split"], one["row"]) for one in first])
        for severity, fault, total, first in sql.rows(con, TALLY)
    ]
    return LintReport(target, lines, faulty, faults)


FAULTY = "SELECT DISTINCT split, row FROM faults WHERE severity = 'error'"
"""The lines that a loader would reject or damage."""


def lint_files(patterns: Sequence[str], target: str) -> LintReport:
    """Lint training files made elsewhere, of any kind that is read (`inputs.py`). `split` is the file's name.

    A line that is not a JSON object is an error of its own. Raises UsageError for an unknown target, InputError
    for a file that cannot be read.
    """
    linter = find_linter(target)
    with tempfile.TemporaryDirectory(prefix="rolloutops-lint-", dir=query_limits().spill) as folder:
        con = sql.connect(spill=Path(folder) / "spilled")
        try:
            staged = Path(folder) / "lines.parquet"
            files = find_inputs(patterns, Path(), empty_too=True)
            unreadable = _stage([path for path in files if not _is_lineage(path, patterns)], staged)
            sql.run(con, f"CREATE VIEW lines AS FROM read_parquet({sql.literal(str(staged))})")
            is_typed = all(path.suffix == ".parquet" for path in files)
            found = lint_lines(con, linter, "parquet" if is_typed else "jsonl")
            if not unreadable:
                return found
            con.register("unreadable", pa.Table.from_pylist(unreadable))
            sql.run(con, "INSERT INTO faults SELECT split, row, 'error', fault FROM unreadable")
            found = summary(con, target)
            return replace(found, lines=found.lines + len(unreadable))
        finally:
            con.close()


def _is_lineage(path: Path, patterns: Sequence[str]) -> bool:
    """Does a file only are in the folder of a build, beside the data that a folder or glob means?"""
    beside = path.name == "lineage.parquet" and (path.parent / "manifest.json").is_file()
    return beside and str(path) not in patterns


LINES = pa.schema([("split", pa.string()), ("row", pa.int64()), ("json", pa.string())])


def _stage(files: Sequence[Path], staged: Path) -> list[dict[str, str | int]]:
    """Copy the lines of the files into one Parquet file with split, row and json. Returns those that are no objects."""
    unreadable: list[dict[str, str | int]] = []
    # A dictionary or statistics would hold a long line once more each.
    with pq.ParquetWriter(
        staged, LINES, compression="lz4", use_dictionary=["split"], write_statistics=["split", "row"]
    ) as writer:
        for path in files:
            rows: list[int] = []
            texts: list[bytes] = []
            size = 0
            for row in open_rows(path):
                if row.reason:
                    fault = f"{row.reason}: no loader can read this line; regenerate it"
                    unreadable.append({"split": str(path), "row": row.line, "fault": fault})
                    continue
                rows.append(row.line)
                texts.append(row.raw)
                size += len(row.raw)
                del row  # its value, which may be large, is not needed while the batch is written
                if len(rows) >= BATCH_ROWS or size >= BATCH_BYTES:
                    writer.write_batch(_batch(path, rows, texts))
                    rows, texts, size = [], [], 0
            writer.write_batch(_batch(path, rows, texts))
    pa.default_memory_pool().release_unused()
    return unreadable


def _batch(path: Path, rows: list[int], texts: list[bytes]) -> pa.RecordBatch:
    lines = pa.array(texts, pa.string())
    return pa.record_batch([pa.array([str(path)] * len(rows), pa.string()), pa.array(rows, pa.int64()), lines], LINES)
