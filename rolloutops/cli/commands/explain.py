"""`explain`: the steps with their parameters, as a script for any DuckDB shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rolloutops.cli.flags import Parsed
from rolloutops.cli.printing import show_exactly
from rolloutops.cli.shared_flags import DATA, ONLY, STEPS, stage
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from rolloutops.build.explain import BoundStep


def body(parsed: Parsed) -> None:
    """The recipe's steps, for a DuckDB shell that ran the script of `sql --print`; or only the one named."""
    from rolloutops.build.explain import script

    plan, only = plan_of(parsed), parsed.flags.get("only")
    show_exactly(bind_steps(plan, only)[0].script if only else script(bind_steps(plan)))


COMMAND = stage("explain", body, "Print the steps with their parameters as one SQL script", DATA, ONLY, **STEPS)


def bind_steps(plan: Plan, name: str | None = None) -> list[BoundStep]:
    """Fit the recipe's steps each to those before it on empty tables; return them, or only the one named."""
    from rolloutops.build.explain import explain

    steps = explain(plan)
    if name is not None and name not in (known := [step.name for step in steps]):
        raise UsageError(f"no step {name!r}{did_you_mean(name, known)}; the recipe has: {', '.join(known) or 'none'}")
    return [step for step in steps if name in (None, step.name)]
