"""Filters against published and hand-computed values, on GSM8K: 1,319 problems with four answers each, and its 7,473
training problems against its test problems."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.steps.selection import StepStats, select
from rolloutops.store import sql
from tests import given

GSM8K = given.SHARED / "gsm8k"


def run(con: Any, step: str, **settings: Any) -> StepStats:
    """What one filter does."""
    return select(con, [StepUse("filter", "it", f"filter/{step}", settings)], Path())[0]


def tasks(con: Any, where: str = "true") -> int:
    """Tasks of the selection."""
    return int(sql.rows(con, f"SELECT count(DISTINCT task_id) FROM selected WHERE {where}")[0][0])


def reasons(stats: StepStats) -> dict[str, int]:
    """Why rows went."""
    return {reason: rows for kept in stats.datasets for reason, rows in kept.reasons.items()}


# Groups: FORMULAS 2.2


def test_zero_variance(gsm8k: Any) -> None:
    """432 problems that no answer solves and 156 that all solve; 731 others, 2,924 rollouts."""
    stats = run(gsm8k, "zero_variance")
    assert (stats.rows_in, stats.kept, tasks(gsm8k)) == (5276, 2924, 731)
    assert reasons(stats) == {
        "all rewards of the group are 0.0": 4 * 432,
        "all rewards of the group are 1.0": 4 * 156,
    }


@pytest.mark.parametrize(
    ("low", "high", "strict", "kept"),
    [
        (0.1, 0.9, True, 731),  # open-r1: 0.1 < mean < 0.9
        (0.1, 0.9, False, 731),
        (0.0, 1.0, True, 731),
        (0.0, 1.0, False, 1319),
        (-1.0, 1.0, True, 1319 - 156),  # open-instruct: drop what is solved as often as 1.0
        (0.25, 0.75, True, 236),
    ],
)
def test_solve_rate(gsm8k: Any, low: float, high: float, strict: bool, kept: int) -> None:
    assert run(gsm8k, "solve_rate", low=low, high=high, strict=strict).kept == 4 * kept
    assert tasks(gsm8k) == kept


def test_difficulty_pools(gsm8k: Any) -> None:
    """prime-rl's pools: hard to 0.25, normal to 0.75, easy above; 722, 441 and 156 problems."""
    run(gsm8k, "difficulty", hard=1.0, normal=1.0, easy=1.0)
    assert [tasks(gsm8k, f"pool = '{pool}'") for pool in ("hard", "normal", "easy")] == [722, 441, 156]
    assert run(gsm8k, "difficulty").reports[0] == [
        {"dataset": "gsm8k", "policy": "p", "pool": "hard", "tasks": 722, "kept": unit_below("hard", 0.2)},
        {"dataset": "gsm8k", "policy": "p", "pool": "normal", "tasks": 441, "kept": 441},
        {"dataset": "gsm8k", "policy": "p", "pool": "easy", "tasks": 156, "kept": unit_below("easy", 0.2)},
    ]


def unit_below(pool: str, share: float) -> int:
    """How many of a pool's tasks have a number below a share, in Python."""
    solved = {"hard": range(2), "easy": range(4, 5)}[pool]
    return sum(
        sum(problem[model]["is_correct"] for model in problem if model not in ("question", "ground_truth")) in solved
        and unit(f"gsm8k/task-{number:06d}/p", 42) < share
        for number, problem in enumerate(problems())
    )


