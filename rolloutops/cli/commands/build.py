"""`build`: write the training files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Parsed
from rolloutops.cli.printing import show
from rolloutops.cli.shared_flags import ONLY, REPLACE, SELECTING, STEPS, stage
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.cli.which_workspace import is_workspace
from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.build.build import BuildReport


def body(parsed: Parsed) -> None:
    """Steps -> training files."""
    flags = parsed.flags
    show(*sentences(build_files(plan_of(parsed), flags.get("only"), flags.get("replace", False))))


COMMAND = stage("build", body, "Write the training files", *SELECTING, ONLY, REPLACE, **STEPS)


def build_files(plan: Plan, name: str | None = None, replace: bool = False) -> list[BuildReport]:
    """Run every build of the recipe, or the one named, and record it. replace: also builds of another recipe."""
    from rolloutops.build.build import build
    from rolloutops.build.explain import check_parameters
    from rolloutops.build.other_recipe import refuse_other_recipes
    from rolloutops.cli.connect import connect
    from rolloutops.steps.needed import needed
    from rolloutops.steps.parameters import known_datasets
    from rolloutops.steps.selection import select
    from rolloutops.store.runs import recorded
    from rolloutops.store.waiting import wait_for_lock
    from rolloutops.store.workspace import open_workspace

    builds = [step for step in plan.steps if step.kind == "build"]
    if not builds:
        raise UsageError('the recipe has no build step: add [[steps]] with kind = "build", name = … and use = …')
    if name is not None and name not in {step.name for step in builds}:
        known = [step.name for step in builds]
        raise UsageError(f"no build {name!r}{did_you_mean(name, known)}; the recipe has: {', '.join(known)}")
    workspace = open_workspace(plan.data)
    if not replace:
        refuse_other_recipes(workspace, plan, name)
    with wait_for_lock(workspace, "build", "builds from this workspace"), recorded(workspace, "build", plan) as run:
        con = connect(plan)
        done = []
        steps = plan.steps if name is None else needed(plan.steps, [name])
        datasets = known_datasets(plan)
        for step in steps:
            check_parameters(step, plan, datasets)
        stats = select(con, [step for step in steps if step.kind != "build"], plan.folder)
        for place, step in enumerate(steps):
            if step.kind == "build":
                before = sum(earlier.kind != "build" for earlier in steps[:place])
                done.append(build(con, step, plan.folder, plan.exports(step), stats[:before], run.made_by))
        run.outputs = [output for report in done for output in report.outputs]
        return done


def refuse_builds_of_others(plan: Plan) -> None:
    """Raise where a build would replace what another recipe built, before anything is spent on rollouts for it."""
    from rolloutops.build.other_recipe import refuse_other_recipes
    from rolloutops.store.workspace import open_workspace

    if is_workspace(plan.data):
        refuse_other_recipes(open_workspace(plan.data), plan)


def _became(report: BuildReport) -> Iterator[str]:
    """Say how many rollouts a build read and used, why the others were dropped, and what mix came out."""
    outcome, name = report.outcome, report.step
    whole = outcome.path[0].rows_in if outcome.path else outcome.rollouts
    if whole == outcome.used:
        return
    dropped = [f"{stats.step} {stats.dropped:,}" for stats in outcome.path if stats.dropped]
    dropped += [f"{many:,}: {why}" for why, many in outcome.reasons.items()]
    yield f"{name}: {count(whole, 'rollout')} in, {outcome.used:,} used; dropped: {'; '.join(dropped)}"
    if outcome.mix:
        shares = [f"{one.dataset} {one.written:.1%} ({one.target:.1%})" for one in outcome.mix]
        yield f"{name}: mix written (requested): {', '.join(shares)}"


def sentences(done: Sequence[BuildReport]) -> Iterator[str]:
    """Say which training files were written, with their rows, and what is wrong with them."""
    rows = [(one.step, split, rows, str(path)) for one in done for split, (rows, path) in one.files.items()]
    yield table(("build", "split", "rows", "file"), rows)
    for one in done:
        yield from _became(one)
        for fault in one.linted.faults if one.linted else ():
            done_with_it = "dropped" if fault.severity == "error" else "warning"
            yield f"{one.step}: {done_with_it}, {count(fault.lines, 'line')}: {fault.fault}"
        if one.unasked:
            others = ", ".join(one.unasked)
            yield f"{one.step}: warning, the recipe does not name the policy {others} (filter/only excludes it)"
