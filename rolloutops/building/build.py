"""Builds: a selection -> training files, with lineage and manifest, all at once or not at all.

A build step is a SELECT with four columns, one row for each line of the training file:

    json        the line, as JSON text
    keys        the rollouts it came from: a list of {dataset, task_id, policy, rollout_index, role}
    split_key   rows that share it stay together: the hash of the prompt
    sort_key    a name for the row, unique in the build

The line goes to validation where the hash of split_key and seed, as a number in [0, 1), is below `validation`, so that
no prompt is on both sides. Lines are ordered by the hash of sort_key and seed. The same workspace, recipe and version
give the same bytes, with any number of threads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from rolloutops import sql
from rolloutops.building import manifest
from rolloutops.errors import StepError, UsageError
from rolloutops.steps.selection import Funnel, bind, chain, payload_of, prepare, prepared, start_of
from rolloutops.steps.step import BUILD_KEYS, Step, bound, check_step, findings, parameters
from rolloutops.tables.workspace import sync

if TYPE_CHECKING:
    from rolloutops.recipe import StepUse

COLUMNS = ("json", "keys", "split_key", "sort_key")
STAGED = ".staged.parquet.tmp"
BATCH_ROWS = 256


@dataclass(frozen=True)
class BuildReport:
    """What a build wrote. files: split -> (rows, path). outputs: path, rows and sha256 of each file.

    rollouts_in, rollouts_used: rollouts that the build read, and those that are in its files.
    """

    step: str
    output: Path
    files: Mapping[str, tuple[int, Path]]
    outputs: Sequence[Mapping[str, Any]]
    rollouts_in: int
    rollouts_used: int
    funnels: Sequence[Funnel]
    reports: Sequence[Sequence[Mapping[str, Any]]]


def build(
    con: sql.Connection, step: StepUse, folder: Path, output: Path | None = None, funnels: Sequence[Funnel] = ()
) -> BuildReport:
    """Write one build's folder: train.jsonl, validation.jsonl (where asked), lineage.parquet, manifest.json.

    con: has a workspace's views, and the selections of `funnels` (what `select` returned). folder: the recipe's.
    output: the folder to write; by default the step's own key. An earlier build there is replaced once the new one is
    complete; a folder that holds anything else is refused. Raises StepError where a check finds rows, or none is left.
    """
    where = f"[{step.kind}.{step.name}]"
    found = check_step(step, folder)
    asked = _asked(step, output, where)
    if not prepared(con):
        prepare(con)
    start = start_of(step, funnels)
    path = chain(funnels, start)
    bind(con, start, payload_of(found))
    with _replacing(asked.output, where) as fresh:
        staged = fresh / STAGED
        settings = {name: value for name, value in step.settings.items() if name in found.params}
        with bound(con, found, settings, where):
            _stage(con, found, staged, asked)
            sql.run(con, f"CREATE OR REPLACE VIEW result AS FROM read_parquet({sql.literal(str(staged))})")
            _check_rows(con, found, where)
            reports = findings(con, found, where)
            values = parameters(con, found)
        rollouts_in, used = _rollouts(con)
        counts = dict(sql.rows(con, "SELECT split, count(*) FROM result GROUP BY split"))
        _refuse_empty(asked, counts, where, found, path, rollouts_in, used)
        sql.run(
            con, f"COPY ({LINEAGE}) TO {sql.literal(str(fresh / 'lineage.parquet'))} (FORMAT parquet, COMPRESSION zstd)"
        )
        files = _write_lines(staged, fresh, asked)
        files["lineage.parquet"] = (sum(rows for rows, _ in files.values()), _sha256(fresh / "lineage.parquet"))
        about = Funnel(step.name, step.kind, step.use, start, found.source, values, [], reports)
        manifest.write(con, fresh, about, path, files, {"in": rollouts_in, "used": used}, asked.seed, asked.validation)
        files["manifest.json"] = (1, _sha256(fresh / "manifest.json"))
        staged.unlink()
    return BuildReport(
        step.name,
        asked.output,
        {name: (files[f"{name}.jsonl"][0], asked.output / f"{name}.jsonl") for name in asked.splits},
        [{"path": str(asked.output / name), "rows": rows, "sha256": sha} for name, (rows, sha) in files.items()],
        rollouts_in,
        used,
        path,
        reports,
    )


LINEAGE = """
WITH numbered AS (
    SELECT split, row_number() OVER (PARTITION BY split ORDER BY place, sort_key) AS row, keys FROM result
),
used AS (SELECT split, row, unnest(keys, recursive := true) FROM numbered)
SELECT u.split, u.row, u.role, u.dataset, u.task_id, u.policy, u.rollout_index, s.attempt_id, s.reward
FROM used AS u
JOIN selection.rollouts AS s USING (dataset, task_id, policy, rollout_index)
ORDER BY u.split, u.row, u.role, u.dataset, u.task_id, u.policy, u.rollout_index
"""
"""Which rollouts each line came from: split, number of the line from 1, role, key, attempt and verifier's reward."""


@dataclass(frozen=True)
class _Asked:
    output: Path
    validation: float
    seed: int
    allow_empty: bool

    @property
    def splits(self) -> list[str]:
        return ["train", "validation"] if self.validation > 0 else ["train"]


