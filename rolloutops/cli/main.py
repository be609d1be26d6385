"""The command line: its commands, in the order of the help. Each is a file of commands/."""

from __future__ import annotations

import gc
import os
import sys

from rolloutops import __version__
from rolloutops.cli.commands import (
    build,
    check,
    chunk,
    collect,
    compact,
    completion,
    explain,
    export,
    forget,
    help_,
    import_,
    init,
    label,
    lint,
    list_,
    merge,
    metrics,
    new,
    prune,
    run,
    schema,
    select,
    show,
    sql,
    status,
    test,
    trace,
    verify,
    view,
)
from rolloutops.cli.run import Command
from rolloutops.cli.run import main as dispatch

ABOUT = "Generate LLM rollouts at scale with exact resume; build SFT, DPO and RL files with SQL."

COMMANDS: tuple[Command, ...] = (
    chunk.COMMAND,
    collect.COMMAND,
    verify.COMMAND,
    metrics.COMMAND,
    select.FILTER,
    select.MIX,
    select.PAIR,
    build.COMMAND,
    run.COMMAND,
    import_.COMMAND,
    export.COMMAND,
    merge.COMMAND,
    compact.COMMAND,
    forget.COMMAND,
    prune.COMMAND,
    explain.COMMAND,
    test.COMMAND,
    trace.COMMAND,
    lint.COMMAND,
    status.COMMAND,
    sql.COMMAND,
    show.COMMAND,
    view.COMMAND,
    label.COMMAND,
    check.COMMAND,
    list_.COMMAND,
    schema.COMMAND,
    help_.command(lambda: COMMANDS),
    completion.command(lambda: COMMANDS),
    init.COMMAND,
    new.COMMAND,
)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns its exit code."""
    # Arrow brings numpy, whose threads, of no use here, would spin for longer than many a command takes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Python looks for garbage after each 700 new objects: 6 % of a small command's CPU, and 7 % of a collection's.
    gc.set_threshold(20_000)
    return dispatch(sys.argv[1:] if argv is None else argv, COMMANDS, "rolloutops", __version__, ABOUT)
