"""Cases of steps, written by hand: KIND/STEP/CASE.txt, as in filter/reward/bounds.txt.

    min_reward = 0.5                          settings, as in a recipe

    rollouts:                                 the rows that are given; what a column is not given, it has by default
    task_id | rollout_index | reward
    a       | 0             | 0.5
    expect:                                   the rows that come out; columns that are not named are not compared
    task_id | rollout_index
    a       | 0

Instead of `expect`: `lines`, the lines of a build's training file, or `error`, what the message says, line by line.
`reasons` (dataset | reason | rows) are a filter's reasons to drop, `plan` what a recipe asks for. In the settings of a
build, `pairs` names the pair step that it reads. A case passes when its step makes the same of the rows with one thread
and with many, and in whatever order they lie.
"""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolloutops.build import golden_rows
from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.errors import InputError, RolloutopsError, UsageError
from rolloutops.layout import count
from rolloutops.steps.selected import KEYS
from rolloutops.steps.selection import StepStats, select
from rolloutops.steps.step import KINDS, measure
from rolloutops.store import sql

SECTIONS = ("rollouts", "plan", "expect", "lines", "error", "reasons")
SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):[ ]*\n", re.MULTILINE)
LAYOUTS: tuple[Mapping[str, int], ...] = ({"threads": 8}, {"threads": 1, "shuffle": 1}, {"shuffle": 2})
"""Ways to run a case again, of which nothing may depend."""

Outcome = list[dict[str, Any]] | list[str]
"""Rows, or the lines of a training file."""


@dataclass(frozen=True)
class Case:
    """A case as read. settings: the step's. sections: name -> its text."""

    path: Path
    step: str
    settings: Mapping[str, Any]
    sections: Mapping[str, str]


def find_cases(places: Iterable[Path]) -> list[Path]:
    """The cases that files and folders hold. Raises UsageError where there is none."""
    listed = list(places)
    found: set[Path] = set()
    for place in listed:
        files = [place] if place.is_file() else place.rglob("*.txt")
        found |= {path for path in files if len(path.parts) > 2 and path.parts[-3] in KINDS}
    if not found:
        where = ", ".join(map(str, listed))
        raise UsageError(f"no case in {where}: a case is a file KIND/STEP/NAME.txt, e.g. filter/mine/plain.txt")
    return sorted(found)


def read_case(path: Path) -> Case:
    """Read a case. Raises UsageError for one that has no rollouts, or nothing that it expects."""
    settings, *rest = SECTION.split(path.read_text(encoding="utf-8"))
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    if "rollouts" not in sections or not {"expect", "lines", "error", "reasons"} & set(sections):
        raise UsageError(f"{path}: a case needs `rollouts:` and one of `expect:`, `lines:`, `error:`, `reasons:`")
    try:
        return Case(path, "/".join(path.parts[-3:-1]), tomllib.loads(settings), sections)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: the settings above `rollouts:` are not TOML: {error}") from error


def fault(case: Case, folder: Path) -> str:
    """What is wrong with what a case's step makes; empty where the case passes. folder: where own steps lie."""
    options = [line.strip() for line in case.sections.get("error", "").strip().splitlines()]
    try:
        made, stats = outcome(case, folder)
    except RolloutopsError as error:
        missing = [line for line in options if line not in str(error)]
        return "" if options and not missing else f"it failed: {error}"
    if options:
        return f"it should fail with an error that says: {'; '.join(options)}"
    for how in LAYOUTS:
        if outcome(case, folder, **how)[0] != made:
            return f"its result differs with {', '.join(f'{k} {v}' for k, v in how.items())}"
    try:
        return _reasons_fault(case, stats) or _differs(case, made)
    except InputError as error:
        return f"what it expects cannot be read: {error}"


def outcome(case: Case, folder: Path, **how: int) -> tuple[Outcome, StepStats | None]:
    """What a case's step makes of its rows, and what it dropped. how: `threads` and `shuffle` of `given.workspace`."""
    settings = dict(case.settings)
    kind = case.step.partition("/")[0]
    rows = golden_rows.table(case.sections["rollouts"])
    con = golden_rows.workspace(rows, golden_rows.table(case.sections.get("plan", "dataset")), **how)
    before = [StepUse("pair", "pairs", settings.pop("pairs"))] if kind == "build" and "pairs" in settings else []
    use = StepUse(kind, "step", case.step, settings)
    if kind == "metrics":
        columns, measured = measure(con, use.use, folder, settings)
        return [dict(zip(columns, row, strict=True)) for row in measured], None
    if kind == "build":
        with tempfile.TemporaryDirectory() as place:
            report = build(con, use, folder, Path(place) / "out", select(con, before, folder))
            files = [file.read_text(encoding="utf-8") for _, file in report.files.values()]
        return [line for text in files for line in text.split("\n")[:-1]], None
    (stats,) = select(con, [use], folder)
    return sql.records(con, f"FROM selected ORDER BY {', '.join(KEYS)}, copy"), stats


def reasons(stats: StepStats) -> set[tuple[str, str, int]]:
    """(dataset, reason, rows) of what a step dropped."""
    return {(one.dataset, reason, rows) for one in stats.datasets for reason, rows in one.reasons.items()}


def _reasons_fault(case: Case, stats: StepStats | None) -> str:
    if "reasons" not in case.sections:
        return ""
    rows = golden_rows.table(case.sections["reasons"])
    wanted = {tuple(row.get(name) for name in ("dataset", "reason", "rows")) for row in rows}
    reported = reasons(stats) if stats is not None else set()
    return "" if reported == wanted else f"its reasons are {sorted(reported)}, not {sorted(wanted, key=str)}"


def _differs(case: Case, outcome: Outcome) -> str:
    """The first difference between what was made and what was expected."""
    if "lines" in case.sections:
        wanted: list[Any] = sorted(case.sections["lines"].strip().split("\n"))
        found: list[Any] = sorted(str(line) for line in outcome)
    elif "expect" in case.sections:
        names = [name.strip() for name in case.sections["expect"].strip().splitlines()[0].split("|")]
        rows = golden_rows.table(case.sections["expect"])
        wanted = [{name: _rounded(row.get(name)) for name in names} for row in rows]
        found = [{name: _rounded(row.get(name)) for name in names} for row in outcome if isinstance(row, dict)]
    else:
        return ""
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), 1):
        if one != other:
            return f"row {number} is {_as_text(one)}, not {_as_text(other)}"
    if len(found) != len(wanted):
        kind = "extra one" if len(found) > len(wanted) else "missing one"
        more = (found if kind == "extra one" else wanted)[min(len(found), len(wanted))]
        return f"it makes {count(len(found), 'row')}, not {len(wanted)}; the first {kind} is {_as_text(more)}"
    return ""


def _as_text(row: Any) -> str:
    return row if isinstance(row, str) else json.dumps(row, default=str)


def _rounded(value: Any) -> Any:
    return round(value, 9) if isinstance(value, float) else value
