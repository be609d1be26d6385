"""What a recipe asks of a build besides its step's own parameters, checked."""

from __future__ import annotations

from pathlib import Path

from rolloutops.config.build_options import BuildOptions
from rolloutops.config.paths import as_output
from rolloutops.config.plan import Plan
from rolloutops.config.recipe import StepUse
from rolloutops.config.validation import check_table, keys_of
from rolloutops.errors import UsageError
from rolloutops.steps.step import Step, check_step


def options_of(use: StepUse, step: Step, default: Path | None = None) -> BuildOptions:
    """The build's own keys. default: the folder, where the step names none. Raises UsageError for nonsense."""
    where = f"[{use.kind}.{use.name}] "
    keys = keys_of(BuildOptions)
    own = check_table(keys, {name: value for name, value in use.settings.items() if name in keys}, where)
    output = own.get("output") or default
    if not output:
        raise UsageError(f'{where}output is missing: the folder to write, e.g. output = "data/demo/exports/{use.name}"')
    options = BuildOptions(**{"format": step.notes.get("format", "jsonl"), **own, "output": as_output(output)})
    if options.validation + options.test >= 1:
        total = options.validation + options.test
        raise UsageError(f"{where}validation + test is {total}: nothing is left to train on; make it less than 1")
    return options


def check_use(plan: Plan, use: StepUse) -> Step:
    """A step of a recipe. Raises what can be known to be wrong with it, or a build's keys, before it runs."""
    step = check_step(use, plan.folder)
    if use.kind == "build":
        options_of(use, step, plan.exports(use))
    return step