def _asked(step: StepUse, output: Path | None, where: str) -> _Asked:
    given = {name: value for name, value in step.settings.items() if name in BUILD_KEYS}
    place = output or given.get("output")
    if not place:
        raise UsageError(f'{where} output is missing: the folder to write, as output = "data/demo/exports/{step.name}"')
    validation = float(given.get("validation", 0.0))
    if not 0 <= validation < 1:
        raise UsageError(f"{where} validation must be a share from 0 to below 1, not {validation}")
    return _Asked(Path(place), validation, int(given.get("seed", 42)), bool(given.get("allow_empty", False)))


def _stage(con: sql.Connection, step: Step, staged: Path, asked: _Asked) -> None:
    """Run the step once, into a Parquet file in the order of its lines."""
    made = sql.columns(con, step.query)
    if tuple(made) != COLUMNS:
        raise StepError(f"{step.path} must return the columns {', '.join(COLUMNS)}, not {', '.join(made)}")
    share = f"('0x' || md5(split_key || ':' || {asked.seed})[1:15])::BIGINT / 1152921504606846976.0"
    split = f"CASE WHEN {share} < {asked.validation} THEN 'validation' ELSE 'train' END"
    ordered = f"""
        SELECT {split} AS split, md5(sort_key || ':' || {asked.seed}) AS place, sort_key, split_key, keys,
            json::VARCHAR AS json
        FROM (\n{step.query}\n)
        ORDER BY split, place, sort_key
    """
    form = "FORMAT parquet, COMPRESSION lz4_raw, ROW_GROUP_SIZE 8192"
    sql.run(con, f"COPY ({ordered}) TO {sql.literal(str(staged))} ({form})")


def _check_rows(con: sql.Connection, step: Step, where: str) -> None:
    """Every line is one JSON object on one line, every row has its keys, and sort_key is unique."""
    rows = sql.rows(
        con,
        """
        SELECT count(*), count(*) FILTER (json IS NULL OR split_key IS NULL OR sort_key IS NULL OR len(keys) IS NULL),
            count(*) - count(DISTINCT sort_key),
            count(*) FILTER (NOT json_valid(json) OR contains(json, chr(10)) OR json[1] <> '{')
        FROM result
        """,
    )
    total, missing, repeated, invalid = rows[0]
    for count, fault in (
        (missing, "with a NULL in json, keys, split_key or sort_key"),
        (repeated, "whose sort_key another row has"),
        (invalid, "whose json is not one JSON object on one line"),
    ):
        if count:
            raise StepError(f"{where} {step.path} made {count} of {total} rows {fault}; nothing was written")


def _rollouts(con: sql.Connection) -> tuple[int, int]:
    """Rollouts that the build read, and rollouts that are in its rows."""
    key = "(dataset, task_id, policy, rollout_index)"
    used = "SELECT unnest(keys, recursive := true) FROM result"
    return (
        sql.rows(con, f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM selected)")[0][0],
        sql.rows(con, f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM ({used}))")[0][0],
    )


def _refuse_empty(
    asked: _Asked, counts: Mapping[str, int], where: str, step: Step, path: Sequence[Funnel], read: int, used: int
) -> None:
    empty = [split for split in asked.splits if not counts.get(split)]
    if not empty or asked.allow_empty:
        return
    if not counts:
        taken = [f"{read if not path else path[0].rows_in} rollouts"]
        taken += [f"{funnel.step} kept {funnel.kept} of {funnel.rows_in}" for funnel in path]
        taken += [f"{step.name} used {used} of {read}"]
        raise StepError(f"{where} no row is left: {'; '.join(taken)}; loosen a step, or set allow_empty = true")
    raise StepError(
        f"{where} validation = {asked.validation} of {sum(counts.values())} rows left {' and '.join(empty)} empty; "
        "choose another share, or set allow_empty = true"
    )


def _write_lines(staged: Path, folder: Path, asked: _Asked) -> dict[str, tuple[int, str]]:
    """Write the staged rows, in their order, as JSON lines. Returns file name -> (rows, sha256)."""
    counts, hashes = dict.fromkeys(asked.splits, 0), {split: hashlib.sha256() for split in asked.splits}
    files = {split: (folder / f"{split}.jsonl").open("wb") for split in asked.splits}
    try:
        for batch in pq.ParquetFile(staged).iter_batches(BATCH_ROWS, columns=["split", "json"]):
            lines = dict[str, list[bytes]]()
            for split, line in zip(batch.column("split").to_pylist(), batch.column("json").to_pylist(), strict=True):
                lines.setdefault(split, []).append(line.encode())
            for split, group in lines.items():
                data = b"\n".join(group) + b"\n"
                counts[split] += len(group)
                hashes[split].update(data)
                files[split].write(data)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    return {f"{split}.jsonl": (counts[split], hashes[split].hexdigest()) for split in asked.splits}


@contextmanager
def _replacing(output: Path, where: str) -> Iterator[Path]:
    """A fresh folder beside `output` that takes its place when the block ends well, and is gone when it does not."""
    _refuse_foreign(output, where)
    fresh, old = (output.parent / f".{output.name}.{mark}-{os.getpid()}" for mark in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
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
        shutil.rmtree(fresh, ignore_errors=True)
        if output.exists():
            shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(output: Path, where: str) -> None:
    """Only a build's own folder is replaced: nothing that a person put there is ever deleted."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{where} output {output} is a file; name a folder")
    foreign = sorted({path.name for path in output.iterdir()} - manifest.files_of(output))
    if foreign:
        raise UsageError(f"{where} output {output} holds what no build wrote ({foreign[0]}); choose another folder")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
