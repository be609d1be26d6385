"""The metrics of FORMULAS, value by value: GSM8K as four rollouts of a task, equal to NeMo Gym's code to 1e-9."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rolloutops.steps.step import measure
from rolloutops.store import sql
from tests import given
from tests import gsm8k as data

Rows = list[dict[str, Any]]


def measured(con: sql.Connection, step: str, **settings: Any) -> Rows:
    """The rows of a metrics step."""
    columns, rows = measure(con, f"metrics/{step}", settings=settings)
    return [dict(zip(columns, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def models() -> sql.Connection:
    """GSM8K with each model a policy of its own."""
    return data.workspace(policies=True)


@pytest.mark.parametrize(
    ("step", "column", "k", "golden"),
    [
        ("pass_at_k", "pass_at_k", 1, 0.3792645943896892),
        ("pass_at_k", "pass_at_k", 2, 0.53272681324235634),
        ("pass_at_k", "pass_at_k", 3, 0.6175132676269902),
        ("pass_at_k", "pass_at_k", 4, 0.6724791508718727),
        ("pass_at_k", "max_at_k", 1, 0.3792645943896892),
        ("pass_at_k", "max_at_k", 2, 0.53272681324235634),
        ("pass_at_k", "max_at_k", 3, 0.6175132676269902),
        ("pass_at_k", "max_at_k", 4, 0.6724791508718727),
        ("majority_at_k", "majority_at_k", 1, 0.2168309325246399),
        ("majority_at_k", "majority_at_k", 2, 0.3036391205458681),
        ("majority_at_k", "majority_at_k", 3, 0.3668182966894098),
        ("majority_at_k", "majority_at_k", 4, 0.48193075562294666),
        ("majority_at_k", "no_answer", 4, 11 / 5276),
        ("average_at_k", "mean", 1, 0.2168309325246399),
        ("average_at_k", "mean", 4, 0.3792645943896892),
        ("average_at_k", "std_across_runs", 4, 0.14274495628229833),
        ("average_at_k", "se_across_runs", 4, 0.07137247814114916),
        ("average_at_k", "mean_task_std", 4, 0.2909436417958705),
    ],
)
def test_of_k_rollouts(gsm8k: sql.Connection, step: str, column: str, k: int, golden: float) -> None:
    (row,) = measured(gsm8k, step, k=[k])
    assert (row["k"], row["tasks"]) == (k, 1319)
    assert row[column] == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "mean"),
    [
        ("6b_finetuning", 0.2168309325),
        ("6b_verification", 0.3904473086),
        ("175b_finetuning", 0.3472327521),
        ("175b_verification", 0.5625473844),
    ],
)
def test_mean_of_each_model(gsm8k: sql.Connection, models: sql.Connection, model: str, mean: float) -> None:
    by_policy = {row["policy"]: row for row in measured(models, "rewards")}
    by_model = {row["group"]: row for row in measured(gsm8k, "fields", group_by="model") if row["metric"] == "reward"}
    for row in (by_policy[model], by_model[model]):
        assert (row["rollouts"], row["coverage"]) == (1319, 1.0)
        assert row["mean"] == pytest.approx(mean, abs=5e-11)
        assert row["std"] == pytest.approx(math.sqrt(mean * (1 - mean) * 1319 / 1318), abs=1e-9)


@pytest.mark.parametrize(
    ("solve_rate", "tasks"),
    [
        ("0 (never)", 432),
        ("(0.0, 0.25]", 290),
        ("(0.25, 0.5]", 236),
        ("(0.5, 0.75]", 205),
        ("(0.75, 1.0)", 0),
        ("1 (always)", 156),
    ],
)
def test_solve_rates(gsm8k: sql.Connection, solve_rate: str, tasks: int) -> None:
    found = {row["solve_rate"]: row for row in measured(gsm8k, "solve_rates")}
    assert (found[solve_rate]["tasks"], found[solve_rate]["rollouts"]) == (tasks, 4 * tasks)


def test_exact_duplicates(gsm8k: sql.Connection) -> None:
    (row,) = measured(gsm8k, "answers")
    assert (row["rollouts"], row["different"], row["duplicates"]) == (5276, 5268, 8)


def test_unsolved_tasks_count(gsm8k: sql.Connection) -> None:
    """The empty product: without it pass@1 would be 56.4 %, the mean over the tasks that are solved at all."""
    (row,) = measured(gsm8k, "pass_at_k", k=[1])
    assert row["pass_at_k"] < 0.38


def test_max_at_k_of_every_order_is_its_definition() -> None:
    """The mean of the best of k over all subsets, as by hand: best of two of 0, 0.5, 0.5, 1."""
    rows = [{"task_id": "a", "rollout_index": i, "reward": r} for i, r in enumerate((0.5, 1.0, 0.0, 0.5))]
    (row,) = measured(given.workspace(rows), "pass_at_k", k=[2])
    assert row["max_at_k"] == pytest.approx((1 + 1 + 1 + 0.5 + 0.5 + 0.5) / 6, abs=1e-12)


@pytest.mark.parametrize("groups", [100_000, 200])
def test_intervals_are_those_of_the_normal_distribution(gsm8k: sql.Connection, groups: int) -> None:
    """Over 1,319 tasks a mean is close to normal, so its interval is the mean and 1.96 standard errors to either side,
    whether tasks are drawn one by one or in 200 random groups."""
    found = {row["metric"]: row for row in measured(gsm8k, "confidence", resamples=2000, groups=groups)}
    rates = sql.rows(gsm8k, "SELECT avg(reward) AS rate FROM rollouts GROUP BY task_id")
    mean = sum(rate for (rate,) in rates) / len(rates)
    error = math.sqrt(sum((rate - mean) ** 2 for (rate,) in rates) / (len(rates) - 1) / len(rates))
    assert found["pass@1"] == {**found["mean reward"], "metric": "pass@1"}
    row = found["pass@1"]
    assert row["estimate"] == pytest.approx(mean, abs=1e-9)
    assert row["se"] == pytest.approx(error, rel=0.12)
    assert row["low"] == pytest.approx(mean - 1.96 * error, abs=0.3 * error)
    assert row["high"] == pytest.approx(mean + 1.96 * error, abs=0.3 * error)
    assert all(one["low"] < one["estimate"] < one["high"] for one in found.values())


def test_draws_are_hashes_of_the_seed(gsm8k: sql.Connection) -> None:
    settings = {"k": [1], "resamples": 200}
    again = data.workspace(threads=1, shuffle=3)
    assert measured(again, "confidence", **settings) == measured(gsm8k, "confidence", **settings)
    assert measured(gsm8k, "confidence", seed=1, **settings) != measured(gsm8k, "confidence", **settings)


def test_two_policies_compared(models: sql.Connection) -> None:
    """The paper's finding: the verified 6B model is slightly better than the fine-tuned 175B one."""
    (row,) = measured(models, "compare", a="175b_finetuning", b="6b_verification")
    rates = dict(sql.rows(models, "SELECT policy, avg(reward) FROM rollouts GROUP BY policy"))
    assert row["difference"] == pytest.approx(rates["6b_verification"] - rates["175b_finetuning"], abs=1e-9)
    assert (row["tasks"], row["better"], row["worse"], row["equal"]) == (1319, 209, 152, 958)
    assert row["p_sign_test"] == pytest.approx(binomial(209, 152), rel=1e-9)
    # With differences of -1, 0 and 1 only, flipping signs is the same test as the binomial one.
    assert row["p_sign_flip"] == pytest.approx(row["p_sign_test"], abs=0.004)
    assert 0 < row["low"] < row["difference"] < row["high"]
    (other,) = measured(models, "compare", a="6b_verification", b="175b_finetuning")
    assert (other["difference"], other["low"], other["high"]) == pytest.approx(
        (-row["difference"], -row["high"], -row["low"]), abs=1e-12
    )


