"""`explain` and `--dry_run`: the script does what the steps do, and a misfit is refused before it runs."""

from __future__ import annotations

from pathlib import Path

from rolloutops.build.build import build
from rolloutops.build.explain import explain, script
from rolloutops.config.plan import make_plan
from rolloutops.config.recipe_file import load
from rolloutops.steps.selection import select
from rolloutops.store import sql
from tests import given
from tests.helpers import rolloutops

RECIPE = """
data = "w"
[datasets.d]
input = "tasks.jsonl"
[datasets.e]
input = "tasks.jsonl"

[[steps]]
kind = "filter"
name = "good"
use = "filter/reward"
min_reward = 0.1

[[steps]]
kind = "mix"
name = "half"
use = "mix/shares"
shares = { d = 0.5, e = 0.5 }
on_shortage = "shrink"

[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
min_reward = 0.5

[[steps]]
kind = "pair"
name = "best"
use = "pair/best_worst"
from = "rollouts"

[[steps]]
kind = "build"
name = "dpo"
use = "build/dpo_messages"
"""


def test_the_script_makes_what_the_steps_make(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "?"}\n')
    plan = make_plan(load(str(tmp_path / "recipe.toml")))
    rows = [
        {"dataset": name, "task_id": f"t{n % 7}", "rollout_index": n // 7, "reward": n % 3 / 2, "text": f"answer {n}"}
        for name in ("d", "e")
        for n in range(40 if name == "d" else 30)
    ]
    ours, shell = given.workspace(rows), given.workspace(rows)
    step_stats = select(ours, [step for step in plan.steps if step.kind != "build"], plan.folder)
    sql.run(shell, script(explain(plan)))
    for stats in step_stats:
        assert sql.rows(shell, f'SELECT count(*) FROM selection."step {stats.step}"') == [(stats.rows,)]
    for name, before in (("sft", 2), ("dpo", 3)):
        use = next(step for step in plan.steps if step.name == name)
        report = build(ours, use, plan.folder, tmp_path / name, step_stats[:before])
        lines = (report.files["train"][1]).read_text(encoding="utf-8").splitlines()
        assert len(lines) > 5
        assert sorted(lines) == [
            line for (line,) in sql.rows(shell, f'SELECT json::VARCHAR AS line FROM selection."step {name}" ORDER BY 1')
        ]


def test_a_dry_run_needs_no_rollouts_and_names_what_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    fits = rolloutops("run", "recipe.toml", "--dry_run", cwd=tmp_path)
    assert "5 steps fit together; nothing was run" in fits.stdout
    assert not (tmp_path / "w").exists()
    (tmp_path / "filter").mkdir()
    (tmp_path / "filter" / "mine.sql").write_text(
        "-- Keep what is sweet.\nSELECT s.* FROM selected AS s WHERE s.sugar\n"
    )
    (tmp_path / "recipe.toml").write_text(
        RECIPE + '[[steps]]\nkind = "filter"\nname = "sweet"\nuse = "filter/mine"\nfrom = "good"\n'
    )
    bad = rolloutops("run", "recipe.toml", "--dry_run", cwd=tmp_path, code=2)
    assert "[filter.sweet] filter/mine" in bad.stderr
    assert "sugar" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_a_dry_run_binds_checks_and_reports_too(tmp_path: Path) -> None:
    """What a step's header asks of its result is known before there is one: `result` has no payload."""
    (tmp_path / "filter").mkdir()
    (tmp_path / "recipe.toml").write_text(
        RECIPE + '[[steps]]\nkind = "filter"\nname = "mine"\nuse = "filter/mine"\nfrom = "good"\n'
    )
    for header in ("report: SELECT min(length(text)) AS shortest FROM result", "check: SELECT sugar FROM selected"):
        (tmp_path / "filter" / "mine.sql").write_text(f"-- Keep all.\n-- {header}\nSELECT s.* FROM selected AS s\n")
        bad = rolloutops("run", "recipe.toml", "--dry_run", cwd=tmp_path, code=2)
        assert "[filter.mine] filter/mine" in bad.stderr
