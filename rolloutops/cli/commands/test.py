"""`test`: golden cases of your own steps."""

from __future__ import annotations

from pathlib import Path

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import show
from rolloutops.config.paths import as_path


def body(parsed: Parsed) -> int:
    """Golden cases of steps; 2 where one does not pass."""
    from rolloutops.build.golden import fault, find_cases, read_case

    places = [as_path(case) for case in parsed.positionals.get("cases", ["tests"])]
    faults = {str(path): fault(read_case(path), Path()) for path in find_cases(places)}
    show(*(f"BAD  {path}: {said}" if said else f"ok   {path}" for path, said in faults.items()))
    return 2 if any(faults.values()) else 0


COMMAND = Command(
    "test",
    body,
    "Run the golden cases of custom steps: input rows and expected rows",
    positionals=(Flag("cases", list[str], "files KIND/STEP/CASE.txt, or folders that hold them (default: tests)"),),
    group="Inspect and set up",
)
