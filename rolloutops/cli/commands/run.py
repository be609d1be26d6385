"""`run`: run every stage of the recipe; with --dry_run, only whether its steps fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rolloutops.cli.commands import build, chunk, collect, metrics, verify
from rolloutops.cli.commands.explain import bind_steps
from rolloutops.cli.flags import Flag, Parsed
from rolloutops.cli.printing import say, show
from rolloutops.cli.shared_flags import (
    COLLECTING,
    COLLECTING_GROUPS,
    NEMO_GYM,
    REPLACE,
    SAMPLING,
    VERDICT_VERSION,
    stage,
)
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.plan import Plan
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.build.explain import BoundStep


UNFINISHED = {
    2: "a budget is spent and rollouts are pending",
    3: "rollouts are pending",
    4: "too many rollouts are given up",
}
"""Exit code of a collection -> why nothing is built of it."""


def body(parsed: Parsed) -> int:
    """The whole recipe, in order; with --dry_run, only whether its steps fit together."""
    plan = plan_of(parsed)
    steps = bind_and_check(plan)
    if parsed.flags.get("dry_run"):
        show(_steps_table(steps))
        return 0
    plan = collect.pin_verdicts(plan)
    replace = parsed.flags.get("replace", False)
    if not replace:
        build.refuse_builds_of_others(plan)
    if code := chunk.chunk_and_say(plan):
        say("stopped because lines were rejected: nothing was built")
        return code
    if code := collect.collect_and_say(plan, parsed):
        say(f"stopped because {UNFINISHED[code]}: nothing was built")
        return code
    say(*verify.sentences(verify.verify_rollouts(plan, on_command=False)))
    show(metrics.tables_of(metrics.measure(plan)))
    if any(step.kind == "build" for step in plan.steps):
        show("", *build.sentences(build.build_files(plan, replace=replace)))
    return 0


COMMAND = stage(
    "run",
    body,
    "Run every stage of the recipe",
    *COLLECTING,
    VERDICT_VERSION,
    REPLACE,
    Flag("dry_run", bool, "type-check the steps on empty tables; run nothing"),
    **SAMPLING,
    aliases=NEMO_GYM,
    groups=COLLECTING_GROUPS,
)


def bind_and_check(plan: Plan) -> list[BoundStep]:
    """Fit each step to those before it, and raise what else can be known to be wrong before a run."""
    steps = bind_steps(plan)
    plan.check_plugins()
    return steps


def _steps_table(steps: Sequence[BoundStep]) -> str:
    """What each step of a recipe reads and adds."""
    names = ("step", "use", "reads", "adds")
    rows = [(f"{one.kind}.{one.name}", one.use, one.start, ", ".join(one.adds)) for one in steps]
    return f"{table(names, rows)}\n\n{count(len(steps), 'step')} fit together; nothing was run"