def problems() -> list[dict[str, Any]]:
    text = (GSM8K / "example_model_solutions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_majority(gsm8k: Any) -> None:
    """As counted in Python over the extracted answers."""
    wanted = 0
    for problem in problems():
        texts = [model["solution"] for name, model in problem.items() if name not in ("question", "ground_truth")]
        answers = [text.rpartition("A:")[2].strip().replace(",", "") for text in texts if "A:" in text]
        wanted += max((answers.count(answer) for answer in answers), default=0) >= 2
    assert run(gsm8k, "majority", min_share=0.5).kept == 4 * wanted


def test_exact_duplicates(gsm8k: Any) -> None:
    """8 solutions say what another one of the same problem says."""
    for per in ("prompt", "task"):
        assert run(gsm8k, "exact_duplicates", per=per).dropped == 8


def test_what_is_kept_is_right_by_construction(gsm8k: Any) -> None:
    """The best quarter of four rewards is the largest and its equals; a reward of 1 is what a threshold of 1 keeps."""
    assert run(gsm8k, "reward", min_reward=1.0).kept == 2001
    best = run(gsm8k, "reward_quantile", per="task", low=1.0)
    assert best.kept == 4 * 432 + 2001


# Decontamination: FORMULAS 2.6


@pytest.fixture(scope="module")
def train() -> Any:
    """The training problems, a rollout each."""
    if not (GSM8K / "train.jsonl").exists():
        pytest.skip(f"no {GSM8K / 'train.jsonl'}")
    rows = []
    for number, line in enumerate((GSM8K / "train.jsonl").read_text(encoding="utf-8").splitlines()):
        question = json.loads(line)["question"]
        prompt = [{"role": "system", "content": "Answer."}, {"role": "user", "content": question}]
        rows.append({"task_id": f"t{number:05d}", "prompt": given.dump(prompt), "prompt_hash": question})
    return given.workspace(rows)


@pytest.mark.parametrize(
    ("settings", "train_rows", "test_rows"),
    [
        ({"rule": "any", "n": 8}, 70, 60),  # open-r1: any shared 8-gram
        ({"rule": "coverage", "n": 8, "threshold": 0.5}, 3, 2),  # open-instruct: more than half of a test text
        ({"rule": "coverage", "n": 8, "threshold": 0.76}, 0, 0),  # the largest coverage is 0.76
        ({"rule": "coverage", "n": 8, "threshold": 0.759}, 2, 1),
    ],
)
def test_decontamination(train: Any, settings: dict[str, Any], train_rows: int, test_rows: int) -> None:
    stats = run(train, "decontaminate", files=[str(GSM8K / "test.jsonl")], **settings)
    assert (stats.rows_in, stats.dropped) == (7473, train_rows)
    report = stats.reports[0][0]
    assert (report["texts"], report["found"]) == (1319, test_rows)


def test_near_duplicates_of_the_training_problems(train: Any) -> None:
    """Exact and near duplicates alone meet: each pair in a cluster shares more words than not."""
    stats = run(train, "near_duplicates", keep_all=True)
    assert stats.kept == 7473
    rows = sql.rows(train, "SELECT cluster, list(prompt_hash) FROM selected GROUP BY cluster HAVING count(*) > 1")
    assert 0 < len(rows) < 40
    for _, questions in rows:
        words = [set(question.lower().split()) for question in questions]
        assert all(any(len(a & b) > 0.6 * len(a | b) for b in words if b is not a) for a in words)


# Splits: FORMULAS 2.5, "Reproducibility"


def unit(key: str, seed: int) -> float:
    return float(int(hashlib.md5(f"{key}:{seed}".encode()).hexdigest()[:15], 16) / 16**15)


@pytest.mark.parametrize(("key", "value"), [("a", 0.23923688221559172), ("task-000001", 0.8155699688675246)])
def test_unit(key: str, value: float) -> None:
    con = given.workspace([])
    assert sql.rows(con, f"SELECT unit('{key}', 7)") == [(value,)]
    assert unit(key, 7) == value


def test_split_by_prompt(gsm8k: Any, tmp_path: Path) -> None:
    """Validation is the prompts whose number is below 0.1: 141 prompts, 564 rollouts, none on both sides."""
    select(gsm8k, [], Path())
    validation = "unit(prompt_hash, 7) < 0.1"
    assert sql.rows(gsm8k, f"SELECT count(DISTINCT prompt_hash), count(*) FROM selected WHERE {validation}") == [
        (141, 564)
    ]
    step = StepUse("build", "sft", "build/sft_messages", {"validation": 0.1, "seed": 7, "min_reward": 0.0})
    lineage = build(gsm8k, step, Path(), tmp_path / "sft").output / "lineage.parquet"
    found = sql.rows(
        gsm8k, f"SELECT split, count(*), count(DISTINCT task_id) FROM '{lineage}' GROUP BY split ORDER BY split"
    )
    assert found == [("train", 5276 - 564, 1319 - 141), ("validation", 564, 141)]


def test_split_by_cluster(train: Any, tmp_path: Path) -> None:
    """Without clusters some training problem has its near duplicate in validation, with them none has."""
    steps = [StepUse("filter", "near", "filter/near_duplicates", {"keep_all": True})]
    stats = select(train, steps, Path())
    shared = "SELECT count(*) FROM (SELECT cluster FROM selected JOIN '{}' USING (task_id) GROUP BY cluster HAVING {})"
    for split_by, leaks in (("prompt", True), ("cluster", False)):
        settings = {"validation": 0.5, "seed": 7, "split_by": split_by, "report": False}
        step = StepUse("build", split_by, "build/rl_prompts", settings)
        report = build(train, step, Path(), tmp_path / split_by, stats)
        query = shared.format(report.output / "lineage.parquet", "count(DISTINCT split) > 1")
        assert (sql.rows(train, query)[0][0] > 0) is leaks