def binomial(better: int, worse: int) -> float:
    """The two-sided sign test in whole numbers."""
    n = better + worse
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(better, worse) + 1)) / (1 << n))


@pytest.mark.parametrize(("better", "worse"), [(1, 0), (3, 3), (8, 2), (40, 60), (600, 500)])
def test_sign_test_is_exact(better: int, worse: int) -> None:
    won = [(f"t{n}", n < better) for n in range(better + worse)]
    rows = [
        {"task_id": task, "policy": policy, "reward": float(wins == (policy == "b"))}
        for task, wins in won
        for policy in "ab"
    ]
    (row,) = measured(given.workspace(rows), "compare", a="a", b="b", resamples=10)
    assert row["p_sign_test"] == pytest.approx(binomial(better, worse), rel=1e-9)


def test_rank_correlation_is_spearmans(gsm8k: sql.Connection) -> None:
    rows = sql.rows(gsm8k, "SELECT reward, len(text) FROM rollouts")
    rewards, lengths = ranks([reward for reward, _ in rows]), ranks([length for _, length in rows])
    mean = (len(rows) + 1) / 2
    above = sum((x - mean) * (y - mean) for x, y in zip(rewards, lengths, strict=True))
    below = math.sqrt(sum((x - mean) ** 2 for x in rewards) * sum((y - mean) ** 2 for y in lengths))
    found = measured(gsm8k, "reward_by_length", length="characters")
    assert found[0]["rank_correlation"] == pytest.approx(above / below, abs=1e-9)
    assert sum(row["rollouts"] for row in found[1:]) == found[0]["rollouts"] == 5276


def ranks(values: list[float]) -> list[float]:
    """The rank of each value from 1, ties by their mean."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values), 1):
        places.setdefault(value, []).append(place)
    return [sum(places[value]) / len(places[value]) for value in values]
