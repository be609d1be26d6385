"""A user's query may name each documented view through each door: metrics, filter, build, sql, explain, check, test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rolloutops.store.sql import read
from tests.helpers import CHECKOUT, environ, rolloutops, sums, write_jsonl

VIEWS = [
    *re.findall(r"^CREATE OR REPLACE VIEW (\w+)", read(CHECKOUT / "sql" / "views.sql"), re.MULTILINE),
    *("task_log", "attempts", "verdicts", "runs", "jobs", "plan"),
]

RECIPE = """data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
num_repeats = 2
[metrics]
steps = [{metrics}]
[[steps]]
kind = "filter"
name = "mine"
use = "filter/mine"
[[steps]]
kind = "build"
name = "line"
use = "build/mine"
"""

COUNTS = " + ".join(f"(SELECT count(*) FROM {view})" for view in VIEWS)

FILTER = f"""-- Keep all.
-- report: SELECT {COUNTS} AS n FROM result LIMIT 1
SELECT s.* FROM selected AS s WHERE {COUNTS} > 0
"""
BUILD = f"""-- A number.
SELECT to_json({{'n': {COUNTS}}}) AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key, concat_ws('/', dataset, task_id, policy, rollout_index) AS sort_key
FROM selected
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with steps that name every view, and a recipe that ran."""
    folder = tmp_path_factory.mktemp("doors")
    write_jsonl(folder / "tasks.jsonl", sums(3))
    for view in VIEWS:
        # Rollouts by name, so that the step could be one of those that read a narrow copy of that view.
        text = (
            f"-- Mine.\nSELECT v.*, b.reward AS best FROM {view} AS v, (SELECT max(reward) AS reward FROM rollouts) b\n"
        )
        if view in ("present_verdicts", "good_verdicts", "logged", "rollouts", "verdicts"):
            text = f"-- Mine.\nSELECT count(*) AS n, max(rollouts) FROM {view}, task_stats\n"
        (folder / "metrics").mkdir(exist_ok=True)
        (folder / "metrics" / f"own_{view}.sql").write_text(text)
    for kind, text in (("filter", FILTER), ("build", BUILD)):
        (folder / kind).mkdir()
        (folder / kind / "mine.sql").write_text(text)
    steps = ", ".join(f'"metrics/own_{view}"' for view in VIEWS)
    (folder / "recipe.toml").write_text(RECIPE.format(metrics=steps))
    rolloutops("run", "recipe.toml", cwd=folder)
    return folder


def test_metrics(project: Path) -> None:
    """All at once, and one alone: which views are made, and when, differs."""
    both = rolloutops("metrics", "recipe.toml", "--step=own_task_stats,rewards", cwd=project).stdout
    assert "own_task_stats" in both
    assert "metrics/rewards" in both
    assert "judged" in both
    alone = rolloutops("metrics", "recipe.toml", "--step=own_failures", "--json", cwd=project).stdout
    assert '"metrics/own_failures"' in alone


@pytest.mark.parametrize("words", ["check recipe.toml", "run recipe.toml --dry_run", "filter recipe.toml"])
def test_before_and_between(words: str, project: Path) -> None:
    said = rolloutops(*words.split(), cwd=project).stdout
    assert "mine" in said
    assert "BAD" not in said


def test_sql_and_a_shell_that_runs_what_explain_prints(project: Path) -> None:
    assert rolloutops("sql", f"SELECT {COUNTS} AS n", "--data=w", cwd=project).stdout
    script = rolloutops("sql", "--print", "--data=w", cwd=project).stdout
    script += rolloutops("explain", "recipe.toml", cwd=project).stdout
    (project / "all.sql").write_text(script + '\nSELECT count(*) FROM selection."step mine"')
    shell = "import duckdb; print(duckdb.sql(open('all.sql').read()))"
    done = subprocess.run([sys.executable, "-c", shell], cwd=project, env=environ(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_golden_cases(project: Path) -> None:
    for kind, step, expected in (("metrics", "own_task_stats", "task_id\na\n"), ("filter", "mine", "task_id\na\n")):
        case = project / "tests" / kind / step / "one.txt"
        case.parent.mkdir(parents=True)
        case.write_text(f"rollouts:\ntask_id | reward\na | 1\nexpect:\n{expected}")
    assert rolloutops("test", cwd=project).stdout.count("ok ") == 2
