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
from rolloutops.building.build import build
from rolloutops.errors import RolloutopsError
from rolloutops.recipe import StepUse
from rolloutops.shipped import shipped
from rolloutops.steps.selection import KEYS, select
from rolloutops.steps.step import BUILD_KEYS, find_step, measure, read_step
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


@pytest.fixture(scope="module")
def gsm8k() -> Any:
    """1,319 problems and the answers of four models, taken as four rollouts of each."""
    path = given.SHARED / "gsm8k" / "example_model_solutions.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}")
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        problem, task = json.loads(line), f"task-{number:06d}"
        for place, model in enumerate(models):
            answer = problem[model]
            told = {"rollout_index": place, "text": answer["solution"], "reward": float(answer["is_correct"])}
            rows.append(
                {"dataset": "gsm8k", "task_id": task, "prompt_hash": problem["question"], "model": model, **told}
            )
    return given.workspace(rows)


def test_gsm8k_pass_at_k(gsm8k: Any) -> None:
    columns, rows = measure(gsm8k, "metrics/pass_at_k", settings={"k": [1, 2, 3, 4]})
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    golden = [0.3792645943896892, 0.53272681324235634, 0.6175132676269902, 0.6724791508718727]
    assert [row["pass_at_k"] for row in found] == pytest.approx(golden, abs=1e-9)
    assert [row["max_at_k"] for row in found] == pytest.approx(golden, abs=1e-9)
    assert {row["tasks"] for row in found} == {1319}


def test_gsm8k_solve_rate_and_pairs(gsm8k: Any, tmp_path: Path) -> None:
    """432 problems that no model solves and 156 that all solve go; of each of the 731 others comes one pair."""
    funnel = select(gsm8k, [StepUse("filter", "solvable", "filter/solve_rate")], Path())[0]
    assert (funnel.rows_in, funnel.kept, funnel.dropped) == (5276, 2924, 2352)
    for start in (None, "rollouts"):
        report = build(
            gsm8k, StepUse("build", "dpo", "build/dpo_messages", {}, start), Path(), tmp_path / "dpo", [funnel]
        )
        assert report.files["train"][0] == 731
        assert report.reports[0][0]["pairs"] == 731


def test_gsm8k_split_by_prompt(gsm8k: Any, tmp_path: Path) -> None:
    settings = {"validation": 0.1, "seed": 7, "min_reward": 0.0}
    report = build(gsm8k, StepUse("build", "sft", "build/sft_messages", settings), Path(), tmp_path / "sft")
    lineage = f"FROM read_parquet('{report.output / 'lineage.parquet'}')"
    found = sql.rows(gsm8k, f"SELECT split, count(*), count(DISTINCT task_id) {lineage} GROUP BY split ORDER BY split")
    assert found == [("train", 5276 - 564, 1319 - 141), ("validation", 564, 141)]
