"""`list`: what there is to use, by kind: recipes, steps, engines, environments and more."""

from __future__ import annotations

from rolloutops.cli.catalog import kinds
from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import show
from rolloutops.cli.tables import table
from rolloutops.config.resources import shipped

SHOWN = ("recipes", "presets", "steps", "targets", "engines", "environments")
"""The kinds that `list` shows if none is named: the others are parts of `steps`."""


def body(parsed: Parsed) -> None:
    """The things of one kind, or of all kinds, each with what it does."""
    known = kinds()
    if "kind" in parsed.positionals:
        show(table(("name", "what it does"), known[parsed.positionals["kind"]]()))
    else:
        show("\n\n".join(f"{kind}\n{table(('name', 'what it does'), known[kind]())}" for kind in SHOWN))
    show(
        "", "rolloutops help NAME explains one of them; the shipped SQL and recipes are in", str(shipped("sql").parent)
    )


COMMAND = Command(
    "list",
    body,
    "List recipes, presets, steps, targets, engines and environments",
    positionals=(Flag("kind", str, "what to list (default: all)", choices=tuple(kinds())),),
    group="Inspect and set up",
)
