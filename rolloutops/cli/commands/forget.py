"""`forget`: take rollouts out of a workspace for good."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say, show
from rolloutops.cli.shared_flags import DATA, QUERIES, RECIPE
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.secrets import HIDDEN
from rolloutops.errors import UsageError
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.build.holders import Holder
    from rolloutops.store.forget import Forgettable
    from rolloutops.store.workspace import Workspace

CHOICE = ("run", "dataset", "policy", "where")

ABOUT = """
Without --yes, forget says what would go and deletes nothing. Of several conditions all must hold. --run takes what a
command wrote: its attempts, with all verdicts on them, and its own verdicts. --where takes any condition on the columns
of the view rollouts, and takes all attempts at the rollouts that match. Tasks stay, so that collect asks for forgotten
rollouts again if the recipe wants them. Builds are named and not changed.

    rolloutops forget --data=data/demo --where="text LIKE '%@example.com%'"
    rolloutops forget --data=data/demo --run=20261101T093000-3f9a1c --yes
"""


def body(parsed: Parsed) -> None:
    """Say what would go; with --yes, take it out."""
    from rolloutops.store.forget import Choice, find_forgettable, forget
    from rolloutops.store.runs import recorded
    from rolloutops.store.workspace import open_workspace

    flags = parsed.flags
    if not set(CHOICE) & set(flags):
        raise UsageError(
            "forget needs --run, --dataset, --policy or --where: it takes out the rollouts that these name"
        )
    choice = Choice(flags.get("run", ()), flags.get("dataset", ()), flags.get("policy", ()), flags.get("where"))
    others = {name: value for name, value in flags.items() if name not in CHOICE}
    plan = plan_of(dataclasses.replace(parsed, flags=others))
    workspace = open_workspace(plan.data)
    if not flags.get("yes"):
        found = find_forgettable(workspace, plan.rows, choice)
        show(*sentences(found, _holders(workspace, found), False))
        return
    # A condition may quote what is to go.
    words = [f"--{name}={HIDDEN if name == 'where' else ','.join(flags[name])}" for name in CHOICE if name in flags]
    with recorded(workspace, "forget", plan, alone=True, argv=["forget", *words, "--yes"]) as run:
        found = find_forgettable(workspace, plan.rows, choice)
        holders = _holders(workspace, found)
        run.counts = {"forgotten": found.counts}
        if not found.is_empty:
            forget(workspace, found)
    say(*sentences(found, holders, True))


COMMAND = Command(
    "forget",
    body,
    "Take rollouts out of a workspace for good",
    (
        Flag("run", list[str], "what these runs wrote, separated by commas"),
        Flag("dataset", list[str], "rollouts of these datasets"),
        Flag("policy", list[str], "rollouts of these policies"),
        Flag("where", str, "rollouts that match this SQL condition, e.g. \"text LIKE '%secret%'\""),
        Flag("yes", bool, "delete; without it, only say what would go"),
        DATA,
        *QUERIES,
    ),
    (RECIPE,),
    about=ABOUT,
    group="stages",
)


def _holders(workspace: Workspace, rows: Forgettable) -> list[Holder]:
    from rolloutops.build.holders import find_holders

    return find_holders(workspace, rows.con, "SELECT DISTINCT dataset, attempt_id FROM gone_attempts")


def sentences(rows: Forgettable, holders: Sequence[Holder], deleted: bool) -> Iterator[str]:
    """Say what goes or went, which builds hold lines of it, and what is asked again."""
    if rows.is_empty:
        yield "Nothing matches: nothing to forget"
        return
    columns = ("dataset", "policy", "rollouts", "attempts", "verdicts", "labels", "pending")
    if rows.counts:
        yield table((*columns[:-1], "pending again"), [[row[name] for name in columns] for row in rows.counts])
    if rows.lines:
        yield f"{count(rows.lines, 'line')} of journals that could not be read, in rejected/"
    for one in holders:
        if one.lines is None:
            yield f"{one.folder}: a build without lineage.parquet, so that it may hold some of them"
        else:
            made_of = f"{count(one.lines, 'line')} made of {one.rollouts:,} of them"
            yield f"{one.folder}: {made_of}; build it again, or delete it"
    again = sum(row["pending"] for row in rows.counts)
    if again:
        yield f"collect asks for {count(again, 'rollout')} again, unless the recipe changes"
    yield "Deleted" if deleted else "Nothing was deleted: add --yes to delete them"
