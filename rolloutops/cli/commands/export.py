"""`export`: rollouts to a JSONL file in NeMo Gym's shape."""

from __future__ import annotations

from pathlib import Path

from rolloutops.cli.flags import Flag, Parsed
from rolloutops.cli.printing import say
from rolloutops.cli.shared_flags import DATA, DATASET, VERDICT_VERSION, stage
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.paths import as_file
from rolloutops.config.plan import Plan
from rolloutops.layout import count


def body(parsed: Parsed) -> None:
    """Rollouts -> a JSONL file in NeMo Gym's shape."""
    output = as_file(parsed.flags.get("output", "rollouts.jsonl"))
    rows = export_rollouts(plan_of(parsed), output, parsed.flags.get("companions", False))
    say(f"{count(rows, 'rollout')} in {output}")


COMMAND = stage(
    "export",
    body,
    "Write rollouts to a JSONL file in NeMo Gym's shape",
    DATA,
    VERDICT_VERSION,
    DATASET,
    Flag("output", str, "the file", "rollouts.jsonl"),
    Flag("companions", bool, "also write the materialized inputs and the failed attempts next to it"),
)


def export_rollouts(plan: Plan, output: Path, sidecars: bool = False, wanted: bool = False) -> int:
    """Write rollouts to a JSONL file, and what NeMo Gym writes beside it. Returns the number of lines.

    wanted: only the rollouts of the plan, not all of the recipe's datasets.
    """
    from rolloutops.cli.connect import note_waiting
    from rolloutops.collect.outdated import pinned
    from rolloutops.ingest.export import export
    from rolloutops.store.workspace import connect, open_workspace

    workspace = open_workspace(plan.data)
    plan = pinned(workspace, plan)
    note_waiting(connect(workspace, plan.rows), plan)
    return export(workspace, plan, output, sidecars, wanted)
