"""Advantages of GSM8K's answers, four of each problem, in each trainer's formula."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.recipe import StepUse
from rolloutops.steps.selection import select
from rolloutops.store import sql
from tests import given


@pytest.mark.parametrize(
    ("formula", "sum_of_squares", "lowest", "highest"),
    [
        ("grpo_verl", 2192.9916074, -1.499997000006, 1.499997000006),
        ("open_instruct", 2923.99987, -1.73205077, 1.73205077),
        ("rloo", 1079.5555556, -1.0, 1.0),
        ("dr_grpo", 607.25, -0.75, 0.75),
        ("maxrl", 4697.3333333, -1.0, 3.0),
    ],
)
def test_advantages(gsm8k: Any, formula: str, sum_of_squares: float, lowest: float, highest: float) -> None:
    stats = select(gsm8k, [StepUse("reward", "adv", "reward/advantage", {"formula": formula})], Path())[0]
    reported = stats.reports[0][0]
    assert reported["sum_of_squares"] == pytest.approx(sum_of_squares, abs=1e-5 if formula == "open_instruct" else 1e-7)
    assert (reported["lowest"], reported["highest"]) == pytest.approx((lowest, highest), abs=1e-8)
    assert reported["rollouts"] == 5276
    assert reported["zero"] == 4 * (432 + 156), "groups of equal rewards"


@pytest.mark.parametrize("formula", ["grpo", "grpo_verl", "open_instruct", "dr_grpo", "rloo", "maxrl", "grpo_passk"])
def test_each_formula_in_plain_python(gsm8k: Any, formula: str) -> None:
    """Advantages of every group, against the formula written out in Python."""
    select(gsm8k, [StepUse("reward", "adv", "reward/advantage", {"formula": formula})], Path())
    groups = "SELECT list(reward ORDER BY rollout_index), list(advantage ORDER BY rollout_index) FROM selected"
    for rewards, advantages in sql.rows(gsm8k, f"{groups} GROUP BY task_id"):
        assert advantages == pytest.approx(PLAIN[formula](rewards), abs=1e-9)


def normalized(std: Any, epsilon: float) -> Any:
    return lambda r: [(x - statistics.mean(r)) / (std(r) + epsilon) for x in r]


def best_only(rewards: list[float]) -> list[float]:
    *_, second, best = sorted(rewards)
    gain = (best - second) / (statistics.stdev(rewards) + 1e-6)
    return [gain if x == best else 0.0 for x in rewards]


PLAIN = {
    "grpo": normalized(statistics.stdev, 1e-4),
    "grpo_verl": normalized(statistics.stdev, 1e-6),
    "open_instruct": normalized(statistics.pstdev, 1e-8),
    "dr_grpo": lambda r: [x - statistics.mean(r) for x in r],
    "rloo": lambda r: [x - (sum(r) - x) / (len(r) - 1) for x in r],
    "maxrl": lambda r: [(x - statistics.mean(r)) / statistics.mean(r) if any(r) else 0.0 for x in r],
    "grpo_passk": best_only,
}


def test_rewards_are_changed_one_after_the_other() -> None:
    """A pipeline of reward steps: cut-off rollouts get nothing, rewards are stretched, advantages are added."""
    rows = [
        {"task_id": "t", "rollout_index": index, "reward": reward, "finish_reason": reason}
        for index, (reward, reason) in enumerate([(1.0, "stop"), (1.0, "length"), (0.5, "stop")])
    ]
    con = given.workspace(rows)
    steps = [
        StepUse("reward", "cut", "reward/truncated"),
        StepUse("reward", "wide", "reward/scale", {"to_min": -1.0}),
        StepUse("reward", "adv", "reward/advantage", {"formula": "dr_grpo"}),
    ]
    select(con, steps, Path())
    found = sql.rows(con, "SELECT rollout_index, reward, advantage FROM selected ORDER BY ALL")
    assert found == [(0, 1.0, 1.0), (1, -1.0, -1.0), (2, 0.0, 0.0)]
