"""`help`: explain a step, a target, an engine, an environment, a recipe or a preset; of a command, see cli/run.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import show


def command(commands: Callable[[], Sequence[Command]]) -> Command:
    """Declare the command. commands: all of the program, whose names a mistyped name may be near to."""

    def body(parsed: Parsed) -> None:
        from rolloutops.cli.catalog import page

        show(page(parsed.positionals["name"], [command.name for command in commands()]))

    return Command(
        "help",
        body,
        "Explain a command, step, target, engine, environment, recipe or preset",
        positionals=(Flag("name", str, "a command, or a name that `rolloutops list` shows", required=True),),
        group="Inspect and set up",
    )
