"""Merge other workspaces into one: their tasks, attempts, verdicts, labels and runs.

Everything in a workspace is appended, under names that tell the run, so a merge copies the parts that are missing, and
may be repeated, or be killed and run again. Only tasks are compared row by row, as each workspace numbers its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from rolloutops.config.plan import Plan
from rolloutops.errors import PolicyChanged, WorkspaceError
from rolloutops.ingest.chunk import changing_tasks
from rolloutops.ingest.merge_tasks import MergedTasks, count_tasks, merge_tasks
from rolloutops.layout import count
from rolloutops.store import sql
from rolloutops.store.copy_parts import CopiedRows, copy_parts
from rolloutops.store.journal import seal_orphans
from rolloutops.store.parts import find_parts
from rolloutops.store.runs import policy_changes, recorded, tried_policies
from rolloutops.store.workspace import Workspace, chunked_datasets, connect, sweep, writing

COPIED = ("attempts", "verdicts", "labels")
"""Tables of each dataset whose parts are copied."""

COLLECTED_TWICE = """
SELECT t.dataset, count(DISTINCT (t.task_id, t.row_hash, t.policy, t.rollout_index)) AS rollouts
FROM read_parquet({theirs}, union_by_name = true) AS t
SEMI JOIN read_parquet({ours}, union_by_name = true) AS o
    ON o.dataset = t.dataset AND o.task_id = t.task_id AND o.row_hash = t.row_hash AND o.policy = t.policy
    AND o.rollout_index = t.rollout_index AND o.attempt_id <> t.attempt_id AND o.error IS NULL
WHERE t.error IS NULL
GROUP BY t.dataset
"""


@dataclass(frozen=True)
class MergedDataset:
    """What became of one dataset of another workspace. repeated: rollouts that both collected."""

    tasks: MergedTasks = field(default_factory=MergedTasks)
    attempts: CopiedRows = field(default_factory=CopiedRows)
    verdicts: CopiedRows = field(default_factory=CopiedRows)
    labels: CopiedRows = field(default_factory=CopiedRows)
    repeated: int = 0


@dataclass(frozen=True)
class MergedWorkspace:
    """What a merge took from one workspace. runs: its commands. in_journals: of commands that still run, rows of which
    were not merged."""

    path: Path
    datasets: dict[str, MergedDataset]
    runs: CopiedRows
    in_journals: int


def merge(
    into: Workspace, sources: Sequence[Workspace], plan: Plan, link: bool = False, allow_policy_change: bool = False
) -> list[MergedWorkspace]:
    """Merge workspaces into one, and record the run. plan: of the recipe that `into` goes on with.

    Raises WorkspaceError where one has batches that a provider still answers, and PolicyChanged where one policy has
    different settings in two of them, before anything is written.
    """
    for source in sources:
        _refuse_open_jobs(source)
    if not allow_policy_change:
        _refuse_contradictions([into, *sources])
    with recorded(into, "merge", plan) as run:
        seal_orphans(into)
        # Each source has a name of its own: what is lacking of a second one must not replace the first one's file.
        merged = [_merge(into, source, plan, link, f"{run.run_id}-{n:02d}") for n, source in enumerate(sources)]
        run.counts = {str(one.path): {name: asdict(found) for name, found in one.datasets.items()} for one in merged}
        return merged


def _merge(into: Workspace, source: Workspace, plan: Plan, link: bool, name: str) -> MergedWorkspace:
    with writing(source):
        sweep(source)
        seal_orphans(source)
    in_journals = sum(path.read_bytes().count(b"\n") for path in (source.root / "journals").glob("*.jsonl"))
    tasks = {dataset: _merge_tasks(into, source, dataset, plan, link, name) for dataset in chunked_datasets(source)}
    repeated = _collected_twice(into, source)
    attempts, verdicts, labels = (copy_parts(source, into, table, link) for table in COPIED)
    copy_parts(source, into, "jobs", link)
    runs = copy_parts(source, into, "runs", link).get("", CopiedRows())
    datasets = {
        name: MergedDataset(
            tasks.get(name, MergedTasks()),
            attempts.get(name, CopiedRows()),
            verdicts.get(name, CopiedRows()),
            labels.get(name, CopiedRows()),
            repeated=repeated.get(name, 0),
        )
        for name in sorted({*tasks, *attempts, *verdicts, *labels})
    }
    return MergedWorkspace(source.root, datasets, runs, in_journals)


def _merge_tasks(into: Workspace, source: Workspace, dataset: str, plan: Plan, link: bool, name: str) -> MergedTasks:
    with changing_tasks(into, dataset):
        if dataset in chunked_datasets(into):
            return merge_tasks(source, into, dataset, plan.chunk.rows_per_part, name)
        copy_parts(source, into, "tasks", link, dataset)
        return MergedTasks(added=count_tasks(source, dataset))


def _collected_twice(into: Workspace, source: Workspace) -> dict[str, int]:
    """dataset -> how many of their rollouts have another attempt here."""
    ours, theirs = ([escape(f) for f in find_parts(w.root, "attempts").files] for w in (into, source))
    if not ours or not theirs:
        return {}
    return dict(sql.rows(sql.connect(), COLLECTED_TWICE.format(ours=sql.literal(ours), theirs=sql.literal(theirs))))


def _refuse_open_jobs(source: Workspace) -> None:
    [[jobs]] = sql.rows(connect(source), "SELECT count(*) FROM open_jobs")
    if jobs:
        raise WorkspaceError(
            f"{source.root} has {count(jobs, 'batch job')} whose answers are not all stored: run collect for it "
            "until they are, then merge it"
        )


def _refuse_contradictions(workspaces: Sequence[Workspace]) -> None:
    known: dict[tuple[str, str], tuple[Path, Any]] = {}
    for workspace in workspaces:
        for (dataset, policy), now in tried_policies(workspace).items():
            place, before = known.setdefault((dataset, policy), (workspace.root, now))
            if changes := policy_changes(before, now):
                raise PolicyChanged(
                    f"policy {policy!r} has rollouts of {dataset!r} in {place} and in {workspace.root} that were made "
                    f"with different settings ({'; '.join(changes)}). To keep them apart, write those of one with "
                    f"export and read them with import --policy=NAME; to count both as one policy, add "
                    "--allow_policy_change. Nothing was written"
                )
