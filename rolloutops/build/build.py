"""Builds: a selection -> training files, with lineage and manifest, all at once or not at all.

A build step is a SELECT with four columns, one row for each line of the training file:

    json        the line, as JSON text
    keys        the rollouts it came from: a list of {dataset, task_id, policy, rollout_index, role}
    split_key   rows that share it stay together: the hash of the prompt
    sort_key    a name for the row, unique in the build

The lines are staged (staging.py), checked, and written (write.py). The same workspace, recipe and version give the same
bytes, with any number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rolloutops.build import manifest
from rolloutops.build.folder import replacing
from rolloutops.build.lint import LintReport
from rolloutops.build.lint_gate import lint_gate, report_of
from rolloutops.build.manifest_types import ReportRow, RolloutCounts
from rolloutops.build.options import options_of
from rolloutops.build.outcome import Outcome, outcome_of
from rolloutops.build.sidecars import write_sidecars
from rolloutops.build.staging import LINEAGE, TEXTS, check_rows, find_used, refuse_leaks, stage
from rolloutops.build.write import Data, sha256, write_data
from rolloutops.config.build_options import BuildOptions
from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError
from rolloutops.steps.selected import bind_step, prepare, prepared
from rolloutops.steps.selection import StepStats, chain, start_of
from rolloutops.steps.step import Step, bound, check_step, findings, parameters
from rolloutops.store import sql
from rolloutops.store.runs import MadeBy, Output


@dataclass(frozen=True)
class BuildReport:
    """What a build wrote. files: split -> (rows, path; a pattern where the split has several files). outputs: path,
    rows and sha256 of each file.

    rollouts_used: rollouts that are in the files. linted: what the linter of the step's target found, None where it
    names none. unasked: policies in the files that the recipe does not name. outcome: what became of the rollouts.
    """

    step: str
    output: Path
    files: Mapping[str, tuple[int, Path]]
    outputs: Sequence[Output]
    rollouts_used: int
    reports: Sequence[Sequence[ReportRow]]
    linted: LintReport | None = None
    unasked: Sequence[str] = ()
    outcome: Outcome = field(default_factory=Outcome)


def build(
    con: sql.Connection,
    step: StepUse,
    folder: Path,
    default: Path | None = None,
    stats: Sequence[StepStats] = (),
    made_by: MadeBy | None = None,
) -> BuildReport:
    """Write one build's folder: data files, lineage.parquet, what the step's format needs, and the companions.

    con: has a workspace's views, and the selections of `stats` (what `select` returned). folder: the recipe's.
    default: the folder to write, where the step's own keys name none. An earlier build there is replaced once the new
    one is complete; a folder that holds anything else is refused. made_by: what the manifest says of the command, as
    `Run.made_by` does. Raises StepError where a check finds rows, or none is left.
    """
    where = f"[{step.kind}.{step.name}]"
    found = check_step(step, folder)
    options = options_of(step, found, default)
    if not prepared(con):
        prepare(con)
    start = start_of(step, stats)
    path = chain(stats, start)
    bind_step(con, start, found, step.kind, where)
    with replacing(options.output, where) as fresh:
        settings = {name: value for name, value in step.settings.items() if name in found.params}
        with bound(con, found, settings, where):
            stage(con, found, options, fresh, where)
            check_rows(con, found, where)
            # A step's own checks say more than a linter does, so they speak first, unless the lines are to be dropped.
            linted = lint_gate(con, found, folder, options, where) if options.drop_invalid else None
            reports = findings(con, found, where)
            linted = linted or lint_gate(con, found, folder, options, where)
            reports += report_of(linted)
            values = parameters(con, found)
            read, used = find_used(con, found, start, where)
            _refuse_empty(con, options, where, found, path, read, used)
            refuse_leaks(con, options, where)
            lineage = sql.literal(str(fresh / "lineage.parquet"))
            sql.run(con, f"COPY ({LINEAGE}) TO {lineage} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
            data = write_data(con, found, fresh, options, where)
            outcome = outcome_of(con, start, path, (read, used), values, linted.dropped if linted else 0)
        files = {one.name: (one.rows, one.sha256) for one in data}
        files |= _dataset_info(con, found, step.name, fresh, data)
        files["lineage.parquet"] = (sum(one.rows for one in data), sha256(fresh / "lineage.parquet"))
        about = StepStats(step.name, step.kind, step.use, start, found.source, values, [], reports)
        rollouts: RolloutCounts = {"in": read, "used": used}
        files |= write_sidecars(con, fresh, about, path, data, files, rollouts, options, made_by or {})
        (fresh / TEXTS).unlink()
    return BuildReport(
        step.name,
        options.output,
        {split: _file_of(split, data, options) for split in options.splits},
        [{"path": str(options.output / name), "rows": rows, "sha256": sha} for name, (rows, sha) in files.items()],
        used,
        reports,
        linted,
        content["unasked_policies"] if (content := manifest.read(options.output)) else (),
        outcome,
    )


def _file_of(split: str, data: Sequence[Data], options: BuildOptions) -> tuple[int, Path]:
    """Rows of a split, and its file, or the pattern of its files."""
    own = [one for one in data if one.split == split]
    name = own[0].name if len(own) == 1 else f"{split}-*{options.ending}"
    return sum(one.rows for one in own), options.output / name


def _dataset_info(
    con: sql.Connection, step: Step, name: str, folder: Path, data: Sequence[Data]
) -> dict[str, tuple[int, str]]:
    """Write LLaMA-Factory's dataset_info.json, where the step's header has an entry for it: one for each data file."""
    if "dataset_info" not in step.notes:
        return {}
    try:
        entry = json.loads(step.notes["dataset_info"])
    except ValueError as error:
        raise StepError(f"{step.path}: dataset_info is not JSON: {error}") from error
    # LLaMA-Factory fails on a column that no line has.
    there = {key for (key,) in sql.rows(con, "SELECT DISTINCT unnest(json_keys(json)) FROM result")}
    entry["columns"] = {role: column for role, column in entry.get("columns", {}).items() if column in there}
    entries = {f"{name}_{one.name.split('.')[0]}": {"file_name": one.name, **entry} for one in data}
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {path.name: (len(entries), sha256(path))}


def _refuse_empty(
    con: sql.Connection, options: BuildOptions, where: str, step: Step, path: Sequence[StepStats], read: int, used: int
) -> None:
    counts = dict(sql.rows(con, "SELECT split, count(*) FROM result GROUP BY split"))
    empty = [split for split in options.splits if not counts.get(split)]
    if not empty or options.allow_empty:
        return
    if not counts:
        unverified = sql.rows(con, "SELECT count(*) FROM selection.rollouts WHERE verifier IS NULL")[0][0]
        hint = f", {unverified} of them unverified (run verify)" if unverified else ""
        taken = [f"{read if not path else path[0].rows_in} rollouts{hint}"]
        taken += [f"{stats.step} kept {stats.kept} of {stats.rows_in}" for stats in path]
        taken += [f"{step.name} used {used} of {read}"]
        raise StepError(f"{where} no rows left to write: {'; '.join(taken)}; relax a step, or set allow_empty = true")
    shares = " and ".join(f"{name} = {getattr(options, name)}" for name in options.splits[1:])
    raise StepError(
        f"{where} {shares} of {sum(counts.values())} rows left {' and '.join(empty)} empty; "
        "choose another share, or set allow_empty = true"
    )
