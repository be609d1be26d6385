"""What becomes of GSM8K in training files: counts worked out by hand from the published grades."""

from __future__ import annotations

from pathlib import Path

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.steps.selection import select
from rolloutops.store import sql


def test_solve_rate_and_pairs(gsm8k: sql.Connection, tmp_path: Path) -> None:
    """432 problems that no model solves and 156 that all solve go; of each of the 731 others comes one pair."""
    solvable = StepUse("filter", "solvable", "filter/solve_rate")
    for start in (None, "rollouts"):
        stats = select(gsm8k, [solvable, StepUse("pair", "best", "pair/best_worst", {}, start)], Path())
        assert (stats[0].rows_in, stats[0].kept, stats[0].dropped) == (5276, 2924, 2352)
        build_ = StepUse("build", "dpo", "build/dpo_messages")
        report = build(gsm8k, build_, Path(), tmp_path / "dpo", stats)
        assert (stats[1].kept, report.files["train"][0]) == (2 * 731, 731)


def test_split_by_prompt(gsm8k: sql.Connection, tmp_path: Path) -> None:
    settings = {"validation": 0.1, "seed": 7, "min_reward": 0.0}
    report = build(gsm8k, StepUse("build", "sft", "build/sft_messages", settings), Path(), tmp_path / "sft")
    lineage = f"FROM read_parquet('{report.output / 'lineage.parquet'}')"
    found = sql.rows(gsm8k, f"SELECT split, count(*), count(DISTINCT task_id) {lineage} GROUP BY split ORDER BY split")
    assert found == [("train", 5276 - 564, 1319 - 141), ("validation", 564, 141)]
