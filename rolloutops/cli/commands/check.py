"""`check`: validate recipe, files, environments and engines; generates nothing. What it finds: cli/check.py."""

from __future__ import annotations

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import show
from rolloutops.cli.shared_flags import COLLECTING, COLLECTING_GROUPS, NEMO_GYM, QUERIES, RECIPE, SAMPLING
from rolloutops.cli.which_recipe import plan_of


def body(parsed: Parsed) -> int:
    """Recipe, files, environments and engines, before anything is spent; 2 where one is not as it must be."""
    from rolloutops.cli.check import check

    findings = list(check(plan_of(parsed), parsed.flags.get("deep", False)))
    show(*(f"{one.label} {one.sentence}" for one in findings))
    return 0 if all(one.good for one in findings) else 2


COMMAND = Command(
    "check",
    body,
    "Validate recipe, files, environments and engines; generates nothing",
    (*COLLECTING, Flag("deep", bool, "Read every part file of the workspace and verify its checksums"), *QUERIES),
    (RECIPE,),
    **SAMPLING,
    group="Inspect and set up",
    aliases=NEMO_GYM,
    groups=COLLECTING_GROUPS,
)
