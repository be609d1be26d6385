"""`prune`: list what no longer counts in a workspace, and delete it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say, show
from rolloutops.cli.shared_flags import DATA, QUERIES, RECIPE
from rolloutops.cli.sizes import size
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.errors import UsageError
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.store.prune import Prune

ABOUT = """
Without --yes, prune lists what may go and deletes nothing. Kinds, for --only:

    removed    attempts at tasks that are gone from the input
    edited     attempts at tasks as they were before an edit
    repeated   attempts at a rollout of which an earlier one counts
    retried    failed attempts at a rollout that succeeded later
    verdicts   verdicts of which a newer one counts, or of no attempt
    labels     labels on attempts that are not there
    copies     part files under a second name
    rejected   rejected lines, in rejected/

Attempts go with the verdicts and labels on them. If a task returns to the input, or to an earlier form, its pruned
rollouts are asked again.
"""


def body(parsed: Parsed) -> None:
    """List what may go; with --yes, delete it."""
    from rolloutops.store.prune import KINDS, find_prunable, prune
    from rolloutops.store.runs import recorded
    from rolloutops.store.workspace import open_workspace

    flags = parsed.flags
    kinds = flags.get("only", list(KINDS))
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--only={kind}: it takes {', '.join(KINDS)}")
    plan = plan_of(dataclasses.replace(parsed, flags={name: flags[name] for name in flags if name != "only"}))
    workspace = open_workspace(plan.data)
    if not flags.get("yes"):
        show(*sentences(find_prunable(workspace, plan.rows, kinds), False))
        return
    with recorded(workspace, "prune", plan, alone=True) as run:
        found = find_prunable(workspace, plan.rows, kinds)
        run.counts = {"pruned": [dataclasses.asdict(one) for one in found.rows]}
        prune(workspace, found)
    say(*sentences(found, True))


COMMAND = Command(
    "prune",
    body,
    "List what no longer counts in a workspace, and delete it",
    (
        Flag("only", list[str], "these kinds alone, separated by commas"),
        Flag("yes", bool, "delete; without it, only list what may go"),
        DATA,
        *QUERIES,
    ),
    (RECIPE,),
    about=ABOUT,
    group="stages",
)


def sentences(rows: Prune, deleted: bool) -> Iterator[str]:
    """Say what goes or went, by kind and dataset, and what is asked again."""
    if not rows.rows:
        yield "Nothing to prune: all attempts and verdicts count"
        return
    columns = ("kind", "dataset", "attempts", "verdicts", "labels", "files", "about")
    yield table(
        columns,
        [
            (one.kind, one.dataset, one.attempts, one.verdicts, one.labels, one.files, size(one.bytes))
            for one in rows.rows
        ],
    )
    if rows.tokens:
        tokens = f"{count(rows.tokens, 'token')} of these attempts"
        yield f"{tokens} {'no longer count' if deleted else 'would no longer count'} as spent"
    yield f"collect asks for {count(rows.pending, 'rollout')} again"
    yield "Deleted" if deleted else "Nothing was deleted: add --yes to delete them"
