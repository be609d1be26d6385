"""The command `metrics`: what is asked for, how it is printed, and that reading rollouts once changes no table."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rolloutops.cli.main import main
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.steps.metrics import Table, measure_all
from rolloutops.steps.step import measure
from rolloutops.store import sql
from tests import given
from tests.helpers import command, environ, rolloutops, sums, write_jsonl

RECIPE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
num_repeats = 2
[policies.quick]
engine_args = { correct = 0.2 }
[policies.careful]
engine_args = { correct = 0.8 }
[metrics]
steps = ["metrics/rewards", "metrics/mine"]
[metrics.mine]
least = 1.0
"""

MINE = """-- Rollouts with a reward, by every column that there is.
-- param least DOUBLE = 0   the least reward
SELECT count(*) AS rollouts, count(prompt) AS prompts FROM (SELECT * FROM rollouts WHERE reward >= getvariable('least'))
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, a step of one's own and 40 tasks with two rollouts of two policies each."""
    folder = tmp_path_factory.mktemp("measured")
    write_jsonl(folder / "tasks.jsonl", sums(40))
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "metrics").mkdir()
    (folder / "metrics" / "mine.sql").write_text(MINE)
    rolloutops("run", "recipe.toml", cwd=folder)
    return folder


@pytest.fixture(autouse=True)
def inside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs in that folder."""
    monkeypatch.chdir(workspace)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """What `metrics` prints, and what it says on stderr."""
    assert main(["metrics", "recipe.toml", *words]) == code
    return capsys.readouterr()


def test_every_step_says_the_same_of_rollouts_read_once(workspace: Path) -> None:
    """A step in a run of several reads a copy of the columns that it names; its table is that of the view itself."""
    rows = [
        {
            **{"task_id": f"t{task}", "policy": policy, "rollout_index": place, "agent": f"agent{task % 2}"},
            **{"text": "x" * (task + place), "output_tokens": 10 * task + place, "turns": 1 + place, "input_tokens": 3},
            **{"reward": float((task + place) % 3) / 2, "metrics": [("length", float(task))], "seconds": 1.0 + task},
            **{"details": given.dump({"extracted": str(place)}), "tool_calls": place, "tool_names": ["look"] * place},
        }
        for task in range(6)
        for policy in ("p", "q")
        for place in range(3)
    ]
    con = given.workspace(rows)
    steps = sorted(f"metrics/{path.stem}" for path in (shipped("sql") / "metrics").glob("*.sql"))
    settings = {f"metrics/{name}": {"a": "p", "b": "q"} for name in ("compare", "compare_tasks")}
    uses = [StepUse("metrics", Path(name).stem, name, settings.get(name, {})) for name in steps]
    uses.append(StepUse("metrics", "mine", "metrics/mine"))
    found = measure_all(con, uses, workspace)
    assert list(found) == [use.use for use in uses]
    for use in uses:
        assert rounded(found[use.use]) == rounded(measure(con, use.use, workspace, use.settings)), use.use
    assert found["metrics/mine"] == (["rollouts", "prompts"], [(36, 36)])
    assert sql.rows(con, "SELECT count(prompt) FROM rollouts") == [(36,)], "the view is back in its place"


def rounded(table: Table) -> tuple[list[str], list[list[Any]]]:
    """A table but for the last digits, which depend on the order of the rows."""
    return table[0], [[round(cell, 9) if isinstance(cell, float) else cell for cell in row] for row in table[1]]


def test_the_recipe_says_which_tables_and_what_they_are_asked(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys)
    assert [line for line in out.splitlines() if line.startswith("metrics/")] == ["metrics/rewards", "metrics/mine"]
    assert "--step=NAME: agreement, answers" in err
    tables = json.loads(said(capsys, "--json")[0])
    right = sum(row["mean"] * row["rollouts"] for row in tables["metrics/rewards"] if row["metric"] == "reward")
    assert tables["metrics/mine"] == [{"rollouts": right, "prompts": right}]
    everything = json.loads(said(capsys, "--json", "--step=mine", "--metrics.mine.least=-1")[0])
    assert everything == {"metrics/mine": [{"rollouts": 160, "prompts": 160}]}


def test_groups(capsys: pytest.CaptureFixture[str]) -> None:
    (table,) = json.loads(said(capsys, "--json", "--group_by=task")[0]).values()
    rewards = [row for row in table if row["metric"] == "reward"]
    assert len(rewards) == 80
    assert {row["rollouts"] for row in rewards} == {2}


def test_csv_holds_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    header, *rows = csv.reader(io.StringIO(said(capsys, "--csv", "--step=solve_rates")[0]))
    assert header[:4] == ["dataset", "policy", "solve_rate", "tasks"]
    assert sum(int(row[3]) for row in rows) == 80
    assert "--csv prints one table" in said(capsys, "--csv", code=2)[1]


def test_policies_are_compared_task_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    tables = json.loads(said(capsys, "--json", "--compare=quick,careful")[0])
    assert list(tables) == ["metrics/compare", "metrics/compare_tasks"]
    (row,) = tables["metrics/compare"]
    assert (row["a"], row["b"], row["tasks"]) == ("quick", "careful", 40)
    assert row["difference"] == pytest.approx(row["mean_b"] - row["mean_a"])
    assert row["low"] < row["difference"] < row["high"]
    assert max(row["p_sign_flip"], row["p_sign_test"]) < 0.01
    assert row["better"] + row["worse"] + row["equal"] == 40


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--compare=quick,slow"], "no policy 'slow'; the workspace has rollouts of: careful, quick"),
        (["--compare=quick"], "--compare takes two policies"),
        (["--compare=quick,careful", "--step=rewards"], "--compare has no effect on metrics/rewards"),
        (["--group_by=agent", "--step=tokens"], "--group_by has no effect on metrics/tokens"),
        (["--group_by=color"], "there are agent, task, finish_reason"),
        (["--step=reward"], "no step 'metrics/reward', did you mean 'metrics/rewards'"),
        (["--step=compare"], "[metrics.compare] a is missing: the baseline policy"),
        (["--metrics.pass_at_k.kk=3", "--step=pass_at_k"], "no key 'kk', did you mean 'k'?"),
        (["--metrics.pas_at_k.k=[3]"], "no metrics step 'pas_at_k', did you mean 'pass_at_k'?"),
        (["--metrics.mine=3"], "write --metrics.mine.KEY=3"),
    ],
)
def test_mistakes_are_told(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    out, err = said(capsys, *words, code=2)
    assert (out, sentence in err) == ("", True), err


def test_works_while_a_collection_runs(tmp_path: Path) -> None:
    """Each look finds whole rows only, and never fewer than the look before."""
    write_jsonl(tmp_path / "tasks.jsonl", sums(400))
    slow = ("--engine=scripted", "--engine_args.delay=0.2", "--num_samples_in_parallel=20", "--environment=exact_match")
    collection = subprocess.Popen(
        command("collect", "--input=tasks.jsonl", "--data=w", *slow),
        cwd=tmp_path,
        env=environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    counts = []
    try:
        while not list((tmp_path / "w").glob("runs/*collect*")) and not list((tmp_path / "w").glob("journals/*")):
            assert collection.poll() is None
            time.sleep(0.05)
        while True:
            ended = collection.poll() is not None
            reported = rolloutops("metrics", "--data=w", "--json", cwd=tmp_path)
            rewards = json.loads(reported.stdout)["metrics/rewards"]
            counts.append(sum(row["rollouts"] for row in rewards if row["metric"] == "reward"))
            if ended:
                break
    finally:
        collection.wait()
    assert counts == sorted(counts)
    assert counts[-1] == 400
