"""Every shipped step against cases written by hand: tests/sql/KIND/STEP/CASE.txt, and against published values.

A case: settings as in a recipe, the rollouts that are given, and what comes out (`expect`: rows, `lines`: the lines of
train.jsonl, `error`: what the message says). Columns that a case does not name are not compared.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any


import pytest

from rolloutops import sql
from rolloutops.build import build
from rolloutops.errors import RolloutopsError
from rolloutops.recipe import StepUse
from rolloutops.selection import KEYS, select
from rolloutops.shipped import shipped
from rolloutops.steps import BUILD_KEYS, find_step, measure, read_step
from tests import given

HERE = Path(__file__).parent / "sql"
CASES = sorted(HERE.glob("*/*/*.txt"))
STEPS = sorted(path for kind in ("metrics", "filter", "mix", "build") for path in (shipped("sql") / kind).glob("*.sql"))
SECTION = re.compile(r"^(rollouts|plan|expect|lines|error):[ ]*\n", re.MULTILINE)


def read_case(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and sections of a case."""
    settings, *rest = SECTION.split(path.read_text(encoding="utf-8"))
    return tomllib.loads(settings), dict(zip(rest[::2], rest[1::2], strict=True))


def outcome(path: Path, folder: Path, **how: int) -> tuple[list[dict[str, Any]] | list[str], dict[str, str]]:
    """What a case's step makes of its rows."""
    settings, sections = read_case(path)
    kind, name = path.parts[-3:-1]
    con = given.workspace(given.table(sections["rollouts"]), given.table(sections.get("plan", "dataset")), **how)
    use = StepUse(kind, "step", f"{kind}/{name}", settings)
    if kind == "metrics":
        columns, rows = measure(con, use.use, settings=settings)
        return [dict(zip(columns, row, strict=True)) for row in rows], sections
    if kind == "build":
        report = build(con, use, Path(), folder / "out")
        return [line for _, file in report.files.values() for line in lines_of(file)], sections
    select(con, [use], Path())
    return sql.records(con, f"FROM selected ORDER BY {', '.join(KEYS)}, copy"), sections


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")[:-1]


def rounded(value: Any) -> Any:
    return round(value, 9) if isinstance(value, float) else value


@pytest.mark.parametrize("path", CASES, ids=lambda path: "/".join(path.with_suffix("").parts[-3:]))
def test_case(path: Path, tmp_path: Path) -> None:
    sections = read_case(path)[1]
    if "error" in sections:
        with pytest.raises(RolloutopsError) as caught:
            outcome(path, tmp_path)
        for line in sections["error"].strip().splitlines():
            assert line.strip() in str(caught.value)
        return
    plain, _ = outcome(path, tmp_path)
    for number, how in enumerate(({"threads": 8}, {"threads": 1, "shuffle": 1}, {"shuffle": 2})):
        assert outcome(path, tmp_path / str(number), **how)[0] == plain, f"differs with {how}"
    if "lines" in sections:
        assert sorted(plain) == sorted(sections["lines"].strip().split("\n"))
        assert all(json.loads(line) for line in plain)
        return
    expected = given.table(sections["expect"])
    names = [name.strip() for name in sections["expect"].strip().splitlines()[0].split("|")]
    assert [{n: rounded(row[n]) for n in names} for row in plain] == [
        {n: rounded(row.get(n)) for n in names} for row in expected
    ]


@pytest.mark.parametrize("path", STEPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_step_and_parameter_has_a_case(path: Path) -> None:
    step = read_step(f"{path.parent.name}/{path.stem}", path)
    cases = [read_case(case) for case in sorted((HERE / step.name).glob("*.txt"))]
    assert any("error" not in sections for _, sections in cases), "no case that shows what it makes"
    given_keys = {key for settings, _ in cases for key in settings}
    assert set(step.params) - given_keys - set(BUILD_KEYS) == set(), "parameters that no case gives"
    assert step.about
    assert all(param.about for param in step.params.values())


@pytest.mark.parametrize("path", STEPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_runs_as_it_stands_in_a_plain_shell(path: Path) -> None:
    """A step needs no rolloutops: its text, with its parameters set, runs over the views as one statement."""
    con = given.workspace([{"task_id": "t", "reward": 1.0}])
    sql.run(con, "CREATE VIEW selected AS SELECT *, 0 AS copy FROM rollouts")
    step = find_step(f"{path.parent.name}/{path.stem}")
    for param in step.params.values():
        value = param.default or "MAP {'d': 1.0}"
        sql.run(con, f"SET VARIABLE {param.name} = CAST({value} AS {param.kind})")
    sql.run(con, path.read_text(encoding="utf-8"))
