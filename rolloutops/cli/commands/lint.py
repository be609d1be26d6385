"""`lint`: check training files against a trainer's loader in files made elsewhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import show
from rolloutops.cli.shared_flags import JSON, QUERIES
from rolloutops.config.query_limits import limit_queries
from rolloutops.config.resources import shipped
from rolloutops.errors import UsageError
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.build.lint import LintReport

TARGETS = sorted(path.stem for path in (shipped("sql") / "lint").glob("*.sql"))
"""What training files can be linted for."""


def body(parsed: Parsed) -> int:
    """Training files made elsewhere, against what their trainer rejects or damages; 2 where errors were found."""
    from rolloutops.build.lint import lint_files

    limit_queries(parsed.flags)
    if "target" not in parsed.flags:
        raise UsageError(f"lint needs --target, the trainer format of the file: one of {', '.join(TARGETS)}")
    found = lint_files(parsed.positionals["files"], parsed.flags["target"])
    if parsed.flags.get("json"):
        print(json.dumps(dataclasses.asdict(found), indent=4))
    else:
        show(*_sentences(found))
    return 2 if found.faulty else 0


COMMAND = Command(
    "lint",
    body,
    "Check training files against a trainer's loader",
    (Flag("target", str, f"trainer format of the files: {', '.join(TARGETS)}"), JSON, *QUERIES),
    (Flag("files", list[str], "training files, globs or folders", required=True),),
    group="Inspect and set up",
)


def _sentences(report: LintReport) -> Iterator[str]:
    """Say which faults a training file has, and in which lines."""
    for one in report.faults:
        shown = ", ".join(f"{split}:{row}" for split, row in one.first)
        yield f"{one.severity:<7}  {count(one.lines, 'line')}: {one.fault}"
        yield f"         {shown}{', …' if one.lines > len(one.first) else ''}"
    if report.faulty:
        yield f"{report.faulty:,} of {count(report.lines, 'line')} have errors: {report.target}"
    else:
        yield f"{count(report.lines, 'line')} without an error: {report.target}"
