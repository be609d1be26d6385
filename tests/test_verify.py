"""The verify stage through the command line: changed code verifies again, nothing is collected again, versions
agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from rolloutops.cli.commands.verify import agreement_of
from rolloutops.config.plan import make_plan
from rolloutops.config.recipe_file import load
from tests.helpers import query, rolloutops, sums, write_jsonl

VERIFIER = """
class Environment:
    {more}
    def verify(self, task, rollout):
        good = rollout.text.endswith(task.answer) and task.row["n"] % 10 != {but}
        return {{"reward": float(good), "n": task.row["n"]}}
def make(): return Environment()
"""
RECIPE = """
data = "w"
[datasets.sums]
input = "sums.jsonl"
environment = "own.py"
[collect]
engine = "scripted"
num_repeats = 2
{verify}
"""


def write(folder: Path, but: int, more: str = "", verify: str = "") -> None:
    (folder / "own.py").write_text(VERIFIER.format(but=but, more=more))
    (folder / "own.toml").write_text(RECIPE.format(verify=f"[verify]\n{verify}" if verify else ""))


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "sums.jsonl", sums(100))
    write(tmp_path, but=-1)
    rolloutops("chunk", "own.toml", cwd=tmp_path)
    rolloutops("collect", "own.toml", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("more", ["", "runs = 'process'", "cpu_bound = True"])
def test_changed_code_verifies_everything_again_and_says_how_far_it_agrees(collected: Path, more: str) -> None:
    count = (
        "SELECT (SELECT count(*) FROM attempts), (SELECT count(*) FROM verdicts), (SELECT sum(reward) FROM rollouts)"
    )
    ((attempts, verdicts, before),) = query(collected / "w", count)
    ((old,),) = query(collected / "w", "SELECT DISTINCT verifier_version FROM verdicts")
    assert (attempts, verdicts) == (200, 200)
    write(collected, but=3, more=more)
    rolloutops("verify", "own.toml", f"--against={old[:6]}", cwd=collected)
    ((attempts, verdicts, after),) = query(collected / "w", count, load("own.toml"))
    assert (attempts, verdicts) == (200, 400)
    keys = "SELECT count(DISTINCT (task_id, rollout_index, verifier_version)) FROM verdicts"
    assert query(collected / "w", keys) == [(400,)]
    wrong = "SELECT count(*) FROM verdicts JOIN tasks USING (dataset, task_id) WHERE metrics['n'] <> (row->>'n')::INT"
    assert query(collected / "w", wrong) == [(0,)], "each verdict lies with its own rollout"
    rolloutops("verify", "own.toml", cwd=collected)
    assert query(collected / "w", "SELECT count(*) FROM verdicts") == [(400,)], "nothing is verified twice"
    write(collected, but=3, more=more, verify=f"against = '{old}'")
    columns, (found,) = agreement_of(make_plan(load("own.toml")))
    row = dict(zip(columns, found, strict=True))
    assert (row["against"], row["judged_by_both"], row["only_now_succeeds"]) == (old, 200, 0)
    assert row["only_before_succeeded"] == before - after > 0
    assert row["equal_share"] == 1 - (before - after) / 200
    assert 0 < row["kappa"] < 1


def test_a_version_that_is_not_there_is_named_before_anything_is_verified(collected: Path) -> None:
    write(collected, but=3)
    done = rolloutops("verify", "own.toml", "--against=zz", cwd=collected, code=2)
    assert "no verdicts with verifier version 'zz'; available, newest first: " in done.stderr
    assert "(own.py, 200 verdicts)" in done.stderr
    assert query(collected / "w", "SELECT count(*) FROM verdicts") == [(200,)]


def test_what_failed_is_verified_again_when_asked(collected: Path) -> None:
    (collected / "own.py").write_text(
        VERIFIER.format(but=3, more="")
        + "\nimport pathlib\n"
        + """
class Fails(Environment):
    def verify(self, task, rollout):
        if pathlib.Path("down").exists() and task.row["n"] < 10: raise OSError("the service is down")
        return super().verify(task, rollout)
def make(): return Fails()
"""
    )
    (collected / "down").touch()
    rolloutops("verify", "own.toml", cwd=collected)
    failed = "SELECT count(*) FILTER (reward IS NULL), count(*) FROM rollouts"
    assert query(collected / "w", failed, load("own.toml")) == [(20, 200)]
    (collected / "down").unlink()
    rolloutops("verify", "own.toml", cwd=collected)
    assert query(collected / "w", failed, load("own.toml")) == [(20, 200)], "not by accident"
    rolloutops("verify", "own.toml", "--retry_errors", cwd=collected)
    assert query(collected / "w", failed, load("own.toml")) == [(0, 200)]


SLOW = """
import os, time
class Slow:
    runs = {runs}
    def verify(self, task, rollout):
        time.sleep(0.08)
        return dict(reward=float(rollout.text.endswith(task.answer)), pid=os.getpid())
"""


@pytest.mark.parametrize("runs", [None, "inline"])
def test_a_slow_verifier_that_declares_nothing_moves_to_processes_and_verifies_each_rollout_once(
    tmp_path: Path, runs: str | None
) -> None:
    write_jsonl(tmp_path / "sums.jsonl", sums(40))
    (tmp_path / "slow.py").write_text(SLOW.format(runs=repr(runs)))
    words = ("--input=sums.jsonl", "--dataset=sums", "--data=w", "--engine=scripted", "--engine_args.correct=0.5")
    rolloutops("collect", *words, "--environment=slow.py:Slow", cwd=tmp_path)
    ((verdicts, attempts, right, pids),) = query(
        tmp_path / "w",
        "SELECT count(*), count(DISTINCT attempt_id), count(*) FILTER (reward = correct::DOUBLE), "
        "count(DISTINCT metrics['pid']) "
        "FROM (SELECT v.*, ends_with(a.text, t.answer) AS correct FROM verdicts v "
        "JOIN attempts a USING (attempt_id) JOIN tasks t ON t.task_id = a.task_id)",
    )
    assert (verdicts, attempts, right) == (40, 40, 40)
    assert (pids == 1) == (runs == "inline")
