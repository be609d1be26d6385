"""The gate of a build: nothing is written that its trainer would reject or silently damage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rolloutops.build.lint import FAULTY, Fault, LintReport, find_linter, lint_lines
from rolloutops.build.staging import drop_lines
from rolloutops.config.build_options import BuildOptions
from rolloutops.errors import StepError
from rolloutops.layout import count
from rolloutops.steps.step import Step
from rolloutops.store import sql

NAMES = "SELECT sort_key FROM numbered WHERE split = {split} AND row = {row}"


def lint_gate(con: sql.Connection, step: Step, folder: Path, options: BuildOptions, where: str) -> LintReport | None:
    """Lint the staged lines of a build whose header names a target; None where it names none.

    con: has the views over the staged lines. Those with an error are taken out where `drop_invalid`
    is asked; else they are a StepError that says which, why and what to do.
    """
    if "target" not in step.notes:
        return None
    linter = find_linter(step.notes["target"], folder, where)
    whole = found = lint_lines(con, linter, options.format)
    errors: list[Fault] = []
    while found.faulty:
        if not options.drop_invalid:
            raise StepError("\n".join(_refusal(con, found, where)))
        errors += found.of("error")
        drop_lines(con, FAULTY)
        found = lint_lines(con, linter, options.format)  # warnings are of what stays
    dropped = whole.lines - found.lines
    return replace(whole, faulty=dropped, dropped=dropped, faults=[*errors, *found.faults])


def report_of(report: LintReport | None) -> list[list[dict[str, Any]]]:
    """The gate's table among a build's reports: each fault, in how many lines, and how many were dropped for it."""
    if report is None or not report.faults:
        return []
    return [
        [
            {
                "target": report.target,
                "severity": one.severity,
                "lines": one.lines,
                "dropped": one.lines if report.dropped and one.severity == "error" else 0,
                "fault": one.fault,
            }
            for one in report.faults
        ]
    ]


def _refusal(con: sql.Connection, report: LintReport, where: str) -> Iterator[str]:
    yield f"{where} {report.faulty:,} of {count(report.lines, 'line')} failed the linter; nothing was written:"
    for one in report.of("error"):
        yield f"  {count(one.lines, 'line')}: {one.fault}"
        yield f"    {', '.join(_names(con, one))}{', …' if one.lines > len(one.first) else ''}"
    yield "fix the earlier steps, or set drop_invalid = true to drop (and count) these lines"


def _names(con: sql.Connection, fault: Fault) -> Iterator[str]:
    """The first lines with a fault by the names that their build gave them: dataset, task, policy, rollout."""
    for split, row in fault.first:
        yield sql.rows(con, NAMES.format(split=sql.literal(split), row=row))[0][0]
