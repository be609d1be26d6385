"""`compact`: merge the many part files of a workspace into few, with the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Command, Parsed
from rolloutops.cli.printing import say
from rolloutops.cli.shared_flags import DATA, RECIPE
from rolloutops.cli.which_recipe import plan_of
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.store.compact import Compacted

FEW = 10
"""Files of the log of runs that are merged without a word: each command writes two of them."""


def body(parsed: Parsed) -> None:
    """Merge part files, each of which is checked before it is taken away."""
    from rolloutops.store.compact import compact
    from rolloutops.store.journal import seal_orphans
    from rolloutops.store.runs import recorded
    from rolloutops.store.workspace import open_workspace

    plan = plan_of(parsed)
    workspace, found = open_workspace(plan.data), list["Compacted"]()
    with recorded(workspace, "compact", plan) as run:
        seal_orphans(workspace)
        busy = compact(workspace, found.append)
        run.counts = {"compacted": [asdict(one) for one in found]}
    say(*sentences(found, busy))


COMMAND = Command(
    "compact",
    body,
    "Merge the part files of a workspace into few, with the same rows",
    (DATA,),
    (RECIPE,),
    group="Stages",
)


def sentences(results: Sequence[Compacted], busy: Sequence[str | None]) -> Iterator[str]:
    """Say which files became how many."""
    shown = [one for one in results if one.dataset or one.before > FEW]
    for one in shown:
        of = f"{one.table} of {one.dataset}" if one.dataset else one.table
        yield f"{of}: {count(one.before, 'file')} merged into {one.after:,}, {count(one.rows, 'row')}"
    for dataset in busy:
        yield f"{dataset or 'runs'}: another process compacts it now"
    if not shown and not busy:
        yield "Nothing to merge: each table of a dataset has one file, or files that are large enough"
